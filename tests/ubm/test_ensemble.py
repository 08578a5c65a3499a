"""Other estimators than the paper's: a head that moves nothing, an ensemble that goes on where it was, one option."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from uacs import fingerprints
from uacs.cascade.estimators import ESTIMATORS
from uacs.cascade.outcomes import build
from uacs.errors import BadInput, Refused
from uacs.records import NOT_ASKED
from uacs.ubm import ensemble, folder, folds
from uacs.ubm.batches import collate, encode
from uacs.ubm.estimating import fingerprint, members
from uacs.ubm.folds import deal_split
from uacs.ubm.predictor import SmallPredictor
from uacs.ubm.training import train


@pytest.fixture(scope="module")
def samples(dataset):
    return list(dataset.samples("test"))[:50]


@pytest.fixture(scope="module")
def of_two(dataset, encoder, fast, tmp_path_factory):
    """A UBM with an ensemble of two, whose second member's training was cut off and went on."""
    out, begun = tmp_path_factory.mktemp("ensemble") / "ubm", []
    settings = fast.model_copy(update={"estimator": "ev", "members": 2, "max_epochs": 2})

    def one(settings, place, without=frozenset()):
        def cut(epoch):
            if place.name == "2" and begun == [1, 2]:
                raise KeyboardInterrupt

        return train(dataset, str(encoder), settings, place, cut, without=without)

    with pytest.raises(KeyboardInterrupt):
        ensemble.train(dataset, str(encoder), settings, out, one, begun.append)
    with pytest.raises(BadInput, match="its ensemble is not whole, 1 UBMs of it are there; `uacs train"):
        SmallPredictor(out)
    ensemble.train(dataset, str(encoder), settings, out, one, begun.append)
    assert begun == [1, 2, 2]
    return out


def test_the_head_that_foresees_the_error_moves_nothing_else(ubm, samples):
    model, tokenizer, config = folder.load(ubm)
    encoded = encode(samples[:8], tokenizer, config.features, 32)
    heads = model(collate(encoded), 8)
    (heads.deviation - 1).abs().mean().backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"deviation"}
    assert (heads.deviation > 0).all()


def test_what_it_foresees_is_nearer_to_the_error_than_no_foresight(dataset, ubm):
    samples = list(dataset.samples("test"))
    outputs = SmallPredictor(ubm).predict(samples)
    wrong = np.array([abs(o.y - s.label) for o, s in zip(outputs, samples, strict=True)])
    foreseen = np.array([o.signals["ptd"] for o in outputs])
    assert np.abs(foreseen - wrong).mean() < np.abs(np.median(wrong) * 1.5 - wrong).mean()
    assert spearmanr(foreseen, wrong).statistic > 0.1


def test_u_is_the_estimators_and_all_that_are_free_are_signals(ubm, samples):
    for name in ESTIMATORS:
        if name != "ev":
            (output,) = SmallPredictor(ubm, estimator=name).predict(samples[:1])
            assert output.u == output.signals[name] and set(output.signals) == set(ESTIMATORS) - {"ev"}
            told = output.u if output.told is None else output.told
            assert (told == output.u) == (name in ("cbe", "temperature")) and 0 <= told <= np.log(3) + 1e-9


def test_ev_is_the_variance_of_what_the_members_say(of_two, samples):
    outputs = SmallPredictor(of_two).predict(samples)
    apart = [[o.y for o in SmallPredictor(place).predict(samples)] for place in members(of_two)]
    by_hand = [((a - b) / 2) ** 2 for a, b in zip(*apart, strict=True)]
    assert [o.u for o in outputs] == pytest.approx(by_hand, rel=1e-4, abs=1e-9)
    by_entropy = SmallPredictor(of_two, estimator="cbe").predict(samples)
    assert [(o.y, o.p) for o in by_entropy] == [(o.y, o.p) for o in outputs]
    assert "ev" not in by_entropy[0].signals and outputs[0].signals["ev"] == outputs[0].u


def test_members_have_each_missed_other_videos(dataset, fast, of_two):
    without = [json.loads((place / "training.json").read_text())["data"]["without"] for place in members(of_two)]
    dealt = deal_split(dataset, 2, fast.seed)
    assert without == [fingerprints.of_settings(sorted(fold)) for fold in dealt] and not dealt[0] & dealt[1]


def test_an_ensemble_may_come_later_and_moves_nothing_for_the_others(of_two, dataset, encoder, fast, ubm, tmp_path):
    shutil.copytree(ubm, tmp_path / "ubm")
    by_entropy, before = fingerprint(ubm, "cbe"), fingerprint(ubm, "margin")
    settings = fast.model_copy(update={"estimator": "ev", "members": 2})
    with pytest.raises(BadInput, match="its ensemble is not whole, 0 UBMs"):
        SmallPredictor(ubm, estimator="ev")

    def copied(settings, place, without=frozenset()):
        return shutil.copytree(of_two / "members" / place.name, place)

    ensemble.train(dataset, str(encoder), settings, tmp_path / "ubm", copied)
    assert fingerprint(tmp_path / "ubm", "cbe") == by_entropy and fingerprint(tmp_path / "ubm", "margin") == before
    assert len({fingerprint(tmp_path / "ubm", name) for name in ("cbe", "margin", "ev")}) == 3
    assert SmallPredictor(tmp_path / "ubm").estimator == "cbe"
    shutil.move(tmp_path / "ubm" / "members" / "2", tmp_path / "lost")
    with pytest.raises(BadInput, match="its ensemble is not whole, 1 UBMs of it are there; .* or copy all of it"):
        SmallPredictor(tmp_path / "ubm", estimator="ev")
    shutil.move(tmp_path / "lost", tmp_path / "ubm" / "members" / "2")
    with pytest.raises(Refused, match="a trained model lies there, and its ensemble"):
        ensemble.train(dataset, str(encoder), settings, tmp_path / "ubm", copied)


def test_an_ensemble_of_a_ubm_from_before_is_refused_before_anything_is_trained(dataset, encoder, fast, ubm, tmp_path):
    shutil.copytree(ubm, tmp_path / "ubm")
    (tmp_path / "ubm" / "uncertainty.json").unlink()
    with pytest.raises(Refused, match="trained before there were estimators"):
        ensemble.train(dataset, str(encoder), fast, tmp_path / "ubm", lambda *_: pytest.fail("trained"))


def test_hints_of_folds_are_in_nats_whatever_the_estimator(dataset, encoder, fast, tmp_path):
    settings = fast.model_copy(update={"estimator": "strength", "max_epochs": 1})
    folded = folds.train(dataset, str(encoder), settings, tmp_path / "ubm", 2)
    u = pq.read_table(folded.answers)["u_small"].to_numpy()
    assert u.max() <= np.log(3) + 1e-9
    raw = [output.u for output in SmallPredictor(tmp_path / "ubm").predict(list(dataset.samples("train")))]
    assert max(raw) > np.log(3)


def test_what_a_large_model_was_told_is_among_the_signals(ubm, samples):
    said = SmallPredictor(ubm, estimator="strength").predict(samples)
    table = build(samples, said, [NOT_ASKED] * len(said), [NOT_ASKED] * len(said))
    told = [dict(row)["told"] for row in table["signals"].to_pylist()]
    assert told == [output.told for output in said] and max(told) <= np.log(3) + 1e-9 < max(output.u for output in said)


def test_a_ubm_from_before_there_were_estimators_still_answers(ubm, samples, tmp_path):
    shutil.copytree(ubm, tmp_path / "ubm")
    (tmp_path / "ubm" / "uncertainty.json").unlink()
    model = folder.load(ubm)[0]
    model.deviation = None
    folder.save_weights(model, tmp_path / "ubm")
    (now,), (then,) = (SmallPredictor(place).predict(samples[:1]) for place in (ubm, tmp_path / "ubm"))
    assert (then.y, then.u, then.p) == (now.y, now.u, now.p)
    assert set(then.signals) == {"cbe", "margin", "strength", "at_odds"}
    for name in ("ptd", "temperature"):
        with pytest.raises(BadInput, match=f"trained before there was estimator {name}; train it again"):
            SmallPredictor(tmp_path / "ubm", estimator=name)
