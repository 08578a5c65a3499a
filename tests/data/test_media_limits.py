"""Strangers' clips: a good one is decoded as ever, and none takes more time or memory than the limits allow."""

import io
import math
import struct
import subprocess
import sys
import time
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.data.test_media import GREYS, tone, write
from uacs.data.media import Limits, decode
from uacs.errors import BadInput


def refusal(path, limits=None, frames=None):
    """The one line that says why a clip is not decoded, without its path."""
    with pytest.raises(BadInput) as error:
        decode(str(path), frames, limits=limits or Limits())
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "; give " in text and "\n" not in text
    return text.removeprefix(f"{path}: ")


# Clips that lie


def jpeg(width, height, claims=None):
    """A grey picture whose header claims other dimensions."""
    file = io.BytesIO()
    Image.new("L", (width, height), 128).save(file, "JPEG")
    content = bytearray(file.getvalue())
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", *reversed(claims or (width, height)))
    return bytes(content)


def box(kind, *content):
    """Of an MP4."""
    return struct.pack(">I4s", 8 + sum(map(len, content)), kind) + b"".join(content)


def table(kind, *rows):
    """A box that says how many rows of numbers it has."""
    return box(kind, bytes(4), struct.pack(">I", len(rows)), *(struct.pack(f">{len(row)}I", *row) for row in rows))


def mp4(path, picture, frames=1, claims=0, step=40, edits=0, tracks=1, coding=b"jpeg"):
    """So many frames, `step` ms each, that are all the same picture; or one that claims to be many.

    Every edit plays the whole of it again. The header says that it lasts a second.
    """
    count = claims or frames
    coding = box(coding, bytes(7), b"\1", bytes(16), struct.pack(">HH", 16, 16), bytes(50))
    samples = box(
        b"stbl",
        box(b"stsd", bytes(7), b"\1", coding),
        table(b"stts", (count, step)),
        table(b"stsc", (1, count // frames, 1)),
        box(b"stsz", struct.pack(">III", 0, 1 if claims else len(picture), count)),
        box(b"stco", struct.pack(">II", 0, frames), struct.pack(">I", 28) * frames),
    )
    media = box(
        b"mdia",
        box(b"mdhd", struct.pack(">6I", 0, 0, 0, 1000, 1000, 0)),
        box(b"hdlr", bytes(8), b"vide", bytes(13)),
        box(b"minf", samples),
    )
    played = box(b"edts", table(b"elst", *[(min(count * step, 2**31), 0, 1 << 16)] * edits)) if edits else b""
    header = box(b"mvhd", struct.pack(">5I", 0, 0, 0, 1000, 1000), bytes(80))
    track = box(b"trak", box(b"tkhd", bytes(84)), played, media)
    path.write_bytes(box(b"ftyp", b"isom", bytes(8)) + box(b"mdat", picture) + box(b"moov", header, track * tracks))
    return path


def matroska(path, codec, packets, size=None, **settings):
    """Packets (content, seconds) as they are, in a file without a length."""
    with av.open(str(path), "w", format="matroska", options={"live": "1"}) as container:
        stream = container.add_stream(codec, **settings)
        if size:
            stream.width, stream.height, stream.pix_fmt = *size, "yuvj420p"
        stream.codec_context.open()
        for content, seconds in packets:
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = round(seconds * 1000)
            packet.is_keyframe = True
            container.mux(packet)
    return path


def pictures(path, *packets):
    """JPEGs (content, seconds), all of the size of the first or not."""
    return matroska(path, "mjpeg", packets, Image.open(io.BytesIO(packets[0][0])).size, rate=25)


def h264(path, width, height, frames=2):
    """Of which FFmpeg decodes some to see what they are."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "51"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame(width, height, "yuv420p")))
        container.mux(stream.encode())
    return path


def silence(codec, container, blocks=8):
    """Some of it, encoded and in that container."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=48000, layout="mono")
        stream.codec_context.open()
        block = av.AudioFrame(stream.codec_context.format.name, "mono", stream.codec_context.frame_size)
        block.planes[0].update(bytes(block.planes[0].buffer_size))
        block.sample_rate = 48000
        for k in range(blocks):
            block.pts = k * block.samples
            output.mux(stream.encode(block))
        output.mux(stream.encode())
    return file.getvalue()


def long_silence(path, codec, seconds):
    """One packet of silence, over and over."""
    with av.open(io.BytesIO(silence(codec, "matroska"))) as container:
        packet = list(container.demux(audio=0))[4]
        content, each = bytes(packet), float(packet.duration * packet.time_base)
    return matroska(
        path, codec, [(content, k * each) for k in range(math.ceil(seconds / each))], rate=48000, layout="mono"
    )


def wav(path, samples, hertz):
    form = struct.pack("<HHIIHH", 1, 1, hertz, hertz, 1, 8)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", samples) + bytes([128]) * samples
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    return path


def gif(path, width, height, frames=1):
    """Grey frames of 16 x 16 on a screen that claims to be as large as that."""
    file = io.BytesIO()
    Image.new("L", (16, 16), 128).save(file, "GIF")
    content = file.getvalue()
    start = content.index(b",")
    path.write_bytes(
        content[:6] + struct.pack("<HH", width, height) + content[10:start] + content[start:-1] * frames + b";"
    )
    return path


def png(path, width, height, texts=0):
    """A black picture of one bit a pixel, with so many texts of 64 MiB beside it."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height, 1)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    letters = zlib.compress(bytes(2**26), 1) if texts else b""
    words = b"".join(chunk(b"zTXt", b"%d\0\0" % k + letters) for k in range(texts))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + words + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


GREY = jpeg(16, 16)
HUGE = jpeg(16, 16, claims=(16384, 16384))


# What is within the limits


@pytest.mark.parametrize("frames", [None, 4, 16])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.wav", "a.gif", "a.jpg"])
def test_a_good_clip_is_decoded_as_without_limits(tmp_path, name, frames):
    path = tmp_path / name
    if name == "a.wav":
        wav(path, 8000, 8000)
    elif name == "a.gif":
        gif(path, 20, 20, frames=3)
    elif name == "a.jpg":
        path.write_bytes(jpeg(48, 32))
    else:
        write(path, GREYS, tone(440, 16000))
    free, limited = decode(str(path), frames), decode(str(path), frames, limits=Limits())
    assert free.frames is None or np.array_equal(free.frames, limited.frames)
    assert free.waveform is None or np.array_equal(free.waveform, limited.waveform)
    assert (free.frames is None) == (limited.frames is None) and (free.waveform is None) == (limited.waveform is None)
    assert np.array_equal(free.times, limited.times)


def test_a_length_that_is_a_guess_refuses_nothing(tmp_path):
    with av.open(str(tmp_path / "a.aac"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        noise = np.random.default_rng(0).normal(0, 0.3, (1, 16000 * 4)).astype(np.float32)
        noise[:, :32000] = 0
        block = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
        block.sample_rate = 16000
        container.mux([*stream.encode(block), *stream.encode()])
    with av.open(str(tmp_path / "a.aac")) as container:
        assert container.duration > 5e6
    assert 64000 <= len(decode(str(tmp_path / "a.aac"), limits=Limits(seconds=5)).waveform) < 68000


# What is not


@pytest.mark.parametrize("last", [301, 1e9])
def test_footage_is_as_long_as_its_times_say(tmp_path, last):
    path = pictures(tmp_path / "a.mkv", (GREY, 0), (GREY, last))
    assert "lasts over 300 s" in refusal(path)
    assert list(decode(str(path)).times) == [0, last]


def test_footage_whose_header_says_too_long_is_not_decoded(tmp_path):
    content = bytearray(Path(write(tmp_path / "a.mkv", GREYS)).read_bytes())
    length = content.index(b"\x44\x89\x88") + 3
    content[length : length + 8] = struct.pack(">d", 301_000)
    (tmp_path / "0").write_bytes(content)
    assert "lasts over 300 s" in refusal(tmp_path / "0")
    assert len(decode(str(tmp_path / "0")).frames) == len(GREYS)


def test_footage_that_begins_late_is_no_longer_for_that(tmp_path):
    assert len(decode(str(pictures(tmp_path / "a.mkv", (GREY, 9000), (GREY, 9299))), limits=Limits()).frames) == 2


@pytest.mark.parametrize("codec", ["libopus", "flac"])
def test_sound_is_as_long_as_its_samples(tmp_path, codec):
    path = long_silence(tmp_path / "a.mka", codec, seconds=64)
    assert path.stat().st_size < 60_000
    assert "lasts over 60 s" in refusal(path, Limits(seconds=60))
    assert len(decode(str(path), limits=Limits(seconds=70)).waveform) == pytest.approx(64 * 16000, rel=0.01)


def test_a_rate_that_lies_makes_no_hours(tmp_path):
    assert "lasts over 300 s" in refusal(wav(tmp_path / "a.wav", 400_000, 1))
    refusal(wav(tmp_path / "a.wav", 400_000, 2**31 - 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(jpeg(16, 16, claims=(30000, 30000))),
        lambda path: gif(path, 30000, 30000),
        lambda path: png(path, 30000, 30000),
        lambda path: mp4(path, HUGE, frames=9),
        lambda path: pictures(path, (GREY, 0), (HUGE, 1)),
        lambda path: pictures(path, (GREY, 0), (jpeg(4096, 2320), 1)),
    ],
    ids=["jpeg", "gif", "png", "mp4", "midway", "midway, truly"],
)
def test_a_frame_is_not_larger_than_allowed(tmp_path, make):
    make(tmp_path / "0")
    start = time.monotonic()
    assert "9437184 pixels" in refusal(tmp_path / "0")
    assert time.monotonic() - start < 2


def test_too_large_a_frame_is_named(tmp_path):
    path = write(tmp_path / "a.mp4", GREYS)
    assert "has frames of 32 x 48, over 1000 pixels" in refusal(path, Limits(pixels=1000))


def test_the_largest_frame_is_allowed(tmp_path):
    path = pictures(tmp_path / "a.mkv", (jpeg(64, 48), 0), (jpeg(64, 64), 1))
    assert decode(str(path), limits=Limits(pixels=64 * 64)).frames.shape == (2, 48, 64, 3)
    assert f"{64 * 64 - 1} pixels" in refusal(path, Limits(pixels=64 * 64 - 1))


@pytest.mark.parametrize("frames", [None, 120])
def test_no_more_frames_are_held_than_allowed(tmp_path, frames):
    path = mp4(tmp_path / "a.mp4", GREY, frames=150)
    assert "takes over 0.5 MiB" in refusal(path, Limits(bytes=2**19), frames)
    assert len(decode(str(path), frames, limits=Limits(bytes=2**23)).frames) == (frames or 150)


def test_one_frame_may_stand_for_so_many_only(tmp_path):
    (tmp_path / "0").write_bytes(jpeg(640, 480))
    assert "takes over 16 MiB" in refusal(tmp_path / "0", Limits(bytes=2**24), frames=64)
    assert len(decode(str(tmp_path / "0"), 8, limits=Limits(bytes=2**24)).frames) == 8


def test_no_more_sound_is_held_than_allowed(tmp_path):
    path = wav(tmp_path / "a.wav", 8000 * 30, 8000)
    assert "takes over 1 MiB" in refusal(path, Limits(bytes=2**20))
    assert len(decode(str(path), limits=Limits(bytes=2**21)).waveform) == pytest.approx(16000 * 30, abs=64)


def test_frames_and_sound_are_held_together(tmp_path):
    limits, greys, sound = Limits(bytes=2**21), GREYS * 16, tone(440, 16000, seconds=24)
    decode(write(tmp_path / "frames.mp4", greys), limits=limits)
    decode(write(tmp_path / "sound.mp4", waveform=sound), limits=limits)
    assert "takes over 2 MiB" in refusal(write(tmp_path / "both.mp4", greys, sound), limits)


def test_a_packet_of_plain_samples_may_be_large(tmp_path):
    path = matroska(tmp_path / "a.mka", "pcm_s16le", [(bytes(400_000), 0)], rate=48000, layout="mono")
    assert len(decode(str(path), limits=Limits(bytes=2**26)).waveform) == pytest.approx(200_000 / 3, abs=64)


def test_a_packet_of_sound_does_not_swell(tmp_path):
    block = silence("aac", "adts")
    block = block[block.rindex(b"\xff\xf1") :]
    packets = [(block[7:], 0), (block * 10_000, 1)]
    path = matroska(tmp_path / "a.mka", "aac", packets, rate=48000, layout="mono")
    assert "takes over 64 MiB" in refusal(path, Limits(bytes=2**26))
    assert len(decode(str(path)).waveform) > 10_000 * 300


def test_the_clock_stops_what_goes_on_and_on(tmp_path):
    path = mp4(tmp_path / "a.mp4", GREY, frames=10_000, edits=100, step=1)
    start = time.monotonic()
    assert "takes over 0.3 s" in refusal(path, Limits(seconds=math.inf, clock=0.3), frames=1)
    assert time.monotonic() - start < 2


def test_the_clock_runs_while_a_clip_is_opened(tmp_path, monkeypatch):
    class Slow(io.BytesIO):
        def read(self, size=-1):
            time.sleep(0.05)
            return super().read(size)

    content = box(b"free") * 400_000 + mp4(tmp_path / "a.mp4", GREY).read_bytes()
    monkeypatch.setattr("uacs.data.places.open_file", lambda place: Slow(content))
    start = time.monotonic()
    assert "takes over 0.3 s" in refusal("slow://a.mp4", Limits(clock=0.3))
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("tracks", [17, 100])
def test_a_clip_has_few_streams(tmp_path, tracks):
    assert "16 streams" in refusal(mp4(tmp_path / "a.mp4", GREY, tracks=tracks))
    decode(str(mp4(tmp_path / "a.mp4", GREY, tracks=16)), limits=Limits())


@pytest.mark.parametrize("name", ["a.ts", "a.flv", "a.h264", "a.png"])
def test_only_formats_that_keep_to_limits_are_decoded(tmp_path, name):
    png(tmp_path / name, 16, 16) if name == "a.png" else write(tmp_path / name, GREYS)
    assert decode(str(tmp_path / name)).frames is not None
    assert "a whole MP4 or WAV file" in refusal(tmp_path / name)


def test_only_codecs_that_keep_to_limits_are_decoded(tmp_path):
    path = mp4(tmp_path / "a.mp4", png(tmp_path / "a.png", 16, 16).read_bytes(), coding=b"png ")
    assert len(decode(str(path)).frames) == 1
    assert "holds png" in refusal(path)


@pytest.mark.parametrize("frames", [None, 3])
def test_a_clip_that_ends_anywhere_is_decoded_or_refused(tmp_path, frames):
    content = Path(write(tmp_path / "a.mp4", GREYS[:3], tone(440, 8000, 0.2), 8000)).read_bytes()
    refused = 0
    for end in range(0, len(content), 7):
        (tmp_path / "0").write_bytes(content[:end])
        try:
            footage = decode(str(tmp_path / "0"), frames, limits=Limits())
        except BadInput as error:
            refused += "\n" not in str(error)
        else:
            assert footage.frames is not None or footage.waveform is not None
            refused += 1
    assert refused == len(range(0, len(content), 7))


DECODE_ALL = """
import resource, sys
from uacs.data.media import Limits, decode
from uacs.errors import BadInput

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

decode(sys.argv[1], limits=Limits())
before = most()
for path in sys.argv[2:]:
    for frames in (None, 8):
        try:
            decode(path, frames, limits=Limits())
        except BadInput:
            pass
    print(path, most() - before)
"""


def test_no_clip_fills_the_memory(tmp_path):
    large = jpeg(6000, 6000)
    good = mp4(tmp_path / "good.mp4", GREY)
    clips = [
        h264(tmp_path / "first.mkv", 4096, 4096),
        pictures(tmp_path / "second.mkv", (GREY, 0), (large, 1)),
        mp4(tmp_path / "claims.mp4", GREY, claims=80_000_000),
        mp4(tmp_path / "claims31.mp4", GREY, claims=2**31 - 1),
        mp4(tmp_path / "edits.mp4", GREY, claims=100_000, edits=2000),
        mp4(tmp_path / "huge.mp4", HUGE, frames=20),
        gif(tmp_path / "huge.gif", 30000, 30000, frames=9),
        gif(tmp_path / "wide.gif", 60000, 150, frames=4),
        wav(tmp_path / "slow.wav", 1_000_000, 1),
        long_silence(tmp_path / "silent.mka", "libopus", seconds=600),
        png(tmp_path / "texts.png", 16, 16, texts=10),
    ]
    # from a shell: a process begins with the peak of the one that starts it
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", DECODE_ALL, good, *clips]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=Path.cwd()).stdout
    grown = {Path(line.split()[0]).name: float(line.split()[1]) for line in said.splitlines()}
    assert len(grown) == len(clips) and max(grown.values()) < 288, grown
    assert grown["first.mkv"] < 24 and grown["second.mkv"] < 24, "FFmpeg decodes what is too large"
