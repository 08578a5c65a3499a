"""Feature files: shapes, lengths, and refusal by sample."""

import numpy as np
import pytest

from uacs.data.features import read_features
from uacs.errors import BadInput


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_one_vector_a_sample_is_a_sequence_of_one_step(tmp_path):
    file = read_features(save(tmp_path / "opensmile.npz", ids=["a", "b"], audio=np.ones((2, 5))), "audio")
    assert file.size == 5
    assert file.extractor == "opensmile"
    assert file.by_id["b"].shape == (1, 5)
    assert file.by_id["b"].dtype == np.float32


def test_sequences_end_at_their_length_and_the_file_names_its_extractor(tmp_path):
    path = save(tmp_path / "x.npz", ids=["a"], vision=np.ones((1, 6, 2)), vision_lengths=[4], extractor="openface-2.2")
    file = read_features(path, "vision")
    assert file.by_id["a"].shape == (4, 2)
    assert file.extractor == "openface-2.2"


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (dict(ids=["a"], vision=np.ones((1, 2))), "no array audio; it has ids, vision"),
        (dict(ids=["a"], audio=np.array([[1.0, np.nan]])), "sample 'a': 1 of 2 numbers of audio are NaN"),
        (dict(ids=["a", "a"], audio=np.ones((2, 2))), "sample 'a': stands there twice"),
        (dict(ids=["a"], audio=np.ones((2, 2))), "audio is float64 (2, 2)"),
        (dict(ids=["a"], audio=np.ones((1, 3, 2)), audio_lengths=[0]), "sample 'a': audio has 0 steps"),
        (dict(ids=["a"], audio=np.ones((1, 3, 2)), audio_lengths=[4]), "audio has a length of 4, of 3 steps"),
        (dict(ids=["a"], audio=np.ones((1, 3, 2)), audio_lengths=[1, 2]), "audio_lengths is int64 (2,)"),
        (dict(ids=["a"], audio=np.array([["x"]])), "expected numbers"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, arrays, said):
    with pytest.raises(BadInput) as error:
        read_features(save(tmp_path / "x.npz", **arrays), "audio")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_sample_that_cannot_be_used_is_left_out_and_says_why(tmp_path):
    audio, lengths = np.ones((6, 3, 2)), [3, 0, 3, 3, np.nan, -1]
    audio[2, 1, 0], audio[3, 0, 0] = np.nan, 1e300  # no number in float32
    file = read_features(save(tmp_path / "x.npz", ids=list("abcdef"), audio=audio, audio_lengths=lengths), "audio")
    assert list(file.by_id) == ["a"]
    assert [file.faults[i].removesuffix(f" in {tmp_path / 'x.npz'}") for i in "bcdef"] == [
        "audio has 0 steps",
        "1 of 6 numbers of audio are NaN or infinite",
        "1 of 6 numbers of audio are NaN or infinite",
        "audio has a length of nan, of 3 steps",
        "audio has a length of -1.0, of 3 steps",
    ]


def test_pickled_arrays_and_other_files_are_refused(tmp_path):
    objects = save(tmp_path / "o.npz", ids=["a"], audio=np.array([[{}]], object))
    (tmp_path / "t.npz").write_text("not a zip")
    for path in (objects, tmp_path / "t.npz"):
        with pytest.raises(BadInput, match="not a plain .npz"):
            read_features(path, "audio")
