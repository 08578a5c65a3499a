"""The built-in extractor: what it measures, by hand, and that it is finite whatever comes."""

import numpy as np
import pytest

from uacs.data.extract import BASIC, EXTRACTORS
from uacs.data.media import Footage

EXTRACTOR = EXTRACTORS[BASIC]


def footage(frames=None, waveform=None):
    return Footage(frames, np.arange(0 if frames is None else len(frames)) / 6.0, waveform, 16000)


def test_loudness_is_the_log_energy_of_each_twentieth_of_a_second():
    waveform = np.concatenate([np.full(800, 0.5), np.full(800, 0.1), np.zeros(800)]).astype(np.float32)
    audio, vision = EXTRACTOR.extract(footage(waveform=waveform))
    assert audio.shape == (3, 1) and audio.dtype == np.float32
    assert audio[:, 0] == pytest.approx(np.log(np.array([0.25, 0.01, 0.0]) + 1e-6), abs=1e-4)
    assert vision is None


def test_brightness_and_movement_are_measured_per_frame():
    frames = np.zeros((3, 10, 20, 3), np.uint8)
    frames[0, 2, 4] = frames[1, 7, 4] = frames[2, 7, 14] = 255
    audio, vision = EXTRACTOR.extract(footage(frames))
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
    for features, size in zip(EXTRACTOR.extract(clip), (EXTRACTOR.audio_size, EXTRACTOR.vision_size), strict=True):
        if features is not None:
            assert features.shape[1] == size and len(features) > 0
            assert np.isfinite(features).all()
