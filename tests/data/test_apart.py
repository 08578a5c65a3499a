"""Clips in a process of their own: the same features, and an end to those that would take all time or memory."""

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.cluster.chaos import wait_until
from tests.data.test_media import GREYS, tone, write
from uacs.data.apart import Apart, Broken
from uacs.data.clips import ClipPool
from uacs.data.extract import BASIC, Found, Wanted, extractor
from uacs.data.media import Limits, decode
from uacs.errors import BadInput
from uacs.records import Sample

BOTH = Wanted({"audio": BASIC, "vision": BASIC})


@pytest.fixture
def apart():
    found = Apart(Limits())
    yield found
    found.close()


@pytest.fixture
def clip(tmp_path):
    return str(write(tmp_path / "good.mp4", GREYS, tone(1.0, 16000)))


def peak(pid) -> int:
    """Most bytes that a process ever held."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def process(apart) -> psutil.Process:
    return psutil.Process(apart._process.pid)


def slow(path, scans):
    """A grey picture that is drawn so many times: of 16 bytes each, in one call into FFmpeg."""
    file = io.BytesIO()
    Image.new("L", (2048, 2048), 128).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    again = content.rindex(b"\xff\xda")
    path.write_bytes(content[:-2] + content[again:-2] * scans + content[-2:])
    return str(path)


def greedy(path, pictures):
    """A song with so many pictures of 28 MiB in its head, packed into little."""
    picture = b"\0image/jpeg\0\3\0" + bytes(28 * 2**20)
    packed = len(picture).to_bytes(4, "big") + zlib.compress(picture)
    frame = b"APIC" + sevens(len(packed)) + b"\0\x09" + packed
    head = b"ID3\4\0\0" + sevens(len(frame) * pictures)
    path.write_bytes(head + frame * pictures + (b"\xff\xfb\x90\x64" + bytes(413)) * 40)
    return str(path)


def sevens(size):
    """A number as ID3 writes it, seven bits a byte."""
    return bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))


def test_features_are_those_of_this_process(apart, clip):
    there = apart.find(clip, BOTH).features
    here = extractor(BASIC).extract(decode(clip))
    for modality, wanted in here.items():
        np.testing.assert_array_equal(there[modality], wanted)
        assert there[modality].dtype == np.float32
    assert apart.find(clip, Wanted()) == Found({}, None)
    np.testing.assert_array_equal(apart.find(Path(clip).as_uri(), BOTH).features["vision"], there["vision"])


def test_a_modality_that_is_missing_is_none(apart, tmp_path):
    silent = str(write(tmp_path / "silent.mp4", GREYS))
    found = apart.find(silent, BOTH).features
    assert found["audio"] is None and found["vision"].shape == (len(GREYS), 3)


def test_what_is_wrong_with_a_clip_is_said_as_in_this_process(apart, tmp_path, clip):
    (tmp_path / "none.mp4").write_bytes(b"not a clip\n")
    for bad in (str(tmp_path / "none.mp4"), "nowhere.mp4", "two\nlines.mp4"):
        with pytest.raises(BadInput) as there:
            apart.find(bad, BOTH)
        with pytest.raises(BadInput) as here:
            decode(bad, limits=apart.limits)
        assert str(there.value) == str(here.value)
    first = process(apart).pid
    assert apart.find(clip, BOTH).features["audio"] is not None and process(apart).pid == first


def test_a_call_into_ffmpeg_that_goes_on_and_on_is_ended_and_the_next_clip_is_well(apart, tmp_path, clip):
    long = slow(tmp_path / "slow.jpg", 100_000)
    apart.find(clip, BOTH)  # the process is there
    started = time.monotonic()
    with pytest.raises(BadInput, match="takes over 1 s to decode; give a shorter"):
        apart.find(long, BOTH, clock=1)
    assert time.monotonic() - started < 5
    assert apart.find(clip, BOTH).features["audio"] is not None


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux alone")
def test_the_process_takes_no_more_memory_than_it_may(tmp_path, clip):
    bounded = Apart(Limits(bytes=2**20))
    try:
        bounded.find(clip, BOTH)
        first, before = process(bounded).pid, process(bounded).memory_info().rss
        song = greedy(tmp_path / "greedy.mp3", 40)
        with suppress(BadInput):  # FFmpeg may do without the pictures
            bounded.find(song, BOTH)
        gone = bounded._process is None or bounded._process.poll() is not None
        assert gone or peak(first) < before + 2**28 + 2 * 2**20
        assert bounded.find(clip, BOTH).features["audio"] is not None
    finally:
        bounded.close()


def test_a_process_that_dies_over_a_clip_costs_that_clip(apart, tmp_path, clip):
    apart.find(clip, BOTH)
    long = slow(tmp_path / "slow.jpg", 100_000)
    done = threading.Event()

    def kill():
        while not done.wait(0.5):
            with suppress(psutil.Error, AttributeError):
                process(apart).kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(BadInput, match=r"slow.jpg: the decoder ended over it \(-9\), .*; give a whole MP4"):
        apart.find(long, BOTH)
    done.set()
    killer.join()
    assert apart.find(clip, BOTH).features["audio"] is not None


def test_what_is_no_fault_of_the_clip_is_told_from_what_is(apart, clip, monkeypatch):
    with pytest.raises(Broken, match="^extractor 'another program's' is none of basic"):
        apart.find(clip, Wanted({"audio": "another program's"}))
    assert apart.find(clip, BOTH).features["audio"] is not None
    apart.close()
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    with pytest.raises(Broken, match="does not start"):
        apart.find(clip, BOTH)


def test_an_answer_that_is_not_read_is_not_the_next_clip_s(apart, clip, monkeypatch):
    wanted = apart.find(clip, BOTH).features["vision"]
    with monkeypatch.context() as patched:
        patched.setattr("numpy.empty", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            apart.find(clip, BOTH)
    np.testing.assert_array_equal(apart.find(clip, BOTH).features["vision"], wanted)


def test_it_knows_no_secret_of_ray(apart, clip, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    apart.find(clip, Wanted())
    assert "RAY_AUTH_TOKEN" not in process(apart).environ()


def test_a_process_that_died_in_between_costs_nothing(apart, clip):
    apart.find(clip, BOTH)
    gone = process(apart)
    gone.kill()
    wait_until(lambda: gone.status() == psutil.STATUS_ZOMBIE)
    assert apart.find(clip, BOTH).features["audio"] is not None


@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_with_whoever_began_it(clip, tmp_path, busy):
    long = slow(tmp_path / "slow.jpg", 100_000)
    code = f"""
from uacs.data.apart import Apart
from uacs.data.extract import Wanted
from uacs.data.media import Limits
apart = Apart(Limits(clock=2))
apart.find({clip!r}, Wanted())
print(apart._process.pid, flush=True)
apart.find({long!r}, Wanted()) if {busy} else input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        wait_until(lambda: child.status() == (psutil.STATUS_RUNNING if busy else psutil.STATUS_SLEEPING))
        os.kill(parent.pid, signal.SIGKILL)
        child.wait(30)  # raises if it has not ended


def test_several_at_once_keep_the_order_and_end_at_once_when_something_goes_wrong(tmp_path, clip):
    samples = [Sample(str(i), clip=clip if i % 3 else None) for i in range(40)]
    with ClipPool(Limits(), 2) as pool:
        looked = pool.look_at(samples, BOTH)
        assert [s.sample_id for s in looked] == [s.sample_id for s in samples]
        assert all((s.vision is not None) == (s.clip is not None) for s in looked)
    long = slow(tmp_path / "slow.jpg", 100_000)
    started = []

    def interrupted():
        with ClipPool(Limits(clock=60), 2) as pool:
            pool.look_at([Sample("a", clip=clip)], BOTH)
            started.append(time.monotonic())
            waiting = threading.Thread(target=lambda: pool.look_at([Sample("b", clip=long)], BOTH))
            waiting.start()
            wait_until(lambda: any(p.cpu_times().user > 1.5 for p in psutil.Process().children()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - started[0] < 20
