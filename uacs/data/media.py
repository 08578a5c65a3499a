"""From a clip to arrays: frames that were chosen before they were converted, and one mono waveform.

Models are particular about which frames they see: uniform segment midpoints, counted over the frames
that really decode. So the choice is made on the container's own count, which costs nothing, and made
again where that count proves wrong. Whatever FFmpeg reads is a clip, on a disk or wherever pyarrow
reaches; pictures come out upright. FFmpeg itself opens nothing: to it a name such as `tcp:host:80` is an
address, and so is one within a playlist, whatever that calls itself.

A stranger's clip is decoded within `Limits`. What its header says may end that early, but allows nothing: times,
samples, bytes and the clock are watched on the way. A call into FFmpeg cannot be ended from here, nor can all that it
allocates be bounded: whoever must be sure of either decodes in a process that may be killed.
"""

import ctypes
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from uacs.data import places
from uacs.errors import BadInput, shown
from uacs.records import Footage, Sample

RATE = 16000
"""Hz of all sound, unless another is asked for: speech models hear no other."""
See = Callable[[np.ndarray, float], None]
"""Is shown a picture (H, W, 3) uint8 RGB, and when in the clip it is shown, in seconds."""
OPENS_NOTHING = {"protocol_whitelist": "none"}
"""FFmpeg reads what it is handed and follows no reference in it: no protocol is called none."""
FORMATS = "mp4,webm,avi,wav,mp3,aac,flac,ogg,gif,jpeg_pipe,image2"
"""What a stranger's clip may be: formats whose header names the streams. Of others FFmpeg decodes frames of any size
before it can be told otherwise."""
CODECS = (
    "h264,hevc,av1,libdav1d,vp8,vp9,mpeg1video,mpeg2video,mpeg4,h263,msmpeg4,msmpeg4v2,mjpeg,theora,prores,rawvideo,gif,"
    "aac,mp3,mp3float,mp2,mp2float,opus,libopus,vorbis,flac,alac,ac3,eac3,amrnb,amrwb,"
    "pcm_u8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_alaw,pcm_mulaw"
)
"""How it may be coded. Not as PNG, of which one call unpacks text that swells a thousandfold, nor as APE, of which one
call makes any number of samples."""
GUESSED = {"mp3", "aac"}
"""Formats without a length: FFmpeg guesses it from a bit rate, many times too long where silence comes first."""
SWELLS = 1000
"""Bytes that a byte of compressed sound may become in one call; of silent AAC it becomes 800."""
FRAME, PIECE = 2048, 256
"""Bytes that a frame and a piece of sound take besides their content."""
BLOCK = 2**25
"""Bytes that FFmpeg may allocate in one piece for a stranger's clip, or as much as a frame may take. Nothing else
bounds the index that a header makes up: 20 kB of MP4 had FFmpeg fill 2.8 GB."""


@dataclass(frozen=True)
class Limits:
    """What decoding a stranger's clip may cost.

    seconds   of footage, and of sound
    pixels    of a frame as it is coded, width times height
    bytes     of frames (RGB) and waveform
    clock     seconds for all of it
    streams   of any kind
    own       any format and coding that FFmpeg knows will do, since the clip is no stranger's

    Decoding with limits also bounds, for the whole process and from then on, what FFmpeg allocates in one piece.
    """

    seconds: float = 300
    pixels: int = 4096 * 2304
    bytes: int = 2**30
    clock: float = 20
    streams: int = 16
    own: bool = False


UNLIMITED = Limits(math.inf, sys.maxsize, sys.maxsize, math.inf, sys.maxsize)


def decode(
    path: str,
    frames: int | None = None,
    sample_rate: int = RATE,
    limits: Limits | None = None,
    see: See | None = None,
) -> Footage:
    """Decode a clip: every frame, or `frames` of them by `midpoints`, and the sound at sample_rate Hz.

    `see` is shown every frame on the way, whichever are kept. Raises `BadInput` naming the path, the reason and the
    mend where there is nothing to decode; with limits, also where there is more than they allow, or another format
    than `FORMATS`, another coding than `CODECS`.
    """
    watch = _Watch(limits)
    try:
        film, sound = _read(path, frames, sample_rate, watch, see)
        if film.mistaken:  # the container's count of its frames was wrong: those wanted are others
            film.chosen.clear()
            film = _read(path, frames, None, watch, None, film.count, sound.held)[0]
        pictures, times = film.kept()
        waveform = sound.waveform()
    except (_Over, av.FFmpegError, OSError, ValueError) as error:  # ValueError: the sound changes its layout midway
        raise BadInput(f"{shown(path, most=500)}: {watch.fault(error)}") from None
    if not film.count and waveform is None:
        raise BadInput(
            f"{shown(path, most=500)}: holds neither frames nor sound; give a clip that shows or says something"
        )
    return Footage(pictures, times, waveform, sample_rate)


def undecodable(fault: str) -> Footage:
    """The footage of a clip that does not decode."""
    return Footage(None, np.empty(0), None, RATE, fault)


def of_sample(sample: Sample, frames: int, sample_rate: int) -> Footage:
    """What has been decoded of a sample's clip, if it is what is wanted, or the clip, decoded here.

    Raises `BadInput`, naming the sample, for a clip that does not decode.
    """
    there, clip = sample.footage, sample.clip
    if there and there.fault:
        raise BadInput(f"sample '{sample.sample_id}': {there.fault}")
    if there and there.sample_rate == sample_rate and (there.frames is None or len(there.frames) == frames):
        return there
    if not isinstance(clip, str | Path):
        raise BadInput(
            f"sample '{sample.sample_id}': clip is of type {type(clip).__name__}; give a path or URI, or None"
        )
    try:
        return decode(str(clip), frames, sample_rate)
    except BadInput as error:
        raise BadInput(f"sample '{sample.sample_id}': {error}") from None


def midpoints(decoded: int, wanted: int) -> list[int]:
    """Which of `decoded` frames stand for `wanted` equal segments; frames repeat where there are too few.

    >>> midpoints(12, 2)
    [3, 8]
    """
    segment = (decoded - 1) / wanted
    return [round(segment * (i + 0.5) + 1e-6) for i in range(wanted)]


class _Over(Exception):
    """A clip is over a limit; the text is fault and mend."""


class _Watch:
    """One decode's limits: each method raises `_Over` for what is over one. Without limits nothing is."""

    def __init__(self, limits: Limits | None):
        self.limited, self.limits = limits is not None, limits or UNLIMITED
        self.until = time.monotonic() + self.limits.clock
        self.held = 0.0
        self.options, self.decoding = OPENS_NOTHING, {}  # of a container and what is probed of it; of a decoder
        if limits:
            self.decoding = {"max_pixels": str(limits.pixels)}
            kinds = {} if limits.own else {"format_whitelist": FORMATS, "codec_whitelist": CODECS}
            self.options = OPENS_NOTHING | self.decoding | kinds | {"max_streams": str(limits.streams + 1)}
            _cap(max(BLOCK, 4 * limits.pixels))

    def fault(self, error: Exception) -> str:
        """What is wrong with a clip, and the mend."""
        if self.late():  # so the file ended early, and what FFmpeg says of it is no matter
            error = self.out_of_time()
        if isinstance(error, _Over):
            return str(error)
        reason = shown(getattr(error, "strerror", None) or str(error), most=200)
        most = f", of at most {self.limits.pixels} pixels and {self.limits.streams} streams" if self.limited else ""
        return f"not a clip that decodes ({reason}); give a whole MP4 or WAV file{most}"

    def opened(self, container: av.container.InputContainer) -> None:
        """What a header claims, and no guess."""
        self.clock()
        if len(container.streams) > self.limits.streams:
            raise _Over(f"holds over {self.limits.streams} streams; give a clip with one of pictures and one of sound")
        if container.duration and container.format.name not in GUESSED:
            self.seconds(container.duration / av.time_base)

    def decoder(self, stream: av.VideoStream | av.AudioStream) -> None:
        """What decodes a stream: one of those allowed, and held to the pixels by FFmpeg itself."""
        context = stream.codec_context
        if self.limited and context:
            if not self.limits.own and context.name not in CODECS.split(","):
                raise _Over(f"holds {context.name}, which is not decoded here; give a whole MP4 or WAV file")
            context.options = self.decoding
            if stream.type == "video":
                self.pixels(context.width, context.height)

    def packet(self, packet: av.Packet) -> None:
        """One of compressed sound may hold many blocks, and all of them come in one call."""
        context = packet.stream.codec_context
        if context and context.type == "audio" and not context.name.startswith("pcm"):
            self.bytes(packet.size * SWELLS)

    def late(self) -> bool:
        return time.monotonic() > self.until

    def out_of_time(self) -> _Over:
        return _Over(f"takes over {self.limits.clock:g} s to decode; give a shorter or smaller clip")

    def clock(self) -> None:
        if self.late():
            raise self.out_of_time()

    def seconds(self, seconds: float) -> None:
        if seconds > self.limits.seconds:
            raise _Over(f"lasts over {self.limits.seconds:g} s; give a shorter clip")

    def pixels(self, width: int, height: int) -> None:
        if width * height > self.limits.pixels:
            raise _Over(f"has frames of {width} x {height}, over {self.limits.pixels} pixels; give smaller ones")

    def hold(self, more: float) -> None:
        """Bytes that are kept besides those that are."""
        self.held += more
        self.bytes(self.held)

    def bytes(self, held: float) -> None:
        if held > self.limits.bytes:
            raise _Over(f"takes over {self.limits.bytes / 2**20:g} MiB decoded; give a shorter or smaller clip")


class _Timed:
    """A file that ends when the time is up: whatever FFmpeg is at, sooner or later it reads."""

    def __init__(self, file: IO[bytes], watch: _Watch):
        self.file, self.watch = file, watch

    def read(self, size: int) -> bytes:
        return b"" if self.watch.late() else self.file.read(size)

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def _cap(most: int) -> None:
    """Let FFmpeg allocate at most so many bytes in one piece; PyAV has no word for it, its libraries do."""
    ctypes.CDLL(av.frame.__file__).av_max_alloc(ctypes.c_size_t(most))


@contextmanager
def _opened(path: str, watch: _Watch) -> Iterator[av.container.InputContainer]:
    opened = places.open_file(path) if places.is_uri(path) else open(path, "rb")
    with opened as file:
        timed = _Timed(file, watch) if watch.limited else file
        with av.open(timed, metadata_errors="replace", options=watch.options) as container:
            watch.opened(container)
            yield container


def _read(
    path: str,
    wanted: int | None,
    sample_rate: int | None,
    watch: _Watch,
    see: See | None,
    count: int | None = None,
    held: float = 0,
) -> "tuple[_Film, _Sound]":
    """A clip's pictures and its sound, read once from front to end; no sound without a sample rate.

    `count` is how many frames there are, where the container's word is known to be wrong; `held` are bytes that are
    kept already.
    """
    watch.held = held
    with _opened(path, watch) as container:
        stream = _video_stream(container)
        tracks = container.streams.audio[:1] if sample_rate else []
        film = _Film(stream, wanted, count, watch, see)
        sound = _Sound(sample_rate or RATE, watch)
        for stream_of, frame in _decoded(container, [*([stream] if stream else []), *tracks], watch):
            (film if stream_of is stream else sound).take(frame)
        sound.end()
    return film, sound


class _Film:
    """The pictures of a clip, of which those that are wanted are kept, and all are shown to `see`."""

    def __init__(
        self, stream: av.VideoStream | None, wanted: int | None, count: int | None, watch: _Watch, see: See | None
    ):
        self.wanted, self.watch, self.see = wanted, watch, see
        self.rate = (stream and stream.average_rate) or Fraction(25)
        self.expected = count if count is not None else stream.frames if stream else 0
        self.positions = set(midpoints(self.expected, wanted)) if wanted and self.expected else set[int]()
        self.chosen: dict[int, tuple[np.ndarray, float]] = {}
        self.count = 0
        self.start: float | None = None
        self.size: tuple[int, int] | None = None
        self.reformatter = VideoReformatter()

    @property
    def mistaken(self) -> bool:
        """Whether frames were chosen by a count that was wrong."""
        return bool(self.wanted) and self.count != self.expected

    def take(self, frame: av.VideoFrame) -> None:
        position, self.count = self.count, self.count + 1
        seconds = _seconds(frame, position, self.rate)
        self.start = seconds if self.start is None else self.start
        self.watch.seconds(abs(seconds - self.start))
        self.watch.pixels(frame.width, frame.height)
        self.size = self.size or (frame.width, frame.height)  # a stream may change its size; an array cannot
        keep = self.wanted is None or position in self.positions
        if keep:
            self.watch.hold(_rgb_bytes(*self.size))
        if keep or self.see:
            picture = self._upright(frame, *self.size)
            if keep:
                self.chosen[position] = picture, seconds
            if self.see:
                self.see(picture, seconds)

    def _upright(self, frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
        """RGB (H, W, 3), turned as a phone's clip asks to be turned.

        One reformatter and one thread, as with decoding: by itself a frame gets threads of its own, each time.
        """
        picture = self.reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        return np.rot90(picture, round(frame.rotation / 90))

    def kept(self) -> tuple[np.ndarray | None, np.ndarray]:
        """The wanted frames and their times; None and no times where there are none."""
        if not self.count or self.wanted == 0:
            return None, np.empty(0)
        order = list(range(self.count)) if self.wanted is None else midpoints(self.count, self.wanted)
        shape = self.chosen[order[0]][0].shape
        self.watch.bytes(len(order) * math.prod(shape))  # a frame may stand for several
        frames, times = np.empty((len(order), *shape), np.uint8), np.array([self.chosen[i][1] for i in order])
        for k, i in enumerate(order):
            frames[k] = self.chosen[i][0]
            if i not in order[k + 1 : k + 2]:
                del self.chosen[i]  # so that hardly more than one of them is held twice
        return frames, times


class _Sound:
    """The sound of a clip, as mono float32."""

    def __init__(self, sample_rate: int, watch: _Watch):
        self.sample_rate, self.watch, self.seconds, self.held = sample_rate, watch, 0.0, 0.0
        self.resampler: av.AudioResampler | None = None
        self.blocks: list[np.ndarray] = []

    def take(self, frame: av.AudioFrame) -> None:
        more = frame.samples / (frame.sample_rate or 1)
        self.seconds += more
        self.watch.seconds(self.seconds)
        self.watch.hold(more * self.sample_rate * 4 + PIECE)
        self.held += more * self.sample_rate * 4 + PIECE
        if self.resampler is None:
            # of more than two channels FFmpeg adds up floats, which may come to more than 1; integers it keeps within
            format = "s32" if frame.layout.nb_channels > 2 else "flt"
            self.resampler = av.AudioResampler(format=format, layout="mono", rate=self.sample_rate)
        self._keep(frame)

    def end(self) -> None:
        """Whatever the resampler still holds."""
        if self.resampler:
            self._keep(None)

    def _keep(self, frame: av.AudioFrame | None) -> None:
        assert self.resampler is not None
        for block in self.resampler.resample(frame):
            samples = block.to_ndarray()[0]
            self.blocks.append(samples if samples.dtype == np.float32 else (samples / 2.0**31).astype(np.float32))

    def waveform(self) -> np.ndarray | None:
        """(N,) float32 in [-1, 1]; None without a sample."""
        samples = np.concatenate([*self.blocks, np.empty(0, np.float32)])
        return np.clip(samples, -1, 1) if len(samples) else None


def _rgb_bytes(width: int, height: int) -> int:
    """What a frame takes as FFmpeg lays it out, in steps of 32 pixels."""
    return 3 * (width + -width % 32) * (height + -height % 32) + FRAME


def _seconds(frame: av.VideoFrame, position: int, rate: Fraction) -> float:
    """When the frame is shown; raw streams carry no clock, so there the frame rate is the clock."""
    return float(frame.time if frame.time is not None else position / rate)


def _decoded(
    container: av.container.InputContainer, streams: list[av.VideoStream | av.AudioStream], watch: _Watch
) -> Iterator[tuple[av.VideoStream | av.AudioStream, av.VideoFrame | av.AudioFrame]]:
    """The streams' frames; packets of others are passed over, with a look at the clock."""
    by_index = {stream.index: stream for stream in streams}
    for stream in streams:
        watch.decoder(stream)
    for packet in container.demux():
        watch.clock()
        if stream := by_index.get(packet.stream.index):
            watch.packet(packet)
            for frame in packet.decode():
                yield stream, frame


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
