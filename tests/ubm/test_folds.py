"""Folds: each training sample is answered once, by a UBM without its video; cut off, they go on to the same answers."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import write_raw
from uacs import fingerprints
from uacs.data.prepare import PrepareSettings, prepare
from uacs.errors import Refused
from uacs.ubm import folds, training
from uacs.ubm.folds import OUT_OF_FOLD_SCHEMA, deal
from uacs.ubm.predictor import UNREAD, SmallPredictor

KEPT = ("config.json", "model.safetensors")


def prepared(folder, seed=0):
    """56 training samples of 6 videos, one of them without a label and one that cannot be read."""
    labels = write_raw(folder, {"train": 56, "valid": 12}, seed)
    (folder / "Raw" / "train0").mkdir(parents=True)
    (folder / "Raw" / "train0" / "3.mp4").write_bytes(b"no clip")
    rows = [row.split(",") for row in labels.read_text().splitlines()]
    rows[4][2], rows[15][3] = "", ""
    labels.write_text("\n".join(map(",".join, rows)))
    audio = np.load(folder / "audio.npz")
    heard = audio["ids"] != "train0_3"
    np.savez(folder / "heard.npz", ids=audio["ids"][heard], audio=audio["audio"][heard])
    return prepare(labels, folder / "data", PrepareSettings(dataset="mosi", audio=folder / "heard.npz", processes=1))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def task(small, encoder, fast):
    return small, str(encoder), fast.model_copy(update={"max_epochs": 2})


@pytest.fixture(scope="module")
def three(task, tmp_path_factory):
    """What three folds leave, and the ids that each training learned from, by its folder."""
    out, learned = tmp_path_factory.mktemp("models") / "ubm", {}
    original_train, original_epoch = training.train, training._train_epoch
    place = None

    def watched_train(*args, **kwargs):
        nonlocal place
        place = args[3].name
        return original_train(*args, **kwargs)

    def watched_epoch(model, optimiser, split, *rest):
        learned.setdefault(place, set()).update(split.sample_ids)
        assert len(split.encoded) == len(split.sample_ids) == len(split.labels)
        return original_epoch(model, optimiser, split, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", watched_train)
        patch.setattr(training, "_train_epoch", watched_epoch)
        folded = folds.train(*task, out, 3)
    return out, folded, learned


def videos(sample_ids):
    return {sample_id.rpartition("_")[0] for sample_id in sample_ids}


def interrupted(*_):
    raise KeyboardInterrupt


def test_every_sample_that_can_be_learned_from_is_answered_once(three, small):
    out, folded, learned = three
    table = pq.read_table(out / "out_of_fold.parquet")
    assert table.schema.remove_metadata() == OUT_OF_FOLD_SCHEMA
    ids = table["sample_id"].to_pylist()
    assert ids == sorted(learned["ubm"]) and len(ids) == folded.answered == 54
    assert {s.sample_id for s in small.samples("train")} - set(ids) == {"train0_3", "train1_4"}
    assert np.isfinite(table["y_small"]).all() and np.isfinite(table["u_small"]).all() and folded.notes == []


def test_no_sample_is_answered_by_a_ubm_that_saw_its_video(three):
    out, _, learned = three
    table = pq.read_table(out / "out_of_fold.parquet").to_pandas()
    assert learned.keys() == {"ubm", "1", "2", "3"}
    for fold, ids in table.groupby("fold")["sample_id"]:
        assert videos(ids).isdisjoint(videos(learned[str(fold)]))
        assert set(ids) | learned[str(fold)] == learned["ubm"]


def test_a_fold_is_answered_by_the_ubm_without_it(three, task, small, tmp_path):
    out, _, _ = three
    table = pq.read_table(out / "out_of_fold.parquet").to_pandas()
    rows = table[table.fold == 2].set_index("sample_id")
    training.train(*task, tmp_path / "ubm", without=frozenset(rows.index))
    samples = [s for s in small.samples("train") if s.sample_id in rows.index]
    outputs = SmallPredictor(tmp_path / "ubm").predict(samples)
    told = rows.loc[[s.sample_id for s in samples]]
    assert np.allclose([(o.y, o.u) for o in outputs], told[["y_small", "u_small"]], atol=1e-5)


def test_the_ubm_is_the_one_without_folds_and_so_is_its_fingerprint(three, task, tmp_path):
    out, folded, _ = three
    epochs = training.train(*task, tmp_path / "ubm")
    assert all((out / name).read_bytes() == (tmp_path / "ubm" / name).read_bytes() for name in KEPT)
    assert [e["valid_mae"] for e in folded.epochs] == [e["valid_mae"] for e in epochs]
    assert {p.name for p in out.iterdir()} - {p.name for p in (tmp_path / "ubm").iterdir()} == {"out_of_fold.parquet"}
    before = fingerprints.of_folder(tmp_path / "ubm")
    assert fingerprints.of_folder(out) == before
    shutil.copytree(tmp_path / "ubm", tmp_path / "ubm" / "folds" / "1")  # while folds are trained
    assert fingerprints.of_folder(tmp_path / "ubm") == before


def test_cut_off_anywhere_it_goes_on_to_the_same_file(three, task, tmp_path, monkeypatch):
    undisturbed, heard = (three[0] / "out_of_fold.parquet").read_bytes(), []

    def cut_at(number):
        def progress(epoch):
            heard.append((begun[-1] if begun else 0, epoch["epoch"]))
            if len(heard) == number:
                raise KeyboardInterrupt

        return progress

    out, begun = tmp_path / "ubm", []
    for number in (1, 5):  # in the UBM of the whole split, in the second fold's
        with pytest.raises(KeyboardInterrupt):
            folds.train(*task, out, 3, cut_at(number), begun.append)
    assert (out / "folds" / "1.parquet").exists() and not (out / "folds" / "1").exists()
    with monkeypatch.context() as patch:
        patch.setattr(folds, "_table", interrupted)  # trained, not answered
        with pytest.raises(KeyboardInterrupt):
            folds.train(*task, out, 3, cut_at(0), begun.append)
    with monkeypatch.context() as patch:
        patch.setattr(folds.shutil, "rmtree", lambda place, **_: place.name == "folds" and interrupted())
        with pytest.raises(KeyboardInterrupt):
            folds.train(*task, out, 3, cut_at(0), begun.append)  # all is there, not cleared away
    assert (out / "out_of_fold.parquet").read_bytes() == undisturbed
    with pytest.raises(Refused, match="a trained model lies there"):
        folds.train(*task, out, 3)
    assert not (out / "folds").exists()
    assert begun == [1, 2, 2, 2, 3]
    assert heard == [(fold, epoch) for fold in (0, 1, 2, 3) for epoch in (1, 2)]  # and none twice


def test_folds_follow_a_ubm_that_is_there_and_other_trainings_are_refused(three, small, task, tmp_path):
    out, (data, encoder, settings) = tmp_path / "ubm", task
    training.train(*task, out)
    with pytest.raises(Refused, match="a trained model lies there, of other training; name another --out"):
        folds.train(data, encoder, settings.model_copy(update={"seed": 2}), out, 3)
    with pytest.raises(Refused, match="of other train, valid; name another"):
        folds.train(prepared(tmp_path / "others", seed=1), encoder, settings, out, 3)
    record = json.loads((out / "training.json").read_text())
    del record["data"]  # as of a UBM trained before it was told
    (out / "training.json").write_text(json.dumps(record))
    with pytest.raises(KeyboardInterrupt):
        folds.train(*task, out, 3, interrupted)
    with pytest.raises(Refused, match="folds: begun with other folds; go on with those, or remove it"):
        folds.train(*task, out, 2)
    with pytest.raises(Refused, match="other without was begun there"):
        training.train(*task, out / "folds" / "1")  # with what it has not seen
    assert [e["epoch"] for e in folds.train(*task, out, 3).epochs] == [1, 2]
    assert (out / "out_of_fold.parquet").read_bytes() == (three[0] / "out_of_fold.parquet").read_bytes()


def test_an_answer_that_is_no_number_is_told_and_no_hint(three, task, tmp_path, monkeypatch):
    predict = SmallPredictor.predict

    def overflowing(self, samples):
        return [
            UNREAD if s.sample_id == "train2_7" else o for s, o in zip(samples, predict(self, samples), strict=True)
        ]

    monkeypatch.setattr(SmallPredictor, "predict", overflowing)
    folded = folds.train(*task, tmp_path / "ubm", 3)
    assert folded.notes == ["sample 'train2_7': the UBM without it gave no number; not in out_of_fold.parquet"]
    table = pq.read_table(three[0] / "out_of_fold.parquet").to_pandas()
    rest = table[table.sample_id != "train2_7"].reset_index(drop=True)
    assert pq.read_table(folded.answers).to_pandas().equals(rest) and folded.answered == len(rest) == 53


def test_folds_are_balanced_and_depend_on_the_seed_alone():
    ids = [f"v{video}_{clip}" for video in range(20) for clip in range(1 + video % 7)]
    dealt = deal(ids, 4, seed=1)
    assert sorted(i for fold in dealt for i in fold) == sorted(ids)
    assert sum(len(videos(fold)) for fold in dealt) == 20
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert deal(ids[::-1], 4, seed=1) == dealt != deal(ids, 4, seed=2)


def test_wrong_use_is_a_line_with_the_mend(uacs, small, encoder, tmp_path):
    def said(*words):
        code, out, err = uacs("train", "ubm", small.folder, "--out", tmp_path / "ubm", *words)
        assert out == "" and err.count("\n") == 1 and not (tmp_path / "ubm").exists()
        return code, err

    code, err = said("--folds", 1)
    assert code == 2 and "'--folds': 1 is not in the range" in err
    code, err = said("--folds", 3, "--workers", 2)
    assert code == 2 and "--folds 3: folds are trained by one worker; leave --folds out, and once" in err
    code, err = said("--folds", 7, "--text-encoder", encoder)
    assert code == 1 and "labelled samples of 6 videos, too few for 7 folds; lower --folds" in err


def test_the_command_trains_says_each_fold_and_what_it_left(uacs, three, task, small, encoder, tmp_path):
    fast = task[2].model_dump(exclude_defaults=True)
    words = [word for name, value in fast.items() for word in ("--set", f"{name}={value}")]
    code, out, err = uacs(
        "train", "ubm", small.folder, "--out", tmp_path / "ubm", "--text-encoder", encoder, "--folds", 3, *words
    )
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()[: 4 if "fold" in line else 2]) for line in out.splitlines()]
    epochs = ["epoch 1", "epoch 2"]
    assert lines[:11] == [*epochs, *(line for fold in (1, 2, 3) for line in (f"fold {fold} of 3", *epochs))]
    assert out.splitlines()[-1].startswith(f"{tmp_path}/ubm/out_of_fold.parquet: 54 samples, each answered by one of 3")
    assert (tmp_path / "ubm" / "out_of_fold.parquet").read_bytes() == (three[0] / "out_of_fold.parquet").read_bytes()
