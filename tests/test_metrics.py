"""The field's metrics: by hand, against scikit-learn, and where their rules are easily got wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error

from uacs import metrics

SCORES = st.floats(-3.5, 3.5).map(lambda x: round(x, 2))


@st.composite
def answers(draw):
    n = draw(st.integers(2, 40))
    return tuple(draw(hnp.arrays(float, n, elements=SCORES)) for _ in range(2))


def test_mosi_by_hand():
    label = np.array([2.0, -1.0, 0.0, 0.4, -2.6])
    prediction = np.array([1.4, 0.2, -0.1, 0.6, -3.0])
    scores = metrics.score(prediction, label, "mosi")
    assert scores["acc2"] == 3 / 4  # the true zero is left out; one of four is wrong
    assert scores["acc2_has0"] == 3 / 5  # zero counts as positive, so -0.1 is wrong as well
    assert scores["mae"] == pytest.approx((0.6 + 1.2 + 0.1 + 0.2 + 0.4) / 5)
    assert scores["acc7"] == 2 / 5  # 1 v 2, 0 v -1, 0 v 0, 1 v 0, -3 v -3
    assert scores["n"] == 5


def test_halves_are_rounded_to_even():
    scores = metrics.score(np.array([0.5, 1.5, 2.5]), np.array([0.0, 2.0, 2.0]), "mosi")
    assert scores["acc7"] == 1.0


def test_acc7_clips_both_sides_and_mae_does_not():
    scores = metrics.score(np.array([5.0, 5.0]), np.array([3.0, 2.0]), "mosi")
    assert scores["acc7"] == 0.5
    assert scores["mae"] == 2.5


def test_a_zero_prediction_is_negative_where_zeros_are_left_out():
    scores = metrics.score(np.array([0.0, 0.0]), np.array([1.0, -1.0]), "mosi")
    assert scores["acc2"] == 0.5
    assert scores["acc2_has0"] == 0.5  # there it is positive


def test_sims_clips_first_counts_zero_as_negative_and_closes_bins_on_the_right():
    label = np.array([0.0, -0.1, 0.1, 1.0, -0.8])
    prediction = np.array([-0.05, -0.2, 0.2, 4.0, -0.7])
    scores = metrics.score(prediction, label, "sims")
    assert scores["acc2"] == 1.0
    assert scores["acc3"] == 4 / 5  # 0.1 is neutral, 0.2 is positive; -0.1 is negative
    assert scores["acc5"] == 4 / 5  # the same one; -0.7 closes the bin of -0.8
    assert scores["mae"] == pytest.approx((0.05 + 0.1 + 0.1 + 0 + 0.1) / 5)


def test_a_score_that_came_as_float32_belongs_to_the_bin_that_its_decimal_ends():
    printed, stored = np.array([0.1, 0.7, -0.1, -0.7]), np.float32([0.1, 0.7, -0.1, -0.7]).astype(float)
    assert (np.abs(stored - printed) > 0).all()
    scores = metrics.score(stored, printed, "sims")
    assert (scores["acc3"], scores["acc5"]) == (1.0, 1.0)


def test_ties_fall_as_in_float32_and_distances_do_not():
    label, prediction = np.array([0.0, 2.0, -1e-60]), np.array([0.5 + 1e-9, 2.5 - 1e-9, 1.0])
    scores = metrics.score(prediction, label, "mosi")
    assert scores["acc7"] == 2 / 3  # as float32 they are 0.5 and 2.5, which round to 0 and 2; 1 v 0
    assert scores["acc2"] == 1.0  # -1e-60 is zero and left out
    assert np.isnan(metrics.per_sample(prediction, label, "mosi")["acc2"]).tolist() == [True, False, True]
    assert scores["mae"] == pytest.approx((0.5 + 1e-9 + 0.5 - 1e-9 + 1) / 3, abs=1e-15)


def test_a_constant_prediction_has_no_correlation():
    assert np.isnan(metrics.score(np.ones(4), np.array([1.0, 2, 3, 4]), "mosi")["corr"])
    nearly = np.array([1.0, 1 - 1e-9, 1.0, 1.0])  # constant as float32, in which models answer
    assert np.isnan(metrics.score(nearly, np.array([1.0, 2, 3, 4]), "mosi")["corr"])


def test_only_zeros_have_no_binary_accuracy():
    assert np.isnan(metrics.score(np.ones(3), np.zeros(3), "mosi")["acc2"])


def test_a_missing_prediction_is_refused_rather_than_averaged_in():
    with pytest.raises(ValueError, match="finite"):
        metrics.score(np.array([1.0, np.nan]), np.array([1.0, 1.0]), "mosi")


@given(answers())
def test_mosi_equals_scikit_learn(pair):
    prediction, label = pair
    scores = metrics.score(prediction, label, "mosi")
    spoken = label != 0
    if spoken.any():
        p, y = prediction[spoken] > 0, label[spoken] > 0
        assert scores["acc2"] == pytest.approx(accuracy_score(y, p))
        assert scores["f1"] == pytest.approx(f1_score(y, p, average="weighted", zero_division=0))
    assert scores["f1_has0"] == pytest.approx(
        f1_score(label >= 0, prediction >= 0, average="weighted", zero_division=0)
    )
    assert scores["mae"] == pytest.approx(mean_absolute_error(label, prediction))
    by_hand = [round(min(max(p, -3), 3)) == round(min(max(y, -3), 3)) for p, y in zip(prediction, label, strict=True)]
    assert scores["acc7"] == pytest.approx(sum(by_hand) / len(by_hand))  # Python rounds half to even as well


@given(answers())
def test_sims_equals_a_definition_by_intervals(pair):
    prediction, label = (np.clip(values, -1, 1) for values in pair)
    scores = metrics.score(*pair, "sims")
    bins = [(-2, -0.7), (-0.7, -0.1), (-0.1, 0.1), (0.1, 0.7), (0.7, 1)]

    def of(value):
        return next(i for i, (low, high) in enumerate(bins) if low < value <= high)

    same = [of(p) == of(y) for p, y in zip(prediction, label, strict=True)]
    assert scores["acc5"] == pytest.approx(sum(same) / len(same))


@given(answers())
def test_what_each_sample_adds_is_the_metric(pair):
    for dataset in ("mosi", "sims"):
        scores = metrics.score(*pair, dataset)
        parts = metrics.per_sample(*pair, dataset)
        assert np.mean(parts["mae"]) == pytest.approx(scores["mae"])
        if np.isfinite(parts["acc2"]).any():
            assert np.nanmean(parts["acc2"]) == pytest.approx(scores["acc2"])


def test_what_is_not_there_adds_nothing():
    for dataset in ("mosi", "sims"):
        parts = metrics.per_sample(np.array([1.0, np.nan, 1.0]), np.array([np.nan, 1.0, 1.0]), dataset)
        assert np.isnan(parts["acc2"]).tolist() == np.isnan(parts["mae"]).tolist() == [True, True, False]


def test_a_bootstrap_interval_is_as_wide_as_theory_says():
    values = np.random.default_rng(5).normal(1.0, 2.0, 400)
    low, high = metrics.bootstrap(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)


def test_a_bootstrap_does_not_count_what_is_not_there():
    values = np.array([1.0, 1.0, np.nan, 1.0])
    assert metrics.bootstrap(values) == (1.0, 1.0)
