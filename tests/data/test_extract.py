"""The built-in extractor: what it measures, by hand, and that it is finite whatever comes."""

import importlib.util

import numpy as np
import pytest

from uacs.data.extract import BASIC, Wanted, extractor, find, specs_of
from uacs.errors import BadInput, WrongUse
from uacs.records import Footage

EXTRACTOR = extractor(BASIC)


def footage(frames=None, waveform=None):
    return Footage(frames, np.arange(0 if frames is None else len(frames)) / 6.0, waveform, 16000)


def test_loudness_is_the_log_energy_of_each_twentieth_of_a_second():
    waveform = np.concatenate([np.full(800, 0.5), np.full(800, 0.1), np.zeros(800)]).astype(np.float32)
    audio, vision = EXTRACTOR.extract(footage(waveform=waveform)).values()
    assert audio.shape == (3, 1) and audio.dtype == np.float32
    assert audio[:, 0] == pytest.approx(np.log(np.array([0.25, 0.01, 0.0]) + 1e-6), abs=1e-4)
    assert vision is None


def test_brightness_and_movement_are_measured_per_frame():
    frames = np.zeros((3, 10, 20, 3), np.uint8)
    frames[0, 2, 4] = frames[1, 7, 4] = frames[2, 7, 14] = 255
    audio, vision = EXTRACTOR.extract(footage(frames)).values()
    assert audio is None
    assert vision[:, 0] == pytest.approx([1 / 200] * 3)
    assert vision[:, 1] == pytest.approx([0, 0.5, 0], abs=1e-6)  # five of ten rows down
    assert vision[:, 2] == pytest.approx([0, 0, 0.5], abs=1e-6)  # ten of twenty columns to the right


@pytest.mark.parametrize(
    "clip",
    [
        footage(np.zeros((2, 8, 8, 3), np.uint8)),
        footage(np.full((1, 8, 8, 3), 255, np.uint8)),
        footage(waveform=np.zeros(1600, np.float32)),
        footage(waveform=np.ones(1, np.float32)),
    ],
)
def test_black_single_silent_and_short_are_all_finite(clip):
    for modality, features in EXTRACTOR.extract(clip).items():
        if features is not None:
            assert features.shape[1] == EXTRACTOR.sizes[modality] and len(features) > 0
            assert np.isfinite(features).all()


def tone(hertz, seconds):
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(16000 * seconds)) / 16000)).astype(np.float32)


def test_an_extractor_is_named_by_what_it_is_and_none_other_is_taken():
    assert extractor(BASIC).name == "uacs-basic-2"
    for wrong in ("Basic", "face", "pose:", "openface", ""):
        with pytest.raises(WrongUse, match="is none of basic, egemaps, compare, face:FILE, pose:FILE"):
            extractor(wrong)
    with pytest.raises(BadInput, match="nowhere.task: cannot be read"):
        extractor("face:nowhere.task")
    assert specs_of({"vision": "uacs-basic-2", "audio": "covarep"}) == {"vision": BASIC}


@pytest.mark.skipif(importlib.util.find_spec("opensmile") is not None, reason="openSMILE is there")
def test_an_extractor_whose_package_is_not_there_says_which():
    with pytest.raises(BadInput, match=r"openSMILE is not installed; pip install 'uacs\[opensmile\]'"):
        extractor("egemaps")


@pytest.mark.parametrize(("spec", "size"), [("egemaps", 25), ("compare", 65)])
def test_opensmile_hears_the_pitch_every_hundredth_of_a_second(spec, size):
    pytest.importorskip("opensmile")
    made = extractor(spec)
    assert made.name == f"opensmile-{spec}-lld-1" and made.sizes == {"audio": size}
    audio = made.extract(footage(waveform=tone(220, 2)))["audio"]
    assert audio.shape[1] == size and abs(len(audio) - 200) < 10 and audio.dtype == np.float32
    if spec == "egemaps":  # F0 in semitones above 27.5 Hz
        assert np.median(audio[:, 10]) == pytest.approx(36, abs=0.2)
    for short in (0, 1, 400, 1599):
        few = made.extract(footage(waveform=np.zeros(short, np.float32)))["audio"]
        assert len(few) > 0 and np.isfinite(few).all()
    assert made.extract(footage(np.zeros((1, 8, 8, 3), np.uint8)))["audio"] is None


def test_each_modality_has_its_own_extractor_and_one_decoding_serves_them_all(tmp_path):
    pytest.importorskip("opensmile")
    from tests.data.test_media import GREYS, write

    clip = write(tmp_path / "a.mp4", GREYS, tone(220, 1))
    found = find(clip, Wanted({"audio": "egemaps", "vision": BASIC}, frames=4))
    assert found.features["audio"].shape[1] == 25 and found.features["vision"].shape == (len(GREYS), 3)
    assert len(found.footage.frames) == 4 and found.footage.waveform is not None
