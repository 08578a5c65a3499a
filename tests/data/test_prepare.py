"""Preparing: parts, order, joins, clips that do not decode; and reading it all back."""

import json

import numpy as np
import pytest

from tests.conftest import write_raw
from uacs.data import corpus
from uacs.data.extract import BASIC, extractor
from uacs.data.media import decode
from uacs.data.prepare import PrepareSettings, open_dataset, prepare, recognised
from uacs.data.prepared import PreparedDataset
from uacs.errors import BadInput, Refused, WrongUse

MOSEI = PrepareSettings(dataset="mosei")


def test_parts_hold_at_most_256_samples_of_one_split_in_the_files_order(dataset):
    assert [dataset.info.parts[p].rows for p in dataset.parts("test")] == [256, 256, 88]
    assert [s.sample_id for s in dataset.samples("test")][:12:11] == ["test0_0", "test1_1"]
    assert {s.split for s in dataset.samples("valid")} == {"valid"}
    assert dataset.rows("test") == 600


def test_samples_come_back_as_they_were(dataset):
    raw = np.load(dataset.folder.parent / "raw" / "audio.npz")
    first = next(iter(dataset.samples("train")))
    assert first.sample_id == raw["ids"][0]
    assert np.array_equal(first.audio, raw["audio"][0])
    assert first.vision is None and first.clip is None
    assert dataset.info.features["audio"].model_dump() == {"size": 3, "extractor": "audio"}


def test_a_sample_without_features_runs_without_them_and_a_note_says_how_many(tmp_path):
    labels = write_raw(tmp_path, {"train": 3})
    np.savez(tmp_path / "some.npz", ids=["train0_1"], audio=np.ones((1, 2)))
    data = prepare(labels, tmp_path / "data", PrepareSettings(dataset="mosi", audio=tmp_path / "some.npz"))
    assert [s.audio is None for s in data.samples("train")] == [True, False, True]
    assert data.info.notes == [f"2 of 3 samples have no audio in {tmp_path / 'some.npz'}"]


def test_features_of_no_sample_are_refused_with_both_spellings(tmp_path):
    labels = write_raw(tmp_path, {"train": 3})
    np.savez(tmp_path / "x.npz", ids=["train0$_$1"], audio=np.ones((1, 2)))
    with pytest.raises(BadInput, match="it has 'train0\\$_\\$1', the samples have 'train0_0'"):
        prepare(labels, tmp_path / "data", PrepareSettings(dataset="mosi", audio=tmp_path / "x.npz"))


def test_preparing_twice_gives_the_same_bytes_and_never_overwrites(tmp_path):
    labels = write_raw(tmp_path, {"train": 5, "test": 300})
    once, twice = (prepare(labels, tmp_path / name, PrepareSettings(dataset="mosi")) for name in ("a", "b"))
    assert once.info == twice.info
    with pytest.raises(Refused, match="lies there"):
        prepare(labels, tmp_path / "a", PrepareSettings(dataset="mosi"))


def test_sims_has_its_own_range(tmp_path):
    labels = write_raw(tmp_path, {"train": 30})
    with pytest.raises(BadInput, match=r"outside \[-1, 1\] \(23 of 30 cannot be used\); is --dataset right"):
        prepare(labels, tmp_path / "data", PrepareSettings(dataset="sims"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Nine generated clips, of which one is broken and one is gone."""
    folder = tmp_path_factory.mktemp("clips")
    corpus.generate(folder / "raw", 0, {"train": 9}, processes=1)
    videos = sorted((folder / "raw" / "Raw").rglob("*.mp4"))
    videos[2].write_bytes(b"no video")
    videos[3].unlink()
    return prepare(folder / "raw", folder / "data", PrepareSettings(dataset="demo", like="mosei", processes=1))


def test_features_of_clips_are_the_extractors(clips):
    sample = next(iter(clips.samples("train")))
    audio, vision = extractor(BASIC).extract(decode(sample.clip)).values()
    assert np.array_equal(sample.vision, vision)
    assert (sample.audio is None) == (audio is None)
    assert clips.info.features["vision"].model_dump() == {"size": 3, "extractor": "uacs-basic-2"}


def test_a_clip_that_does_not_decode_costs_its_features_alone(clips):
    samples = list(clips.samples("train"))
    broken = samples[2]
    assert len(samples) == 9
    assert broken.audio is None and broken.vision is None and broken.clip is not None
    (note,) = [note for note in clips.info.notes if "text is empty" not in note and "more samples" not in note]
    assert broken.sample_id in note and "kept without audio and vision" in note


def test_clips_move_with_the_dataset(clips, tmp_path):
    moved = tmp_path / "elsewhere"
    clips.folder.parent.rename(moved)
    try:
        sample = next(iter(PreparedDataset(moved / "data").samples("train")))
        assert decode(sample.clip).frames is not None
    finally:
        moved.rename(clips.folder.parent)


def test_the_rules_are_those_of_the_path_or_of_a_name_that_is_given(tmp_path):
    labels = write_raw(tmp_path / "CMU-MOSEI" / "here", {"train": 4})
    data = prepare(labels, tmp_path / "a", PrepareSettings())
    assert (data.info.name, data.info.like, data.info.kind.lambda_) == ("mosei", "mosei", 0.5)
    data = prepare(labels, tmp_path / "b", PrepareSettings(dataset="mine", like="mosi"))
    assert (data.info.name, data.info.like, data.info.kind.lambda_) == ("mine", "mosi", 0.1)
    with pytest.raises(WrongUse, match="which dataset is it"):
        prepare(write_raw(tmp_path / "clips", {"train": 4}), tmp_path / "c", PrepareSettings())


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    labels = write_raw(tmp_path / "mosi", {"train": 4})
    before = {path: path.read_bytes() for path in (tmp_path / "mosi").iterdir()}
    with pytest.raises(Refused, match="not empty; name a new folder"):
        prepare(labels, tmp_path / "mosi", PrepareSettings())
    assert {path: path.read_bytes() for path in (tmp_path / "mosi").iterdir()} == before
    (tmp_path / "data").mkdir()
    assert prepare(labels, tmp_path / "data", PrepareSettings()).rows("train") == 4


def test_what_a_killed_preparation_left_is_no_hindrance(tmp_path):
    labels = write_raw(tmp_path / "mosi", {"train": 4})
    (tmp_path / ".data.partial").mkdir()
    (tmp_path / ".data.partial" / "train-00007.parquet").touch()
    data = prepare(labels, tmp_path / "data", PrepareSettings())
    assert {path.name for path in data.folder.iterdir()} == {"dataset.json", "train-00000.parquet"}
    assert not (tmp_path / ".data.partial").exists()


def test_a_known_dataset_keeps_its_own_rules(tmp_path):
    with pytest.raises(WrongUse, match="mosi has rules of its own"):
        prepare(write_raw(tmp_path / "raw", {"train": 4}), tmp_path / "a", PrepareSettings(dataset="mosi", like="sims"))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/sims_v2_processed.pkl", "simsv2"),
        ("/data/ch-sims-v2_raw/label.csv", "simsv2"),
        ("/data/CH-SIMS v2(s)/label.csv", "simsv2"),
        ("/data/ch-simsv2s.pkl", "simsv2"),
        ("SIMS/Processed/unaligned_39.pkl", "sims"),
        ("s3://bucket/mosei_raw/label.csv", "mosei"),
        ("/home/mosi/mosei.csv", "mosei"),
        ("/data/mosimann/simsalabim.csv", None),
        ("/home/mosi/study/raw/label.csv", None),
    ],
)
def test_a_dataset_is_recognised_by_its_path(path, name):
    assert recognised(path) == name


def test_labels_that_fill_no_more_than_another_range_raise_a_doubt(tmp_path):
    (tmp_path / "t.csv").write_text("id,text,label,split\na,fine,0.8,test\n")
    (note,) = prepare(tmp_path / "t.csv", tmp_path / "data", PrepareSettings(dataset="mosi")).info.notes
    assert "every label lies within [-1, 1]" in note


def test_a_raw_folder_is_prepared_on_the_way(tmp_path):
    write_raw(tmp_path / "raw", {"train": 4})
    for _ in range(2):
        data = open_dataset(tmp_path / "raw", tmp_path / "out", MOSEI)
        assert (data.rows("train"), data.info.name) == (4, "mosei")
    assert open_dataset(data.folder, tmp_path / "other").info.name == "mosei"
    with pytest.raises(BadInput, match="neither dataset.json"):
        open_dataset(tmp_path / "raw" / "..", tmp_path / "other", MOSEI)


def test_nothing_of_a_users_is_removed_on_the_way(tmp_path):
    write_raw(tmp_path / "data", {"train": 4})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput, match="nothing there"):
        open_dataset(tmp_path / "dat", tmp_path, MOSEI)
    assert sorted(tmp_path.rglob("*")) == before
    open_dataset(tmp_path / "data", tmp_path, MOSEI)
    assert set(before) <= set(tmp_path.rglob("*"))


def test_an_empty_split_is_named_with_those_that_are_there(tmp_path):
    data = prepare(write_raw(tmp_path, {"train": 4}), tmp_path / "data", PrepareSettings(dataset="mosi"))
    with pytest.raises(BadInput, match="split 'test' is empty; there is train"):
        data.parts("test")


def test_a_damaged_dataset_is_named(tmp_path):
    data = prepare(write_raw(tmp_path, {"train": 4}), tmp_path / "data", PrepareSettings(dataset="mosi"))
    (part,) = data.parts("train")
    (data.folder / part).write_bytes(b"x")
    with pytest.raises(BadInput, match=part):
        data.read(part)
    description = json.loads((data.folder / "dataset.json").read_text())
    for change in ({"colour": 1}, {"like": "nothing"}):
        (data.folder / "dataset.json").write_text(json.dumps(description | change))
        with pytest.raises(BadInput, match="dataset.json: not a dataset description"):
            PreparedDataset(data.folder)
    with pytest.raises(BadInput, match="uacs prepare"):
        PreparedDataset(tmp_path / "nowhere")


def test_a_sample_that_says_nothing_stays_and_is_noted_and_so_are_missing_labels(tmp_path):
    (tmp_path / "t.csv").write_text("id,text,label,split\na,fine,2,test\nb,,1,test\nc,bad,,test\n")
    data = prepare(tmp_path / "t.csv", tmp_path / "data", PrepareSettings(dataset="mosi"))
    assert [s.sample_id for s in data.samples("test")] == ["a", "b", "c"]
    assert data.info.notes == [
        "sample 'b': text is empty; taken as missing",
        "sample 'b': no text, features or clip; nobody can answer it",
        "1 samples of split test have no label",
    ]


def test_one_process_decodes_here_as_several_do_elsewhere(clips, tmp_path):
    raw = clips.folder.parent / "raw"
    again = prepare(raw, tmp_path / "data", PrepareSettings(dataset="demo", like="mosei", processes=2))
    assert [s.audio is None or s.audio.tolist() for s in again.samples("train")] == [
        s.audio is None or s.audio.tolist() for s in clips.samples("train")
    ]


def test_pickles_that_lie_in_a_folder_are_pointed_out(tmp_path):
    (tmp_path / "Processed").mkdir()
    (tmp_path / "Processed" / "unaligned_50.pkl").touch()
    with pytest.raises(BadInput, match="name one, as .*Processed/unaligned_50.pkl"):
        prepare(tmp_path, tmp_path / "data", PrepareSettings(dataset="mosi"))
