"""Simulated queues against those that can be reckoned: by formulas, and clip by clip by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uacs.cascade.queues import Growth, Stage, in_line, passed

N = 300_000
NAN = float("nan")


def rng(seed=0):
    return np.random.default_rng(seed)


def by_chance(rate, count=N):
    return np.cumsum(rng(1).exponential(1 / rate, count))


def stays(stage, rate, seconds):
    """The mean seconds that a clip stays, without the first tenth of clips, which found nobody there."""
    arrivals = by_chance(rate, len(seconds))
    return (passed(stage, arrivals, seconds, rng()).done - arrivals)[len(seconds) // 10 :].mean()


def test_one_replica_is_the_m_m_1_queue():
    for load in (0.3, 0.5, 0.7):
        assert stays(Stage(1), load, rng().exponential(1, N)) == pytest.approx(1 / (1 - load), rel=0.03)


def test_equal_clips_are_the_m_d_1_queue():
    for load in (0.3, 0.7, 0.8):
        assert stays(Stage(1), load, np.ones(N)) == pytest.approx(1 + load / (2 * (1 - load)), rel=0.03)


def test_many_replicas_wait_as_the_shorter_of_two_queues_does():
    """Mitzenmacher 2001, Vvedenskaya et al. 1996: sum over i of load^(2^i - 2), for many replicas."""
    for load in (0.5, 0.7, 0.8):
        expected = sum(load ** (2**i - 2) for i in range(1, 12))
        assert stays(Stage(200), 200 * load, rng().exponential(1, N)) == pytest.approx(expected, rel=0.03)


def test_a_replica_with_more_than_it_can_do_is_as_fast_as_full_batches_are():
    found = passed(Stage(2, batch=8, fixed=0.5), by_chance(20, 40_000), np.full(40_000, 0.2), rng())
    assert len(found.done) / found.done.max() == pytest.approx(2 * 8 / (0.5 + 8 * 0.2), rel=0.01)
    assert found.busy / found.held > 0.99


def test_batches_by_hand():
    found = passed(Stage(1, batch=2, fixed=0.5), np.array([0, 0.1, 0.2, 0.3, 9.0]), np.ones(5), rng())
    # 0 alone until 1.5; 1 and 2 until 1.5 + .5 + 2; 3 until 4 + 1.5; the last finds nobody there
    assert found.done.tolist() == [1.5, 4.0, 4.0, 5.5, 10.5]
    assert (found.busy, found.held) == (1.5 + 2.5 + 1.5 + 1.5, 10.5)


def test_the_second_of_two_replicas_takes_what_the_first_is_too_busy_for():
    found = passed(Stage(2), np.array([0.0, 0.1, 0.2]), np.array([5.0, 1.0, 1.0]), rng())
    assert sorted(found.done[:2]) == [1.1, 5.0]
    assert found.done[2] in (2.1, 6.0)  # equally many wait for both


def test_those_for_whom_there_is_no_room_go_where_there_is_some_first():
    found = passed(Stage(2, room=1), np.array([0.0, 0.1, 0.2, 0.3]), np.array([5.0, 2.0, 1.0, 1.0]), rng())
    # both are at work: the third waits for neither, and goes to the one that is done at 2.1, as the fourth does
    assert found.done.tolist() == [5.0, 2.1, 3.1, 4.1]


def test_what_waits_for_room_goes_to_a_new_replica():
    growth = Growth(lambda load, rate, seconds: 2, every=1.0, reports=1.0, up=0.5, loading=1.0)
    found = passed(Stage(1, room=2, growth=growth), np.array([0, 0.1, 0.2, 0.3, 9.0]), np.full(5, 4.0), rng())
    # wanted at 1 s, there at 2 s: the third, which had no room, is done at 6; the second waits for the first
    assert found.done.tolist() == [4.0, 8.0, 6.0, 10.0, 13.0]


def test_stages_one_behind_the_other():
    small, large = Stage(1, way=0.5), Stage(1)
    at, found = in_line([small, large], np.array([0.0, 0.5]), [np.ones(2), np.array([NAN, 3.0])], rng())
    assert at.tolist() == [1.5, 5.5]  # the second: 1 until 2, the way, and 3
    assert [len(one.done) for one in found] == [2, 1]


def test_nobody_comes():
    at, (found,) = in_line([Stage(2)], np.array([]), [np.array([])], rng())
    assert (len(at), found.busy, found.held) == (0, 0.0, 0.0)


def test_replicas_come_when_need_lasts_and_go_when_it_does_not():
    loads = []

    def wanted(load, rate, seconds):
        loads.append((load, rate, seconds))
        return 2 if load > 0 else 1

    growth = Growth(wanted, every=1.0, reports=1.0, look_back=2.0, up=3.0, down=4.0, loading=10.0)
    arrivals = np.array([0.0, 40.0, 60.0])
    found = passed(Stage(1, growth=growth), arrivals, np.array([12.5, 1.0, 1.0]), rng())
    # under way at 1 ... 12 s; wanted for more than 3 s at 4 s, and there at 14 s, when nobody is left: from 14 s on
    # the mean over 2 s is 0, and so for more than 4 s at 18 s, when the second goes again
    assert found.sizes[:3] == [(0.0, 1), (14.0, 2), (18.0, 1)]
    assert loads[3] == (1.0, 0.0, 0.0)  # at 4 s: one under way, none came within 2 s, nothing was finished
    assert found.done.tolist() == [12.5, 41.0, 61.0]
    assert found.held == 61.0 + (18.0 - 4.0)


def test_what_is_wanted_is_known_no_sooner_than_it_is_reported():
    growth = Growth(lambda load, rate, seconds: 2, reports=10.0, up=3.0, loading=5.0)
    found = passed(Stage(1, growth=growth), np.array([0.0, 50.0]), np.ones(2), rng())
    told = math.ceil(10 * rng().random())  # the reports' phase is chance
    assert found.sizes[1] == (told + 3 + 5, 2)  # wanted for more than 3 seconds then, and 5 to load


def test_a_replica_that_is_no_longer_wanted_does_what_it_has():
    growth = Growth(lambda load, rate, seconds: 1, every=1.0, reports=1.0, look_back=1.0, down=0.0)
    found = passed(Stage(2, growth=growth), np.array([0.0, 0.1, 5.0]), np.array([4.0, 4.0, 1.0]), rng())
    assert found.sizes[1] == (1.0, 1)
    assert sorted(found.done[:2]) == [4.0, 4.1]
    assert found.held == pytest.approx(6.0 + 4.1, abs=0.11)  # whichever of the two went


@given(
    st.lists(st.tuples(st.floats(0, 5), st.floats(0, 3)), min_size=1, max_size=60),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from([1, 2, 5, math.inf]),
    st.floats(0, 1),
    st.booleans(),
)
def test_nothing_is_lost_or_done_early_and_chance_is_the_seeds(clips, replicas, batch, room, fixed, grows):
    arrivals = np.cumsum([gap for gap, _ in clips])
    seconds = np.array([cost for _, cost in clips])
    growth = Growth(lambda load, rate, each: 1 + int(load), up=1.0, down=2.0, loading=1.5) if grows else None
    stage = Stage(replicas, batch, room, fixed, growth=growth)
    found, again = (passed(stage, arrivals, seconds, rng(7)) for _ in range(2))
    assert (found.done >= arrivals + seconds + fixed - 1e-9).all()
    batches = (found.busy - seconds.sum()) / fixed if fixed > 1e-3 else len(clips)
    assert len(clips) / batch - 1e-6 <= batches <= len(clips) + 1e-6
    assert found.busy <= found.held + 1e-6
    assert found.done.tolist() == again.done.tolist() and found.sizes == again.sizes
