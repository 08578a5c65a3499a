"""How many replicas a day wants: what clips cost, when they come, and that no fewer would do."""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from uacs.cascade.sizing import DAY, HOUR, LARGE, SMALL, VERIFIER, Costs, Day, Service, costs, sized
from uacs.errors import WrongUse
from uacs.records import OUTCOME_SCHEMA

NAN = float("nan")
SERVICE = Service({SMALL: 64, LARGE: 4, VERIFIER: 4}, way=0.02, loading=60.0, prices={SMALL: 0.1, LARGE: 2.0})
ROWS = [
    {"u_small": 0.1, "stage": "small", "seconds_small": 0.01, "seconds_large": 2.0},  # asked to compare
    {"u_small": 0.9, "stage": "large", "seconds_small": 0.01, "seconds_large": 1.0},
    {"u_small": 0.9, "stage": "verify", "seconds_small": 0.02, "seconds_large": 3.0, "seconds_verify": 0.5},
    {"u_small": 0.9, "stage": "average", "seconds_small": 0.02},  # of whom nothing was measured
    {"u_small": None, "stage": None},
]


def table(rows=ROWS):
    blank = {"status": "ok", "large_status": "ok", "verify_status": "not_asked"}
    return pa.Table.from_pylist([blank | {"sample_id": str(i)} | row for i, row in enumerate(rows)], OUTCOME_SCHEMA)


def half_and_half(count=1000):
    """Half of the clips go on, for a second each in the mean."""
    draw = np.random.default_rng(3)
    alone = draw.gamma(4, 0.25, count)
    return Costs({SMALL: np.full(count, 0.005), LARGE: np.where(np.arange(count) % 2, alone, NAN)}, alone)


def policy(queue, fewest, most, traffic, share, seconds):
    return max(fewest, min(most, math.ceil(max(queue, traffic * share * seconds / 0.7))))


def plans(goals, clips=None, day=None, service=SERVICE, seed=0):
    day = day or Day(100_000, 2.0)
    return sized(clips or half_and_half(), day, goals, service, policy, seed, lambda done, of: None)


def test_what_clips_cost_by_hand():
    found = costs(table(), {})
    assert found.left_out == 1
    assert found.seconds[SMALL].tolist() == [0.01, 0.01, 0.02, 0.02]
    assert np.nan_to_num(found.seconds[LARGE]).tolist() == [0, 1.0, 3.5, 2.0]  # the last: the mean of 2, 1 and 3
    assert found.alone.tolist() == [2.0, 1.0, 3.0, 2.0]
    assert (found.share(LARGE), found.mean(SMALL)) == (0.75, 0.015)


def test_a_verifier_has_its_second_looks_to_itself():
    found = costs(table(), {}, verifier=True)
    assert np.nan_to_num(found.seconds[LARGE]).tolist() == [0, 1.0, 3.0, 2.0]
    assert np.nan_to_num(found.seconds[VERIFIER]).tolist() == [0, 0, 0.5, 0]


def test_another_machine_is_as_much_faster_for_every_clip():
    found = costs(table(), {"large": 0.2, "verify": 0.1, "small": 0.03})
    assert np.nan_to_num(found.seconds[LARGE]) == pytest.approx([0, 0.1, 0.4, 0.2])
    assert found.seconds[SMALL] == pytest.approx([0.02, 0.02, 0.04, 0.04])


def test_answers_without_seconds_want_some():
    bare = [{name: value for name, value in row.items() if "large" not in name} for row in ROWS]
    with pytest.raises(WrongUse, match="no seconds of stage large; say --seconds large=SECONDS"):
        costs(table(bare), {})
    assert np.nan_to_num(costs(table(bare), {"large": 2.0}).seconds[LARGE]).tolist() == [0, 2.0, 2.5, 2.0]


@pytest.mark.parametrize("peak", [1.0, 1.5, 2.0, 4.0])
def test_a_day_has_its_clips_and_its_peak(peak):
    day = Day(400_000, peak)
    at = day.through(np.random.default_rng(0))
    assert len(at) == pytest.approx(400_000, rel=0.01)
    assert at[0] >= 0 and at[-1] <= DAY and (np.diff(at) >= 0).all()
    noon = ((at > DAY / 2 - 900) & (at < DAY / 2 + 900)).sum() / 1800
    assert noon == pytest.approx(peak * 400_000 / DAY, rel=0.05)
    hour = day.at_peak(np.random.default_rng(0))
    assert len(hour) / HOUR == pytest.approx(day.busiest, rel=0.02)


def test_goals_are_met_and_no_fewer_replicas_would_do():
    clips, goals = half_and_half(), [2.5, 4.0, 8.0]
    found = plans(goals, clips)
    assert [one.goal for one in found] == goals
    for one in found:
        for pool in (one.fixed, one.grown, one.alone):
            assert pool.latency[0] <= pool.latency[1] <= one.goal
        assert one.fixed.hours == {name: 24 * count for name, count in one.fixed.replicas.items()}
        # 2.3 clips a second in the busiest hour, half of them for a second each
        assert one.fixed.replicas[LARGE] >= 2
        assert one.alone.replicas[LARGE] > one.fixed.replicas[LARGE]
        assert one.fixed.busy == pytest.approx(100_000 / DAY * 2 * 0.5 / one.fixed.replicas[LARGE], rel=0.1)
    counts = [one.fixed.replicas[LARGE] for one in found]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]


def test_fewer_replicas_miss_the_goal():
    clips, day = half_and_half(), Day(100_000, 2.0)
    (found,) = plans([2.0], clips, day)
    arrivals = day.at_peak(np.random.default_rng(0))

    def p95(large):
        from uacs.cascade.queues import in_line

        drawn = np.random.default_rng(1).integers(1000, size=len(arrivals))
        stages = [SERVICE.stage(SMALL, 1), SERVICE.stage(LARGE, large)]
        done, _ = in_line(stages, arrivals, [each[drawn] for each in clips.seconds.values()], np.random.default_rng(2))
        return np.percentile(done - arrivals, 95)

    enough = found.fixed.replicas[LARGE]
    assert p95(enough) == pytest.approx(found.fixed.latency[1], rel=0.15) and p95(enough - 1) > 2.0


def test_an_autoscaler_pays_for_less_of_a_day_with_a_night():
    flat, peaked = (plans([4.0], day=Day(100_000, peak))[0] for peak in (1.0, 4.0))
    assert peaked.grown.hours[LARGE] < 0.6 * peaked.fixed.hours[LARGE]
    assert peaked.grown.fewest < peaked.fixed.replicas[LARGE] <= peaked.grown.replicas[LARGE]
    assert peaked.fixed.replicas[LARGE] > flat.fixed.replicas[LARGE]


def test_what_no_number_of_replicas_does_is_said():
    (found,) = plans([0.5])
    assert (found.fixed, found.grown, found.alone) == (None, None, None)


def test_a_batch_that_costs_something_wants_more_replicas():
    dear = replace(SERVICE, fixed={LARGE: 1.0})
    cheap, dearer = (plans([6.0], service=service)[0].fixed for service in (SERVICE, dear))
    assert dearer.replicas[LARGE] > cheap.replicas[LARGE]
    assert dearer.latency[1] <= 6.0


def test_a_slow_small_model_gets_replicas_of_its_own():
    clips = half_and_half()
    slow = Costs(clips.seconds | {SMALL: np.full(1000, 0.9)}, clips.alone)
    (found,) = plans([4.0], slow)
    assert found.fixed.replicas[SMALL] >= math.ceil(100_000 / DAY * 2 * 0.9 / 0.7)


def test_a_verifier_is_sized_too():
    clips = half_and_half()
    again = np.where(np.arange(1000) % 4 == 1, 2.0, NAN)
    (found,) = plans([8.0], Costs(clips.seconds | {VERIFIER: again}, clips.alone))
    # a quarter of 2.3 clips a second, two seconds each, at most 0.7 of the time
    assert found.fixed.replicas[VERIFIER] == 2
    assert found.grown.hours[VERIFIER] > 0 and found.grown.latency[1] <= 8.0


def test_the_price_of_a_day_by_hand():
    (found,) = plans([4.0])
    large = found.fixed.replicas[LARGE]
    assert found.fixed.price(SERVICE.prices) == pytest.approx(24 * (0.1 * found.fixed.replicas[SMALL] + 2.0 * large))
    assert found.fixed.price({}) == 0


def test_the_seed_is_all_that_is_left_to_chance():
    one, again, other = plans([4.0]), plans([4.0]), plans([4.0], seed=1)
    assert one == again
    assert one[0].fixed.latency != other[0].fixed.latency
