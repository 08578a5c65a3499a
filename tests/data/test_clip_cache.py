"""A clip is not decoded again while it is the same, and is when it is another."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.data.test_media import GREYS, tone, write
from uacs.data.clips import Clips, ClipSettings
from uacs.data.extract import BASIC, Wanted
from uacs.data.prepare import PrepareSettings, prepare
from uacs.records import Sample

BOTH = Wanted({"audio": BASIC, "vision": BASIC}, frames=2)


@pytest.fixture
def clip(tmp_path):
    return write(tmp_path / "a.mp4", GREYS, tone(440, 16000))


@pytest.fixture
def clips(tmp_path):
    looking = Clips(ClipSettings().limits, (), tmp_path / "cache")
    yield looking
    looking.apart.close()


def looked(clips, clip, wanted=BOTH, **has):
    return clips.look_at([Sample("a", clip=clip, **has)], wanted)[0]


def same(one, other):
    np.testing.assert_array_equal(one.audio, other.audio)
    np.testing.assert_array_equal(one.vision, other.vision)


def test_what_was_decoded_is_found_again_without_footage(clips, clip):
    first, second = looked(clips, clip), looked(clips, clip)
    assert first.footage and second.footage is None
    same(first, second)


def test_another_size_or_time_is_another_clip(clips, clip, tmp_path):
    first = looked(clips, clip)
    os.utime(clip, ns=(1, 1))
    assert looked(clips, clip).footage
    write(Path(clip), GREYS[:4], tone(440, 16000))
    os.utime(clip, ns=(1, 1))
    assert len(looked(clips, clip).vision) == 4 != len(first.vision)


def test_other_features_and_other_places_have_files_of_their_own(clips, clip, tmp_path):
    looked(clips, clip)
    assert looked(clips, clip, Wanted({"vision": BASIC}, 2)).footage
    again = looked(clips, clip, audio=np.ones((2, 1), np.float32))
    assert again.footage is None and again.audio.shape == (2, 1)  # the one for vision alone; its own audio stays
    assert looked(clips, shutil.copy(clip, tmp_path / "b.mp4")).footage


def test_a_broken_file_and_a_folder_that_takes_nothing_cost_a_decoding(clips, clip, tmp_path):
    looked(clips, clip)
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    assert looked(clips, clip).footage
    (tmp_path / "file").write_text("no folder")
    blocked = Clips(ClipSettings().limits, (), tmp_path / "file")
    assert looked(blocked, clip).footage
    blocked.apart.close()


def test_faults_are_not_kept_and_who_is_to_be_heard_is_decoded(clips, clip, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    assert looked(clips, str(tmp_path / "bad.mp4")).footage.fault
    assert not list((tmp_path / "cache").rglob("*.npz"))
    looked(clips, clip)
    heard = Wanted(BOTH.extract, 2, listened=True)
    assert looked(clips, clip, heard).footage.waveform is not None
    assert looked(clips, clip, heard, text="known").footage is None


def test_preparing_again_decodes_nothing(clip, tmp_path, monkeypatch):
    told = PrepareSettings.model_validate({"dataset": "mosi", "decoding": {"cache": str(tmp_path / "cache")}})
    (tmp_path / "clips").mkdir()
    shutil.move(clip, tmp_path / "clips")
    first = prepare(tmp_path / "clips", tmp_path / "one", told)
    monkeypatch.setattr("sys.executable", shutil.which("false"))  # no process could be started any more
    second = prepare(tmp_path / "clips", tmp_path / "two", told)
    same(*(next(data.samples("test")) for data in (first, second)))
