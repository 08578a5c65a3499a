"""Clips as people have them, forty odd ones, made with FFmpeg and by hand."""

import io
import math
import os
import shutil
import struct
import wave
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

os.environ.setdefault("SVT_LOG", "1")  # what encodes AV1 has much to say

RATE, FRAMES, SECONDS = 10, 10, 1.0
WIDTH, HEIGHT = 48, 32


@dataclass(frozen=True)
class Beast:
    """What a file has to come to: so many frames of that size (height, width), and seconds of sound; or the fault.

    frames None is any number, sound None that there is none.
    """

    make: Callable[[Path], object]
    frames: int | None = 0
    size: tuple[int, int] = (HEIGHT, WIDTH)
    sound: float | None = None
    fault: str | None = None


def picture(k: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A grey one that is lighter with each step, and lightest in its upper left."""
    pixels = np.full((height, width, 3), 20 + 20 * k, np.uint8)
    pixels[: height // 2, : width // 2] += 30
    return pixels


def film(
    codec: str,
    pixels: str = "yuv420p",
    sound: str | None = None,
    layout: str = "mono",
    hertz: int = 16000,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    container: str | None = None,
    times: list[int] | None = None,
    frames: int = FRAMES,
    options: dict[str, str] | None = None,
) -> Callable[[Path], None]:
    """A file of pictures, ten a second or at those tenths of a second, and of a tone."""

    def make(path: Path) -> None:
        with av.open(str(path), "w", format=container, options=options or {}) as out:
            stream = out.add_stream(codec, rate=RATE)
            stream.height, stream.width = size
            stream.pix_fmt = pixels
            stream.codec_context.time_base = Fraction(1, RATE)
            heard = out.add_stream(sound, rate=hertz, layout=layout, bit_rate=128_000) if sound else None
            for k in range(frames):
                shown = av.VideoFrame.from_ndarray(picture(min(k, 9), *size[::-1]), format="rgb24")
                shown.pts, shown.time_base = (times or range(frames))[k], Fraction(1, RATE)
                out.mux(stream.encode(shown))
            out.mux(stream.encode())
            if heard:
                _tone(out, heard, layout, hertz)

    return make


def song(codec: str, layout: str = "mono", hertz: int = 16000, container: str | None = None) -> Callable[[Path], None]:
    """A file of a second's tone."""

    def make(path: Path) -> None:
        with av.open(str(path), "w", format=container) as out:
            _tone(out, out.add_stream(codec, rate=hertz, layout=layout), layout, hertz)

    return make


def _tone(out: av.container.OutputContainer, stream: av.AudioStream, layout: str, hertz: int) -> None:
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    wave_ = (0.3 * np.sin(2 * math.pi * 440 * np.arange(round(SECONDS * hertz)) / hertz)).astype(np.float32)
    size = stream.codec_context.frame_size or len(wave_)
    for at in range(0, len(wave_), size):
        part = np.ascontiguousarray(np.tile(wave_[at : at + size], (channels, 1)))
        block = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
        block.sample_rate, block.time_base, block.pts = hertz, Fraction(1, hertz), at
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=hertz)
        for ready in resampler.resample(block):
            out.mux(stream.encode(ready))
    out.mux(stream.encode())


def patched(make: Callable[[Path], object], change: Callable[[bytearray], bytes | bytearray | None]):
    """A file, and then its bytes changed, in place or for others."""

    def made(path: Path) -> None:
        aside = path.with_name(f"aside{path.suffix}")
        make(aside)
        content = bytearray(aside.read_bytes())
        path.write_bytes(change(content) or content)

    return made


def under(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """A file that is called like one of another kind."""

    def made(path: Path) -> None:
        make(path.with_name(name))
        shutil.move(path.with_name(name), path)

    return made


def containing(content: bytes) -> Callable[[Path], object]:
    """A file of just that."""
    return lambda path: path.write_bytes(content)


def turned(content: bytearray) -> None:
    """A quarter to the right, as a phone that was held upright says it."""
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)


def lasting(hours: float) -> Callable[[bytearray], None]:
    """A header that claims so many hours."""

    def change(content: bytearray) -> None:
        at = content.index(b"mvhd") + 16
        (scale,) = struct.unpack(">I", content[at : at + 4])
        content[at + 4 : at + 8] = struct.pack(">I", round(hours * 3600 * scale))

    return change


def large_png(width: int, height: int) -> bytes:
    """A black picture, packed into little."""
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(1 + 3 * width)) for _ in range(height)) + rows.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def subtitles_alone(path: Path) -> None:
    """A Matroska file with words and nothing else."""
    with av.open(str(path), "w") as out, av.open(io.BytesIO(b"1\n00:00:00,000 --> 00:00:01,000\nwords\n")) as words:
        stream = out.add_stream_from_template(words.streams[0])
        for packet in words.demux():
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)


def with_cover(path: Path) -> None:
    """A song with a picture in its head, which is no footage."""
    song("libmp3lame")(path)
    buffer = io.BytesIO()
    av.VideoFrame.from_ndarray(picture(0), format="rgb24").to_image().save(buffer, "PNG")
    body = b"\0image/png\0\3\0" + buffer.getvalue()
    frame = b"APIC" + struct.pack(">I", len(body)) + bytes(2) + body
    size = bytes((len(frame) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\3\0\0" + size + frame + path.read_bytes())


def of_two(path: Path) -> None:
    """Two streams of pictures, the second of other frames."""
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("libx264", rate=RATE) for _ in range(2)]
        for stream, (height, width) in zip(streams, [(HEIGHT, WIDTH), (64, 64)], strict=True):
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for k in range(FRAMES):
            for stream in streams:
                shown = av.VideoFrame.from_ndarray(picture(k, stream.width, stream.height), format="rgb24")
                out.mux(stream.encode(shown))
        for stream in streams:
            out.mux(stream.encode())


def silent(path: Path) -> None:
    """A second of nothing."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes(bytes(32000))


H264 = film("libx264")
FAST = film("libx264", options={"movflags": "faststart"})
TALKING = film("libx264", sound="aac")
LOCK = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "11" * 16}
NO_CLIP = "not a clip that decodes"

ZOO: dict[str, Beast] = {
    "h264.mp4": Beast(TALKING, FRAMES, sound=1),
    "h264.mov": Beast(H264, FRAMES),
    "h264.mkv": Beast(film("libx264", sound="flac"), FRAMES, sound=1),
    "hevc.mp4": Beast(film("libx265", size=(64, 64)), FRAMES, (64, 64)),
    "vp8.webm": Beast(film("libvpx"), FRAMES),
    "vp9.webm": Beast(film("libvpx-vp9", sound="libopus", hertz=48000), FRAMES, sound=1),
    "av1.mp4": Beast(film("libsvtav1", size=(64, 64)), FRAMES, (64, 64)),
    "mpeg4.avi": Beast(film("mpeg4", sound="libmp3lame"), FRAMES, sound=1),
    "mjpeg.avi": Beast(film("mjpeg", "yuvj420p"), FRAMES),
    "raw.avi": Beast(film("rawvideo"), FRAMES),
    "prores.mov": Beast(film("prores", "yuv422p10le"), FRAMES),
    "png.mov": Beast(film("png", "rgb24"), FRAMES),
    "ffv1.mkv": Beast(film("ffv1"), FRAMES),
    "mpeg2.ts": Beast(film("mpeg2video", options={"strict": "unofficial"}), None),
    "sorenson.flv": Beast(film("flv"), FRAMES),
    "windows.wmv": Beast(film("wmv2", sound="wmav2", layout="stereo", hertz=44100), FRAMES, sound=1),
    "phone.3gp": Beast(film("h263", size=(96, 128)), FRAMES, (96, 128)),
    "moving.gif": Beast(film("gif", "rgb8"), FRAMES),
    "still.png": Beast(containing(large_png(33, 47)), 1, (47, 33)),
    "plain.wav": Beast(song("pcm_s16le"), sound=1),
    "surround.wav": Beast(song("pcm_s16le", "5.1", 48000), sound=1),
    "surround.mp4": Beast(film("libx264", sound="ac3", layout="5.1", hertz=48000), FRAMES, sound=1),
    "stereo.mp3": Beast(song("libmp3lame", "stereo", 44100), sound=1),
    "song.m4a": Beast(song("aac"), sound=1),
    "song.flac": Beast(song("flac"), sound=1),
    "song.opus": Beast(song("libopus", hertz=48000), sound=1),
    "cover.mp3": Beast(with_cover, sound=1),
    "silence.wav": Beast(silent, sound=1),
    "turned.mp4": Beast(patched(H264, turned), FRAMES, (WIDTH, HEIGHT)),
    "odd.mp4": Beast(film("libx264", "yuv444p", size=(33, 47)), FRAMES, (33, 47)),
    "narrow.mkv": Beast(film("ffv1", "yuv444p", size=(1, 300)), FRAMES, (1, 300)),
    "once.mp4": Beast(film("libx264", frames=1), 1),
    "uneven.mp4": Beast(film("libx264", times=[0, 1, 2, 9, 10, 30, 31, 32, 33, 90]), FRAMES),
    "no_clock.h264": Beast(H264, FRAMES),
    "two_films.mp4": Beast(of_two, FRAMES),
    "capitals.MP4": Beast(under("b.mp4", H264), FRAMES),
    "text_by_name.txt": Beast(under("b.mp4", H264), FRAMES),
    "song_by_name.mp4": Beast(under("b.wav", song("pcm_s16le")), sound=1),
    "cut_index_first.mp4": Beast(
        patched(film("libx264", options={"movflags": "faststart"}), lambda c: c[:-300]), fault=NO_CLIP
    ),
    "cut.mp4": Beast(patched(H264, lambda content: content[:-900]), fault=NO_CLIP),
    "cut.mkv": Beast(patched(H264, lambda content: content[: len(content) // 2]), fault="holds neither"),
    "locked.mp4": Beast(film("libx264", options=LOCK), fault=NO_CLIP),
    "four_hours.mp4": Beast(patched(H264, lasting(4)), FRAMES),
    "five_hours.mp4": Beast(patched(H264, lasting(5)), FRAMES),
    "huge.png": Beast(containing(large_png(15360, 8640)), fault=NO_CLIP),
    "no_stream.mp4": Beast(containing(b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x08moov"), fault="holds neither"),
    "words.mkv": Beast(subtitles_alone, fault="holds neither frames nor sound"),
    "empty.mp4": Beast(containing(b""), fault=NO_CLIP),
    "noise.mp4": Beast(containing(np.random.default_rng(0).bytes(5000)), fault=NO_CLIP),
    "page.mp4": Beast(containing(b"<!doctype html><title>404</title>"), fault=NO_CLIP),
    "folder.mp4": Beast(os.mkdir, fault=NO_CLIP),
    "nowhere.mp4": Beast(lambda path: None, fault=NO_CLIP),
}
