"""`make bench`: what is measured side by side is compared round by round, and a table says what was missed."""

from importlib import import_module
from itertools import count
from unittest.mock import patch

import numpy as np
import pytest

from benchmarks.speed import __main__ as speed
from benchmarks.speed import plan, sides
from benchmarks.speed.sides import Row, Spread, in_turns, ratio


def test_works_take_turns_there_and_back_and_the_first_round_does_not_count():
    called = []
    ticks = count()
    with patch.object(sides.time, "perf_counter", lambda: float(next(ticks))):
        taken = in_turns({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, rounds=2)
    assert called == ["b", "a", "a", "b", "b", "a"]
    assert taken == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_a_ratio_is_of_each_round_so_that_a_slow_one_changes_nothing():
    assert ratio([2.0, 20.0, 6.0], [1.0, 10.0, 2.0]) == Spread(2.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("bounds", "met", "wanted"),
    [
        ({}, None, ""),
        ({"at_least": 0.9}, True, "≥ 0.9 x"),
        ({"at_least": 1.1}, False, "≥ 1.1 x"),
        ({"at_most": 0.9}, False, "≤ 0.9 x"),
        ({"at_least": 0.9, "at_most": 1.1}, True, "≥ 0.9 x and ≤ 1.1 x"),
    ],
)
def test_the_middle_round_decides_whether_a_bound_is_met(bounds, met, wanted):
    row = Row("pool", "2 workers", Spread(1.0, 0.1, 9.0), **bounds)
    assert (row.met, row.wanted) == (met, wanted)


def test_a_table_has_every_figure_with_its_spread_and_says_what_was_missed():
    missed = {"what": "pool", "of": "2 workers", "figure": {"median": 0.8, "least": 0.7, "most": 1.0}, "at_least": 0.9}
    part = {"about": "Pools", "machine": {"cores": "2"}, "rounds": 3, "seconds": 9.6, "rows": [missed]}
    told = speed.markdown({"pool": part, "cascade": part})
    assert told.count("| pool | 2 workers | 0.80 x | 0.70 to 1.00 | ≥ 0.9 x: **missed** |") == 2
    assert told.count("cores 2") == 1  # the same machine is told once


@pytest.mark.parametrize("name", speed.PARTS)
def test_every_part_is_there(name):
    assert import_module(f"benchmarks.speed.{name}").measure


def test_a_reckoning_is_held_against_what_was_measured_by_hand():
    came = np.arange(10.0)
    sides = came, came + 1.0, came + np.where(came == 9, 1.5, 1.2)  # p95 is 1.365 by numpy's interpolation
    found = {row.what: row for row in plan.rows(plan.MORE, [sides])}
    assert found["throughput, measured"].figure.median == pytest.approx(10 / 10)
    assert found["throughput, reckoned over measured"].figure.median == pytest.approx((10 / 10.5) / (10 / 10))
    assert found["p95, reckoned over measured"].figure.median == pytest.approx(1.365)
    assert found["p95, reckoned over measured"].met is False and found["throughput, reckoned over measured"].met
