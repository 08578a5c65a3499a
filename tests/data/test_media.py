"""Decoding: the right frames, the right sound, and one line for what does not decode."""

import os
import shutil
import socket
import sys
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from uacs.data.media import decode, midpoints
from uacs.errors import BadInput

RATE = 10


def write(path, frames=None, waveform=None, sample_rate=16000, layout="mono", rotate=None):
    """A clip of grey frames, one number each, and of a waveform."""
    with av.open(str(path), "w") as container:
        video = sound = None
        if frames is not None:
            video = container.add_stream("libx264", rate=RATE, options={"crf": "1"})
            video.width, video.height, video.pix_fmt = 32, 48, "yuv420p"
        if waveform is not None:
            sound = container.add_stream("aac", rate=sample_rate, layout=layout)
        for grey in frames if video else []:
            picture = np.full((48, 32, 3), grey, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if video:
            container.mux(video.encode())
        if sound:
            channels = 2 if layout == "stereo" else 1
            block = av.AudioFrame.from_ndarray(np.tile(waveform, (channels, 1)), format="fltp", layout=layout)
            block.sample_rate, block.time_base, block.pts = sample_rate, Fraction(1, sample_rate), 0
            container.mux(sound.encode(block))
            container.mux(sound.encode())
    return str(path)


def tone(hertz, sample_rate, seconds=1.0):
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * sample_rate)) / sample_rate)).astype(np.float32)


GREYS = list(range(20, 220, 20))


def test_every_frame_comes_back_in_order_with_its_time(tmp_path):
    footage = decode(write(tmp_path / "a.mp4", GREYS))
    assert footage.frames.shape == (10, 48, 32, 3)
    assert np.allclose(footage.frames.mean(axis=(1, 2, 3)), GREYS, atol=3)
    assert np.allclose(footage.times, np.arange(10) / RATE)
    assert footage.waveform is None


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads that Linux lists")
def test_looking_at_every_frame_starts_no_thread_for_any_of_them(tmp_path):
    path, threads = write(tmp_path / "a.mp4", GREYS), []
    before = len(os.listdir("/proc/self/task"))
    decode(str(path), 1, see=lambda picture, seconds: threads.append(len(os.listdir("/proc/self/task"))))
    assert len(threads) == len(GREYS) and max(threads) <= before


@pytest.mark.parametrize("wanted", [1, 2, 4, 8, 16])
def test_chosen_frames_are_the_midpoints_of_equal_segments(tmp_path, wanted):
    footage = decode(write(tmp_path / "a.mp4", GREYS), frames=wanted)
    expected = [GREYS[round(9 / wanted * (i + 0.5) + 1e-6)] for i in range(wanted)]
    assert np.allclose(footage.frames.mean(axis=(1, 2, 3)), expected, atol=3)


@given(st.integers(1, 500), st.integers(1, 64))
def test_midpoints_are_in_order_and_within_the_clip(decoded, wanted):
    chosen = midpoints(decoded, wanted)
    assert len(chosen) == wanted and chosen == sorted(chosen)
    assert chosen[0] >= 0 and chosen[-1] < decoded


@pytest.mark.parametrize(("sample_rate", "layout"), [(16000, "mono"), (44100, "stereo")])
def test_sound_is_mono_at_the_wanted_rate_with_its_pitch(tmp_path, sample_rate, layout):
    footage = decode(write(tmp_path / "a.mp4", GREYS, tone(440, sample_rate), sample_rate, layout), sample_rate=16000)
    assert footage.waveform.ndim == 1 and footage.waveform.dtype == np.float32
    assert abs(len(footage.waveform) - 16000) < 2200  # AAC pads to blocks of 1,024
    spectrum = np.abs(np.fft.rfft(footage.waveform[2000:14000]))
    assert np.argmax(spectrum) * 16000 / 12000 == pytest.approx(440, abs=3)
    assert np.abs(footage.waveform).max() <= 1


def test_a_clip_of_sound_alone_has_no_frames(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((tone(200, 8000) * 2**15).astype("<i2").tobytes())
    footage = decode(str(tmp_path / "a.wav"))
    assert footage.frames is None and len(footage.times) == 0
    assert len(footage.waveform) == pytest.approx(16000, abs=64)


def test_what_does_not_decode_is_one_line_with_path_and_mend(tmp_path):
    whole = (tmp_path / "whole.mp4", write(tmp_path / "whole.mp4", GREYS))[0]
    (tmp_path / "text.mp4").write_text("not a clip")
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:300])
    (tmp_path / "empty.mp4").touch()
    for name in ("text.mp4", "cut.mp4", "empty.mp4", "gone.mp4"):
        with pytest.raises(BadInput) as error:
            decode(str(tmp_path / name))
        assert str(error.value).startswith(f"{tmp_path / name}: ")
        assert "give a" in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def listener():
    """A listening socket, and at the end nobody has connected to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    "name", ["tcp:127.0.0.1:{port}", "http:127.0.0.1:{port}", "http://127.0.0.1:{port}/a.mp4", "concat:a.wav|a.wav"]
)
def test_the_name_of_a_clip_is_never_an_address(tmp_path, monkeypatch, listener, name):
    write(tmp_path / "a.wav", waveform=tone(200, 16000))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput):
        decode(name.format(port=listener.getsockname()[1]))


def test_a_file_may_be_called_like_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.move(write(tmp_path / "a.mp4", GREYS), "tcp:127.0.0.1:9")
    assert len(decode("tcp:127.0.0.1:9").frames) == len(GREYS)


PLAYLIST = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n"
SCRIPT = "ffconcat version 1.0\nfile {target}\n"
SESSION = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)


@pytest.mark.parametrize("ending", ["mp4", "m3u8", "sdp"])
@pytest.mark.parametrize("text", [PLAYLIST, SCRIPT, SESSION])
@pytest.mark.parametrize(
    "target", ["a.mp4", "a.ts", "{folder}/a.mp4", "tcp://127.0.0.1:{port}", "http://127.0.0.1:{port}/a.ts"]
)
def test_a_clip_that_refers_elsewhere_leads_nowhere(tmp_path, monkeypatch, listener, ending, text, target):
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "a.ts"):
        write(tmp_path / name, GREYS)
    target = target.format(folder=tmp_path, port=listener.getsockname()[1])
    (tmp_path / f"x.{ending}").write_text(text.format(target=target))
    for place in (f"x.{ending}", str(tmp_path / f"x.{ending}"), f"file://{tmp_path}/x.{ending}"):
        with pytest.raises(BadInput, match="not a clip that decodes"):
            decode(place)


def test_a_picture_and_a_raw_stream_are_clips_too(tmp_path):
    Image.fromarray(np.full((48, 32, 3), 200, np.uint8)).save(tmp_path / "a.jpg")
    assert decode(str(tmp_path / "a.jpg")).frames.shape == (1, 48, 32, 3)
    assert len(decode(write(tmp_path / "a.h264", GREYS)).frames) == len(GREYS)


def test_a_name_with_control_characters_is_shown_harmlessly(tmp_path):
    with pytest.raises(BadInput) as error:
        decode(str(tmp_path / "a\n\x1b[2J.mp4"))
    assert str(error.value).startswith(f"{tmp_path}/a\\n\\x1b[2J.mp4: not a clip that decodes (No such file")
