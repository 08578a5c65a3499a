"""Every beast of the zoo comes to the right footage, or to a line that says what is wrong with it, in no time."""

import time

import numpy as np
import pytest

from tests.data.zoo import ZOO
from uacs.data.apart import Apart
from uacs.data.clips import ClipSettings
from uacs.data.extract import BASIC, Wanted
from uacs.data.media import decode
from uacs.errors import BadInput

WANTED = Wanted({"audio": BASIC, "vision": BASIC}, frames=4)


@pytest.fixture(scope="module")
def apart():
    decoder = Apart(ClipSettings().limits)
    decoder.start()
    yield decoder
    decoder.close()


@pytest.mark.parametrize("name", ZOO)
def test_a_beast_is_looked_at_or_said_to_be_none(name, apart, tmp_path):
    beast, path = ZOO[name], tmp_path / name
    beast.make(path)
    began = time.monotonic()
    if beast.fault:
        with pytest.raises(BadInput) as error:
            apart.find(str(path), WANTED)
        assert beast.fault in str(error.value) and str(error.value).startswith(f"{path}: ") and "; " in str(error.value)
    else:
        as_it_is(beast, apart.find(str(path), WANTED), 0.0 if name == "silence.wav" else 0.3)
    assert time.monotonic() - began < 10


def as_it_is(beast, found, loud):
    """Check what was found of a beast whose sound is so loud."""
    film, features = found.footage, found.features
    if beast.frames == 0:
        assert film.frames is None and features["vision"] is None
    else:
        assert film.frames.shape == (4, *beast.size, 3)
        assert len(features["vision"]) == beast.frames or (beast.frames is None and 0 < len(features["vision"]) <= 10)
        lightest, darkest = film.frames[-1].mean(), film.frames[0].mean()
        assert lightest > darkest + 60 or beast.frames == 1  # ten greys, each 20 lighter than the one before
    if beast.sound is None:
        assert film.waveform is None and features["audio"] is None
    else:
        assert len(film.waveform) / 16000 == pytest.approx(beast.sound, abs=0.15)
        assert np.abs(film.waveform).max() == pytest.approx(loud, abs=0.15)


def test_a_turned_clip_is_upright(tmp_path):
    for name in ("h264.mov", "turned.mp4"):
        ZOO[name].make(tmp_path / name)
    still, turned = (decode(str(tmp_path / name)).frames for name in ("h264.mov", "turned.mp4"))
    np.testing.assert_array_equal(np.rot90(still, -1, axes=(1, 2)), turned)


def test_frames_of_uneven_times_keep_them(tmp_path):
    ZOO["uneven.mp4"].make(tmp_path / "uneven.mp4")
    times = decode(str(tmp_path / "uneven.mp4")).times
    np.testing.assert_allclose(times, np.array([0, 1, 2, 9, 10, 30, 31, 32, 33, 90]) / 10, atol=1e-6)
