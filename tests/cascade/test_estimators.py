"""Each estimator against numbers worked by hand; what is learned from validation is what the definition says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uacs import cli_options
from uacs.cascade.estimators import ESTIMATORS, Fitted, Linear, SmallAnswers, estimates, fit, known, temperature
from uacs.cascade.uncertainty import entropy

FLAT = Fitted(
    temperature=1.0, error=Linear(intercept=0.0, weights={}), miss=Linear(intercept=0.1, weights={"ptd": 0.5})
)


def answers(y, p, ptd=None, ev=None, top=3.0):
    as_array = (None if values is None else np.array(values, float) for values in (ptd, ev))
    return SmallAnswers(np.array(y, float), np.array(p, float), top, *as_array)


def test_each_by_hand():
    found = estimates(answers([-2.0], [[0.1, 0.2, 0.7]], ptd=[0.4], ev=[2 / 3]), FLAT)
    by_hand = {
        "cbe": -(0.1 * np.log(0.1) + 0.2 * np.log(0.2) + 0.7 * np.log(0.7)),
        "ptd": 0.4,
        "ev": 2 / 3,
        "temperature": -(0.1 * np.log(0.1) + 0.2 * np.log(0.2) + 0.7 * np.log(0.7)),
        "error": 0.5,
        "miss": 0.1 + 0.5 * 0.4,
        "margin": 1 - (0.7 - 0.2),
        "strength": 3.0 - 2.0,
        "at_odds": 1 - 0.2,  # the score is negative, and that is class 1
    }
    assert {name: float(u[0]) for name, u in found.items()} == pytest.approx(by_hand)
    assert tuple(found) == ESTIMATORS == cli_options.ESTIMATORS


def test_what_there_is_nothing_for_is_not_estimated():
    assert set(estimates(answers([1.0], [[0, 0, 1]]), None)) == {"cbe", "margin", "strength", "at_odds"}


def test_a_temperature_makes_the_classes_as_sure_as_they_are_right():
    # four of five right at 0.9: their odds of 9 are to be odds of 4, so T = ln 9 / ln 4
    p = np.tile([0.0, 0.1, 0.9], (5, 1))
    fitted = temperature(p, np.array([1.0, 2.0, 0.5, 3.0, -1.0]))
    assert fitted == pytest.approx(np.log(9) / np.log(4), rel=1e-4)
    cooled = Fitted(temperature=fitted, error=FLAT.error)
    (u,) = estimates(answers([1.0], p[:1]), cooled)["temperature"]
    assert u == pytest.approx(entropy(np.array([0.2, 0.8])), abs=1e-4)


def test_the_error_probability_is_right_on_average_and_higher_where_it_is_wrong():
    draw = np.random.default_rng(0)
    sure = draw.uniform(0.4, 1.0, 400)
    p = np.stack([np.zeros(400), 1 - sure, sure], axis=-1)
    label = np.where(draw.random(400) < sure, 1.0, -1.0)
    given_ = answers(np.full(400, 1.0), p)
    u = estimates(given_, fit(given_, label, "mosi"))["error"]
    assert u.mean() == pytest.approx((label < 0).mean(), abs=1e-3)
    assert u[label < 0].mean() > u[label > 0].mean() + 0.05
    low, high = u < np.quantile(u, 0.2), u > np.quantile(u, 0.8)
    assert (label[low] < 0).mean() == pytest.approx(u[low].mean(), abs=0.1)
    assert (label[high] < 0).mean() == pytest.approx(u[high].mean(), abs=0.1)


def test_the_expected_error_is_right_on_average_and_follows_what_foresees_it():
    draw = np.random.default_rng(1)
    ptd = draw.uniform(0.2, 1.2, 500)
    y, p = np.full(500, 1.0), np.tile([0.1, 0.1, 0.8], (500, 1))
    label = y + draw.choice([-1, 1], 500) * (2 * ptd + draw.normal(0, 0.1, 500))
    given_ = answers(y, p, ptd=ptd)
    fitted = fit(given_, label, "mosi")
    miss = estimates(given_, fitted)["miss"]
    assert miss.mean() == pytest.approx(np.abs(y - label).mean(), abs=1e-6)
    assert np.corrcoef(miss, np.abs(y - label))[0, 1] > 0.97
    assert fitted.miss.weights["ptd"] == pytest.approx(2, abs=0.1)  # a little less, by the penalty
    assert fit(answers(y, p), label, "mosi").miss is None  # a UBM without the head cannot be asked
    upside_down = fit(given_, y + 1.3 - ptd, "mosi")  # the surer the head, the larger the error: it is not believed
    assert set(upside_down.miss.weights.values()) == {0.0}
    one = answers(y[:1], p[:1], ptd=ptd[:1])
    assert estimates(one, fit(one, label[:1], "mosi"))["miss"][0] == pytest.approx(abs(y[0] - label[0]))


@pytest.mark.parametrize(("sign", "share"), [(1.0, 1 / 12), (-1.0, 11 / 12)])
def test_without_a_wrong_answer_or_a_right_one_the_error_is_its_smoothed_share(sign, share):
    given_ = answers(np.ones(10), np.tile([0.1, 0.1, 0.8], (10, 1)))
    u = estimates(given_, fit(given_, np.full(10, sign), "mosi"))["error"]
    assert u == pytest.approx(np.full(10, share))


def test_a_large_model_is_told_of_the_entropy_that_is_as_rare():
    fitted = Fitted(error=FLAT.error, quantiles={"cbe": [0.0, 0.5, 1.0], "strength": [1.0, 2.0, 3.0]})
    assert fitted.in_nats("strength", np.array([0.5, 1.5, 2.0, 9.0])).tolist() == [0.0, 0.25, 0.5, 1.0]
    assert fitted.in_nats("cbe", np.array([0.7])).tolist() == fitted.in_nats("temperature", np.array([0.7])).tolist()
    tied = Fitted(error=FLAT.error, quantiles={"cbe": [0.0, 0.2, 1.0], "error": [0.1, 0.1, 0.1]})
    assert tied.in_nats("error", np.array([0.1])).tolist() == pytest.approx([0.4])


def test_a_misspelt_name_is_told_all_of_them():
    with pytest.raises(ValueError, match="no estimator 'entropy'; there is cbe, ptd, ev"):
        known("entropy")


@given(st.lists(st.tuples(st.floats(-3, 3), st.lists(st.floats(0, 1), min_size=3, max_size=3)), min_size=1))
def test_all_are_numbers_that_are_not_negative_and_none_depends_on_its_neighbours(rows):
    p = np.array([values for _, values in rows]) + 1e-9
    said = answers([y for y, _ in rows], p / p.sum(axis=-1, keepdims=True))
    fitted = Fitted(temperature=2.0, error=Linear(intercept=-1.0, weights={"cbe": 1.0, "margin": 0.5}))
    found = estimates(said, fitted)
    for name, u in found.items():
        assert np.isfinite(u).all() and (u >= 0).all(), name
        alone = estimates(answers(said.y[-1:], said.p[-1:]), fitted)[name]
        assert alone[0] == u[-1]
