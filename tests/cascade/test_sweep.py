"""The grid: equal to replaying its points one by one, whatever the answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cascade.recordings import UNSURE, drawn, recording, recordings
from uacs import metrics
from uacs.cascade.prices import Prices
from uacs.cascade.replay import replay
from uacs.cascade.routing import SMALL, VERIFY
from uacs.cascade.sweep import axis, sweep

PRICES = Prices(0.5, 2.0, 3.0)
TAUS = st.lists(UNSURE, min_size=1, max_size=6, unique=True).map(lambda taus: np.sort(taus))


def one_by_one(made, tau_small, tau_large, doubt=None):
    """Metrics, shares and cost of one grid point, by replay."""
    decision = replay(made.answers, tau_small, tau_large, doubt).decision
    known = made.known
    scores = metrics.score(decision.prediction[known], made.label[known], made.dataset)
    asked = np.mean(decision.stage > SMALL)
    second = np.mean((decision.stage == VERIFY) & made.twice)
    return scores, asked, second, 0.5 + 2 * asked + 3 * second


def assert_same(made, grid, doubt=None):
    for row, tau_small in enumerate(grid.tau_small):
        for column, tau_large in enumerate(grid.tau_large):
            scores, asked, second, cost = one_by_one(made, tau_small, tau_large, doubt)
            for name, values in grid.metrics.items():
                assert values[row, column] == pytest.approx(scores[name], abs=1e-12, nan_ok=True), name
            assert grid.asked[row, column] == pytest.approx(asked)
            assert grid.second[row, column] == pytest.approx(second)
            assert grid.cost[row, column] == pytest.approx(cost)


def test_by_hand():
    # two samples: the small model is sure and right of the first, unsure and wrong of the second, which the
    # large one is unsure about and right, so that its second look is due: 0.5 + half of 2 + half of 3
    made = recording([1, -1], [0.1, 0.9], [1, 1], [0.2, 0.8], [2, 2], y_verify=[np.nan, 1])
    grid = sweep(made, np.array([0.0, 0.5, 1.0]), np.array([0.5]), PRICES, ["acc2", "mae"])
    assert grid.metrics["acc2"].ravel().tolist() == [1.0, 1.0, 0.5]
    assert grid.metrics["mae"].ravel().tolist() == [1.0, 1.0, 2.0]
    assert grid.asked.ravel().tolist() == [1.0, 0.5, 0.0]
    assert grid.cost.ravel().tolist() == [0.5 + 2 + 1.5, 0.5 + 1 + 1.5, 0.5]


@given(recordings(), TAUS, TAUS)
def test_a_grid_equals_its_points_replayed_one_by_one(made, tau_small, tau_large):
    assert_same(made, sweep(made, tau_small, tau_large, PRICES))


@given(recordings(), TAUS, st.randoms(use_true_random=False))
def test_another_doubt_takes_the_place_of_u_small_in_the_routing_alone(made, tau_large, random):
    doubt = np.array([random.uniform(-1, 1) for _ in made.label])
    taus = np.array([-0.5, 0.0, 0.5])
    assert_same(made, sweep(made, taus, tau_large, PRICES, doubt=doubt), doubt)


def test_a_correlation_is_undefined_where_all_predictions_are_one():
    made = recording([1, 1, 1], [0.1, 0.5, 0.9], [1, 1, -1], [0, 0, 0], [1, 2, -3])
    grid = sweep(made, np.array([0.0, 0.7, 1.0]), np.array([1.0]), PRICES, ["corr"])
    assert np.isnan(grid.metrics["corr"].ravel()).tolist() == [False, False, True]


def test_an_axis_parts_the_values_in_every_way():
    u = np.array([0.3, 0.1, 0.3, 0.2, np.nan])
    cuts = axis(u)
    assert [int((u > tau).sum()) for tau in cuts] == [4, 3, 2, 0]


def test_between_neighbouring_floats_the_axis_keeps_them_apart():
    u = np.array([0.1, np.nextafter(0.1, 1), np.nextafter(np.nextafter(0.1, 1), 1)])
    assert [int((u > tau).sum()) for tau in axis(u)] == [3, 2, 1, 0]


def test_an_axis_of_too_many_values_is_their_quantiles():
    u = np.random.default_rng(0).gamma(1.0, 0.3, 5000)
    cuts = axis(u, most=11)
    assert len(cuts) == 11
    shares = [(u <= tau).mean() for tau in cuts]
    assert shares == pytest.approx(np.linspace(0, 1, 11), abs=1e-3)


def test_a_sweep_needs_no_more_than_the_metrics_that_it_is_asked_for():
    made = drawn(50)
    everything = sweep(made, axis(made.answers.u_small), axis(made.answers.u_large), PRICES)
    some = sweep(made, axis(made.answers.u_small), axis(made.answers.u_large), PRICES, ["mae"])
    assert list(some.metrics) == ["mae"]
    assert np.array_equal(some.metrics["mae"], everything.metrics["mae"])
    assert set(everything.metrics) == set(metrics.names("mosi"))
