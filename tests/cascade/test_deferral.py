"""A learned deferral: gains by hand, what it learns, and what it saves."""

import numpy as np
import pytest
from scipy.special import entr

from uacs.cascade import rules
from uacs.cascade.deferral import SIGNS, Deferral, fit, gained
from uacs.cascade.objectives import Objective
from uacs.cascade.points import point
from uacs.cascade.prices import Prices
from uacs.cascade.recording import Recording
from uacs.cascade.replay import Answers
from uacs.cascade.thresholds import Thresholds
from uacs.errors import BadInput

NAN = float("nan")
CALLS = Prices(0.0, 1.0, 1.0)


def of(y_small, u_small, y_large, label, p=None, u_large=None):
    y_small, u_small, y_large, label = (np.array(a, float) for a in (y_small, u_small, y_large, label))
    u_large = np.where(np.isfinite(y_large), 0.1, NAN) if u_large is None else u_large
    p = np.tile([0.1, 0.3, 0.6], (len(label), 1)) if p is None else p
    answers = Answers(y_small, u_small, y_large, u_large, np.full(len(label), NAN))
    return Recording("mosi", answers, label, p, np.ones(len(label), bool))


def loud_and_unsure(n, seed):
    """A small model that is often wrong where it is unsure; a large one that mends it only where |y| is small."""
    draw = np.random.default_rng(seed)
    label = draw.choice([-1.0, 1.0], n) * draw.uniform(0.5, 3, n)
    loud, top = draw.random(n) < 0.5, draw.uniform(0.4, 0.98, n)
    p = np.stack([(1 - top) / 2, (1 - top) / 2, top], axis=-1)
    u = entr(p).sum(axis=-1)
    right = draw.random(n) < 1 - 0.45 * u / np.log(3)
    y_small = np.sign(label) * np.where(right, 1, -1) * np.where(loud, 2.0, 0.5)
    mended = np.where(loud, right, draw.random(n) < 0.95)
    return of(y_small, u, np.sign(label) * np.where(mended, 1, -1), label, p)


def test_a_gain_is_the_weighted_sum_of_the_signs():
    found = Deferral(intercept=0.1, weights={"entropy": 0.5, "margin": -0.2, "strength": 0.01, "at_odds": 1.0})
    p = np.array([[0.1, 0.3, 0.6], [0.1, 0.3, 0.6], [0.1, 0.3, 0.6]])
    # margin 0.6 - 0.3; the second answer is negative while the likeliest class is positive
    gains = found.gain(np.array([2.0, -1.0, NAN]), np.array([0.8, 0.8, 0.8]), p)
    assert gains[:2] == pytest.approx([0.1 + 0.4 - 0.06 + 0.02, 0.1 + 0.4 - 0.06 + 0.01 + 1.0])
    assert np.isnan(gains[2])


def test_gained_is_the_loss_of_the_small_answer_less_that_of_the_large():
    # mended, spoilt, both right, no large answer, a label of zero, which MOSI's Acc2 leaves out, and none
    recording = of([-1, 1, 1, -1, 1, 1], [0.5] * 6, [1, -1, 2, NAN, 2, 1], [2, 1, 2, 1, 0, NAN])
    assert gained(recording, Objective()).tolist()[:4] == [1, -1, 0, 0]
    assert np.isnan(gained(recording, Objective())[4:]).all()
    assert gained(recording, Objective(metric="mae")).tolist()[:5] == [3 - 1, 0 - 2, 1 - 0, 0, 1 - 2]


def test_what_gains_nothing_is_not_handed_on_however_unsure():
    objective = Objective("floor", 0.8)
    calibration, other = loud_and_unsure(2000, 0), loud_and_unsure(20_000, 1)
    settings = rules.RuleSettings()
    by_gain, by_entropy = (
        point(other, rules.choose(rule, calibration, settings, objective, CALLS), CALLS)
        for rule in ("learned", "exact")
    )
    assert by_gain.metrics["acc2"] >= by_entropy.metrics["acc2"] - 0.005
    assert by_gain.asked < 0.75 * by_entropy.asked


def test_gains_are_out_of_fold():
    recording = loud_and_unsure(60, 2)
    found, gains = fit(recording, Objective(), seed=0)
    again, other = fit(recording, Objective(), seed=0), fit(recording, Objective(), seed=1)
    whole = found.gain(recording.answers.y_small, recording.answers.u_small, recording.p_small)
    assert found == again[0] == other[0] and np.array_equal(gains, again[1])
    assert not np.isclose(gains, whole).all() and not np.array_equal(gains, other[1])
    # a sample's own answer has no part in its gain
    changed = recording.answers.y_large.copy()
    changed[7] = -changed[7]
    answers = Answers(**{**vars(recording.answers), "y_large": changed})
    swapped = Recording("mosi", answers, recording.label, recording.p_small, recording.twice)
    assert fit(swapped, Objective(), seed=0)[1][7] == gains[7]
    assert fit(swapped, Objective(), seed=0)[0] != found


def test_who_does_not_count_has_the_whole_fits_gain_and_who_failed_has_none():
    recording = loud_and_unsure(40, 3)
    recording.label[4] = NAN
    recording.answers.y_small[5] = recording.answers.u_small[5] = NAN
    found, gains = fit(recording, Objective())
    whole = found.gain(recording.answers.y_small, recording.answers.u_small, recording.p_small)
    assert gains[4] == whole[4] and np.isnan(gains[5])
    assert np.isfinite(np.delete(gains, 5)).all()


def test_a_sign_that_says_nothing_weighs_nothing():
    recording = loud_and_unsure(100, 4)
    found, _ = fit(recording.with_small(np.ones(100), np.full(100, 0.5), recording.p_small), Objective())
    assert found.weights["entropy"] == found.weights["strength"] == found.weights["at_odds"] == 0
    assert found.weights["margin"] != 0 and set(found.weights) == set(SIGNS)


def test_where_no_sign_says_anything_the_gain_is_the_mean():
    # of 20, a quarter is mended
    found, gains = fit(of([1] * 20, [0.5] * 20, [-1] * 5 + [1] * 15, [-1] * 5 + [1] * 15), Objective())
    assert found.intercept == pytest.approx(0.25) and not any(found.weights.values())
    assert gains == pytest.approx(0.25, abs=0.1)


def test_too_few_to_learn_from_is_said():
    with pytest.raises(BadInput, match="19 labelled samples count.*20 or more"):
        fit(loud_and_unsure(19, 0), Objective())


def test_a_saved_deferral_gives_the_same_gains(tmp_path):
    recording = loud_and_unsure(200, 5)
    answers = recording.answers
    made = rules.choose("learned", recording, rules.RuleSettings(), Objective(), CALLS)
    made.save(tmp_path / "thresholds.json")
    read = Thresholds.load(tmp_path / "thresholds.json")
    assert read == made and read.deferral is not None and read.small is None
    gains = [of.gain(answers.y_small, answers.u_small, recording.p_small) for of in (read.deferral, made.deferral)]
    assert np.array_equal(*gains)
    assert point(recording, read, CALLS) == point(recording, made, CALLS)
