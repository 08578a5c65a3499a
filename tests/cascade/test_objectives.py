"""What is wanted of a front: by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cascade.recordings import recording
from uacs.cascade.objectives import Objective, front, hypervolume
from uacs.cascade.points import goal
from uacs.errors import BadInput, WrongUse

QUALITY = np.array([0.80, 0.84, 0.86, 0.86, 0.85])
TIME = np.array([0.01, 0.20, 0.40, 0.50, 0.30])
LARGE = 0.845


def chosen(*wanted, large=LARGE) -> int:
    return Objective(*wanted).choose(QUALITY, TIME, large)


def test_of_a_front_the_cheapest_as_good_as_the_large_model_is_chosen():
    assert chosen() == 4


def test_where_none_is_as_good_the_best_is_and_of_equals_the_cheapest():
    assert chosen(large=0.9) == 2


def test_a_weight_trades_accuracy_for_run_time():
    assert chosen("weight", 0.0) == 2
    assert chosen("weight", 0.05) == 2  # 0.86 - 0.020 against 0.85 - 0.015 and 0.84 - 0.010
    assert chosen("weight", 0.15) == 1  # 0.84 - 0.030 = 0.810 against 0.805, 0.800 and 0.7985
    assert chosen("weight", 1.0) == 0


def test_a_budget_buys_the_best_within_it():
    assert chosen("budget", 0.3) == 4
    assert chosen("budget", 0.29) == 1


def test_a_floor_is_reached_as_cheaply_as_can_be():
    assert chosen("floor", 0.84) == 1
    assert chosen("floor", 0.80) == 0


def test_of_mae_less_is_better():
    mae = Objective("floor", 0.7, "mae")
    assert mae.choose(np.array([0.8, 0.7, 0.6]), np.array([0.1, 0.3, 0.5]), 0.5) == 1
    assert Objective(metric="mae").choose(np.array([0.8, 0.7, 0.6]), np.array([0.1, 0.3, 0.5]), 0.75) == 1


def test_a_budget_below_the_small_model_alone_is_refused_with_its_price():
    with pytest.raises(BadInput, match=r"budget of 0.005 .* the small model alone takes 0.01; raise it"):
        chosen("budget", 0.005)


def test_a_floor_above_all_is_refused_with_the_best_there_is():
    with pytest.raises(BadInput, match=r"floor of acc2 0.95 cannot be reached: the best there is has 0.86"):
        chosen("floor", 0.95)


def test_a_metric_that_is_nowhere_defined_chooses_nothing():
    with pytest.raises(BadInput, match="corr is undefined"):
        Objective(metric="corr").choose(np.full(2, np.nan), np.ones(2), 0.5)


@pytest.mark.parametrize(
    ("kind", "value"), [("front", 1.0), ("weight", None), ("budget", -0.1), ("weight", float("nan"))]
)
def test_an_objective_that_makes_no_sense_is_refused(kind, value):
    with pytest.raises(WrongUse, match=f"objective {kind}"):
        Objective(kind, value)


def test_where_the_large_model_did_not_answer_the_small_answer_stands_in_the_goal():
    # right, wrong and unanswered of three; the small model is right in the last two
    made = recording([-1, 1, 1], [0.5] * 3, [1, -1, np.nan], [0.5, 0.5, np.nan], [1, 1, 1])
    assert goal(made, "acc2") == pytest.approx(2 / 3)


POINTS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30)


@given(POINTS)
def test_no_point_betters_one_of_the_front_and_one_of_the_front_betters_every_other(points):
    gain, time = np.array(points).T
    along = front(gain, time)
    for i in range(len(gain)):
        better = (gain >= gain[i]) & (time <= time[i]) & ((gain > gain[i]) | (time < time[i]))
        assert better.any() == bool(i not in along and not _equals_one_of(along, i, gain, time))


def _equals_one_of(along, i, gain, time):
    return any(gain[i] == gain[k] and time[i] == time[k] for k in along)


@given(POINTS, POINTS)
def test_more_points_never_dominate_less(some, more):
    gain, time = np.array(some).T
    all_gain, all_time = np.array(some + more).T
    assert hypervolume(all_gain, all_time, 0.0, 1.0) >= hypervolume(gain, time, 0.0, 1.0) - 1e-12


def test_a_front_at_the_reference_point_is_worth_nothing():
    assert hypervolume(np.array([0.5]), np.array([1.0]), 0.5, 1.0) == 0.0
