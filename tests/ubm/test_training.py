"""Training learns, repeats itself, resumes to the same weights, refuses to mix, and can be shared by processes."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from tests.conftest import write_raw
from uacs.data.prepare import PrepareSettings, prepare
from uacs.errors import BadInput, Refused
from uacs.ubm.folder import load_weights
from uacs.ubm.predictor import SmallPredictor
from uacs.ubm.training import Diverged, best_epoch, train


def same(a, b):
    first, second = load_weights(a), load_weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def without_dropout(encoder, folder):
    """A copy of an encoder, so that a training's only chance is its order."""
    shutil.copytree(encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def figures(ubm):
    """What every epoch measured. Weights say less: where a gradient is rounding alone, Adam scales it up."""
    epochs = json.loads((ubm / "training.json").read_text())["epochs"]
    return {name: [epoch[name] for epoch in epochs] for name in ("train_loss", "valid_loss", "valid_mae")}


def train_as_one_of(rank, size, folder, out, *training):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/{out}.store", rank=rank, world_size=size)
    train(*training, folder / out)
    distributed.destroy_process_group()


def test_it_learns_what_is_in_the_data(ubm):
    told = json.loads((ubm / "training.json").read_text())
    best = told["epochs"][told["best_epoch"] - 1]
    assert best["valid_acc2"] > 0.75
    assert best["valid_mae"] == min(e["valid_mae"] for e in told["epochs"])


def test_the_folder_is_complete_and_nothing_else_is_left(ubm):
    names = {path.name for path in ubm.iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "text_encoder",
        "tokenizer",
        "training.json",
        "uncertainty.json",
    }


def test_equal_seeds_give_equal_weights_and_others_do_not(dataset, encoder, fast, ubm, tmp_path):
    train(dataset, str(encoder), fast, tmp_path / "again")
    assert same(ubm, tmp_path / "again")
    train(dataset, str(encoder), fast.model_copy(update={"seed": 2}), tmp_path / "other")
    assert not same(ubm, tmp_path / "other")


def test_a_training_cut_off_goes_on_to_the_same_weights(dataset, encoder, fast, ubm, tmp_path):
    def cut(epoch):
        if epoch["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, str(encoder), fast, tmp_path / "ubm", cut)
    with pytest.raises(Refused, match="other training"):
        train(dataset, str(encoder), fast.model_copy(update={"seed": 2}), tmp_path / "ubm")
    seen = []
    train(dataset, str(encoder), fast, tmp_path / "ubm", lambda epoch: seen.append(epoch["epoch"]))
    assert seen == [3]
    assert same(ubm, tmp_path / "ubm")


def test_a_finished_model_is_not_written_over(dataset, encoder, fast, ubm):
    with pytest.raises(Refused, match="a trained model lies there"):
        train(dataset, str(encoder), fast, ubm)


def test_it_stops_when_validation_no_longer_improves(dataset, encoder, fast, tmp_path):
    settings = fast.model_copy(update={"patience": 2, "max_epochs": 60, "lr_text": 0.05, "lr_other": 0.05})
    epochs = train(dataset, str(encoder), settings, tmp_path / "ubm")
    assert len(epochs) == best_epoch(epochs) + 1 + 2


def test_what_is_heard_of_the_best_epoch_is_what_the_ubm_answers(dataset, encoder, fast, ubm, tmp_path):
    heard, order = [], []

    def answers(epoch, answered):
        heard.append(answered)
        order.append(("answers", epoch["epoch"], (tmp_path / "ubm" / "unfinished" / "state.pt").exists()))

    def progress(epoch):
        order.append(("progress", epoch["epoch"], (tmp_path / "ubm" / "unfinished" / "state.pt").exists()))

    epochs = train(dataset, str(encoder), fast, tmp_path / "ubm", progress, answers)
    assert order[:2] == [("answers", 1, False), ("progress", 1, True)] and len(order) == 2 * len(epochs)
    assert same(ubm, tmp_path / "ubm")
    samples, best = list(dataset.samples("valid")), heard[best_epoch(epochs)]
    outputs = SmallPredictor(tmp_path / "ubm").predict(samples)
    assert best.sample_ids == [sample.sample_id for sample in samples]
    for name in ("y", "u", "p"):
        assert getattr(best, name) == pytest.approx(np.array([getattr(o, name) for o in outputs]), abs=1e-5)


def test_a_training_whose_loss_is_no_number_ends_with_the_mend(dataset, encoder, fast, tmp_path):
    with pytest.raises(Diverged, match="epoch 1: the loss is .*; lower the learning rates"):
        train(dataset, str(encoder), fast.model_copy(update={"lr_text": 1e30, "lr_other": 1e30}), tmp_path / "ubm")


def test_a_folder_that_is_no_encoder_is_named(dataset, fast, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no text encoder there") as error:
        train(dataset, str(tmp_path / "empty"), fast, tmp_path / "ubm")
    assert str(tmp_path / "empty") in str(error.value)


def test_a_sample_that_cannot_be_read_is_left_out_and_told(encoder, fast, tmp_path):
    labels = write_raw(tmp_path, {"train": 20, "valid": 8})
    (tmp_path / "Raw" / "train0").mkdir(parents=True)
    (tmp_path / "Raw" / "train0" / "3.mp4").write_bytes(b"no clip")
    rows = labels.read_text().splitlines()
    video, clip, _, *rest = rows[4].split(",")
    labels.write_text("\n".join([*rows[:4], ",".join([video, clip, "", *rest]), *rows[5:]]))
    data = prepare(labels, tmp_path / "data", PrepareSettings(dataset="mosi", processes=1))
    train(data, str(encoder), fast.model_copy(update={"max_epochs": 1}), tmp_path / "ubm")
    (left_out,) = json.loads((tmp_path / "ubm" / "training.json").read_text())["left_out"]
    assert "train0_3" in left_out and "nothing the UBM reads" in left_out


def test_a_split_without_labels_is_named(encoder, fast, tmp_path):
    labels = write_raw(tmp_path, {"train": 4, "valid": 4})
    rows = [row.split(",") for row in labels.read_text().splitlines()]
    labels.write_text("\n".join(",".join([*r[:3], "" if r[4] == "valid" else r[3], r[4]]) for r in rows))
    data = prepare(labels, tmp_path / "data", PrepareSettings(dataset="mosi"))
    with pytest.raises(BadInput, match="no sample of split 'valid' has a label"):
        train(data, str(encoder), fast, tmp_path / "ubm")


def test_processes_that_share_every_batch_train_the_ubm_that_one_would(encoder, fast, tmp_path):
    labels, features = write_raw(tmp_path / "raw", {"train": 49, "valid": 20}), tmp_path / "raw" / "audio.npz"
    few = {name: rows[::6] for name, rows in np.load(features).items()}
    np.savez(features, **few)
    data = prepare(labels, tmp_path / "data", PrepareSettings(dataset="mosi", audio=features))
    # one batch has a single row for two processes, and there are steps without any audio
    settings = fast.model_copy(update={"dropout": 0.0, "batch_size": 4, "accumulate": 2})
    training = (data, str(without_dropout(encoder, tmp_path / "encoder")), settings)
    train(*training, tmp_path / "one")
    multiprocessing.spawn(train_as_one_of, (2, tmp_path, "two", *training), nprocs=2)
    for name, values in figures(tmp_path / "one").items():
        assert figures(tmp_path / "two")[name] == pytest.approx(values, abs=1e-5)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {path.name for path in (tmp_path / "two").iterdir()}
