"""From a clip to arrays: frames that were chosen before they were converted, and one mono waveform.

Models are particular about which frames they see: uniform segment midpoints, counted over the frames
that really decode. So the choice is made on the container's own count, which costs nothing, and made
again where that count proves wrong. Whatever FFmpeg reads is a clip, on a disk or wherever pyarrow
reaches; pictures come out upright. FFmpeg itself opens nothing: to it a name such as `tcp:host:80` is an
address, and so is one within a playlist, whatever that calls itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from uacs.data import places
from uacs.errors import BadInput, shown

OPENS_NOTHING = {"protocol_whitelist": "none"}
"""FFmpeg reads what it is handed and follows no reference in it: no protocol is called none."""


@dataclass(frozen=True)
class Footage:
    """A decoded clip.

    frames (T, H, W, 3) uint8 RGB, or None where the clip shows nothing; times (T,) float64, when each
    frame is shown, in seconds; waveform (N,) float32 mono in [-1, 1] at sample_rate Hz, or None where
    the clip has no sound track.
    """

    frames: np.ndarray | None
    times: np.ndarray
    waveform: np.ndarray | None
    sample_rate: int


def decode(path: str, frames: int | None = None, sample_rate: int = 16000) -> Footage:
    """Decode a clip: every frame, or `frames` of them by `midpoints`, and the sound at sample_rate Hz.

    Raises `BadInput` naming the path, the reason and the mend where there is nothing to decode.
    """
    try:
        pictures, times = _pictures(path, frames)
        waveform = _waveform(path, sample_rate)
    except (av.FFmpegError, OSError, ValueError) as error:  # ValueError: the sound changes its layout midway
        reason = shown(getattr(error, "strerror", None) or str(error), most=200)
        raise BadInput(
            f"{shown(path, most=500)}: not a clip that decodes ({reason}); give a whole MP4 or WAV file"
        ) from None
    if pictures is None and waveform is None:
        raise BadInput(
            f"{shown(path, most=500)}: holds neither frames nor sound; give a clip that shows or says something"
        )
    return Footage(pictures, times, waveform, sample_rate)


def midpoints(decoded: int, wanted: int) -> list[int]:
    """Which of `decoded` frames stand for `wanted` equal segments; frames repeat where there are too few.

    >>> midpoints(12, 2)
    [3, 8]
    """
    segment = (decoded - 1) / wanted
    return [round(segment * (i + 0.5) + 1e-6) for i in range(wanted)]


@contextmanager
def _opened(path: str) -> Iterator[av.container.InputContainer]:
    opened = places.open_file(path) if places.is_uri(path) else open(path, "rb")
    with opened as file, av.open(file, metadata_errors="replace", options=OPENS_NOTHING) as container:
        yield container


def _pictures(path: str, wanted: int | None) -> tuple[np.ndarray | None, np.ndarray]:
    """The chosen frames and their times; None and no times without a video stream or a frame in it."""
    with _opened(path) as container:
        stream = _video_stream(container)
        declared = stream.frames if stream else 0
    if stream is None:
        return None, np.empty(0)
    chosen, decoded = _chosen(path, declared, wanted)
    if decoded != declared and wanted is not None:
        chosen, decoded = _chosen(path, decoded, wanted)
    if not decoded:
        return None, np.empty(0)
    order = range(decoded) if wanted is None else midpoints(decoded, wanted)
    return np.stack([chosen[i][0] for i in order]), np.array([chosen[i][1] for i in order])


def _chosen(path: str, expected: int, wanted: int | None) -> tuple[dict[int, tuple[np.ndarray, float]], int]:
    """Frames by position as (RGB, seconds), picked for a stream of `expected` frames; how many there were."""
    positions = None if wanted is None else set(midpoints(expected, wanted)) if expected else set()
    chosen: dict[int, tuple[np.ndarray, float]] = {}
    count = 0
    with _opened(path) as container:
        stream = _video_stream(container)
        size = None
        for position, frame in enumerate(container.decode(stream)):
            count = position + 1
            size = size or (frame.width, frame.height)  # a stream may change its size; an array cannot
            if positions is None or position in positions:
                chosen[position] = _upright(frame, *size), _seconds(frame, position, stream)
    return chosen, count


def _upright(frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """RGB (H, W, 3), turned as a phone's clip asks to be turned."""
    picture = frame.to_ndarray(format="rgb24", width=width, height=height)
    return np.rot90(picture, round(frame.rotation / 90))


def _seconds(frame: av.VideoFrame, position: int, stream: av.VideoStream) -> float:
    """When the frame is shown; raw streams carry no clock, so there the frame rate is the clock."""
    return float(frame.time if frame.time is not None else position / (stream.average_rate or Fraction(25)))


def _waveform(path: str, sample_rate: int) -> np.ndarray | None:
    """The sound as mono float32; None without a sound track or a sample in it."""
    with _opened(path) as container:
        if not container.streams.audio:
            return None
        resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
        blocks = [block.to_ndarray()[0] for block in _resampled(container, resampler)]
    samples = np.concatenate([*blocks, np.empty(0, np.float32)])
    return np.clip(samples, -1, 1) if len(samples) else None


def _resampled(container: av.container.InputContainer, resampler: av.AudioResampler) -> Iterator[av.AudioFrame]:
    for frame in container.decode(audio=0):
        yield from resampler.resample(frame)
    yield from resampler.resample(None)


def _video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first video stream that is footage: a cover picture of a song is not."""
    cover = av.stream.Disposition.attached_pic
    stream = next((s for s in container.streams.video if not s.disposition & cover), None)
    if stream and stream.codec_context is None:
        raise ValueError("its pictures have a codec that FFmpeg lacks")
    if stream:
        stream.codec_context.thread_count = (
            1  # starting threads takes longer than a short clip; processes share the work
        )
    return stream
