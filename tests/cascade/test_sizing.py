"""How many replicas a day wants: what clips cost, when they come, and that no fewer would do."""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from uacs.cascade.queues import in_line
from uacs.cascade.sizing import DAY, HOUR, LARGE, SMALL, VERIFY, Costs, Day, Service, _longest, costs, plan
from uacs.errors import BadInput, WrongUse
from uacs.records import OUTCOME_SCHEMA

NAN = float("nan")
SERVICE = Service({SMALL: 64, LARGE: 4, VERIFY: 4}, way=0.02, loading=60.0, prices={SMALL: 0.1, LARGE: 2.0})
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
    return plan(clips or half_and_half(), day, goals, service, policy, seed).sized


def test_what_clips_cost_by_hand():
    found = costs(table(), {})
    assert (found.left_out, found.filled) == (1, {SMALL: 0, LARGE: 1, "alone": 1, VERIFY: 0})
    assert found.seconds[SMALL].tolist() == [0.01, 0.01, 0.02, 0.02]
    assert np.nan_to_num(found.seconds[LARGE]).tolist() == [0, 1.0, 3.5, 2.0]  # the last: the mean of 2, 1 and 3
    assert found.alone.tolist() == [2.0, 1.0, 3.0, 2.0]
    assert (found.share(LARGE), found.mean(SMALL)) == (0.75, 0.015)


def test_a_verifier_has_its_second_looks_to_itself():
    found = costs(table(), {}, verifier=True)
    assert np.nan_to_num(found.seconds[LARGE]).tolist() == [0, 1.0, 3.0, 2.0]
    assert np.nan_to_num(found.seconds[VERIFY]).tolist() == [0, 0, 0.5, 0]


def test_without_replicas_of_its_own_a_second_look_pays_its_batch_itself():
    assert np.nan_to_num(costs(table(), {}, again=0.25).seconds[LARGE]).tolist() == [0, 1.0, 3.75, 2.0]


def test_a_run_of_which_nobody_answered_says_nothing():
    with pytest.raises(BadInput, match="no clip has an answer"):
        costs(table(ROWS[-1:]), {"small": 1.0})


def test_another_machine_is_as_much_faster_for_every_clip():
    found = costs(table(), {"large": 0.2, "verify": 0.1, "small": 0.03})
    assert np.nan_to_num(found.seconds[LARGE]) == pytest.approx([0, 0.1, 0.4, 0.2])
    assert found.seconds[SMALL] == pytest.approx([0.02, 0.02, 0.04, 0.04])


def test_answers_without_seconds_want_some():
    bare = [{name: value for name, value in row.items() if "large" not in name} for row in ROWS]
    with pytest.raises(WrongUse, match="no seconds of stage large; say --seconds large=SECONDS"):
        costs(table(bare), {})
    assert np.nan_to_num(costs(table(bare), {"large": 2.0}).seconds[LARGE]).tolist() == [0, 2.0, 2.5, 2.0]


@pytest.mark.parametrize("peak", [1.0, 1.5, 2.0, 4.0, 20.0])
def test_a_day_has_its_clips_and_its_peak(peak):
    day = Day(400_000, peak)
    at = day.arrivals(np.random.default_rng(0))
    assert day.days == 1 and len(at) == pytest.approx(400_000, rel=0.01)
    assert at[0] >= 0 and at[-1] <= DAY and (np.diff(at) >= 0).all()
    noon = ((at > DAY / 2 - 120) & (at < DAY / 2 + 120)).sum() / 240
    assert noon == pytest.approx(day.busiest, rel=0.1) and day.busiest == pytest.approx(peak * 400_000 / DAY)


def test_a_quiet_day_is_simulated_more_than_once():
    day = Day(1000, 2.0)
    at = day.arrivals(np.random.default_rng(0), day.days)
    assert len(at) == pytest.approx(1000 * day.days, rel=0.05) and at[-1] > (day.days - 1) * DAY > 0
    assert day.noons * day.busiest * HOUR == pytest.approx(20_000, rel=0.01)


def p95_at_noon(clips, day, replicas):
    """By simulation with other clips than the plan's: the hour about noon, and a quarter before."""
    at = day.arrivals(np.random.default_rng(5))
    at = at[(at % DAY > DAY / 2 - HOUR * 0.75) & (at % DAY < DAY / 2 + HOUR / 2)]
    drawn = np.random.default_rng(6).integers(len(clips.alone), size=len(at))
    stages = [SERVICE.stage(name, count) for name, count in replicas.items()]
    done, _ = in_line(stages, at, [clips.seconds[name][drawn] for name in replicas], np.random.default_rng(7))
    return np.percentile((done - at)[at % DAY > DAY / 2 - HOUR / 2], 95)


def test_goals_are_met_and_no_fewer_replicas_would_do():
    clips, day, goals = half_and_half(), Day(200_000, 2.0), [2.5, 4.0, 8.0]
    found = plans(goals, clips, day)
    assert [one.goal for one in found] == goals
    for one in found:
        for fleet in (one.fixed, one.grown, one.alone):
            assert fleet.latency[0] <= fleet.late <= min(one.goal, fleet.latency[1]) <= fleet.latency[2]
        replicas = one.fixed.replicas
        assert one.fixed.hours == {name: 24 * count for name, count in replicas.items()}
        assert one.alone.replicas[LARGE] > replicas[LARGE]
        # half of 200,000 clips for a second each
        assert one.fixed.at_work == pytest.approx(100_000 * clips.mean(LARGE) / HOUR / 24 / replicas[LARGE])
        assert p95_at_noon(clips, day, replicas) < 1.2 * one.goal
        assert p95_at_noon(clips, day, replicas | {LARGE: replicas[LARGE] - 1}) > 0.9 * one.goal
    counts = [one.fixed.replicas[LARGE] for one in found]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]


def test_an_autoscaler_pays_for_less_of_a_day_with_a_night():
    flat, peaked = (plans([4.0], day=Day(100_000, peak))[0] for peak in (1.0, 4.0))
    assert 24 * peaked.grown.fewest <= peaked.grown.hours[LARGE] < 0.6 * peaked.fixed.hours[LARGE]
    assert peaked.grown.fewest < peaked.fixed.replicas[LARGE] <= peaked.grown.replicas[LARGE]
    assert peaked.fixed.replicas[LARGE] > flat.fixed.replicas[LARGE]
    assert peaked.grown.at_work > peaked.fixed.at_work


def test_an_hour_is_from_half_past_to_half_past_on_all_days():
    noon, night = DAY / 2, DAY - 60.0
    at = np.concatenate(
        [np.full(1000, at) for at in (noon - 1801, noon - 1799, noon + 1799, night, DAY + 60, DAY + noon)]
    )
    waits = np.repeat([9.0, 1.0, 2.0, 5.0, 6.0, 3.0], 1000)
    (p50, p95, p99), late = _longest(at, at + waits, noon=True)
    assert (p50, p95, p99, late) == (2.0, 3.0, 3.0, 3.0)  # 1, 2, and the next day's 3
    (p50, p95, _), late = _longest(at[1000:], at[1000:] + waits[1000:], noon=False)
    assert (p50, p95, late) == (5.5, 6.0, 6.0)  # one day's last minute and the next one's first are one hour


def test_hours_of_few_clips_are_judged_with_their_neighbours_and_by_what_is_beyond_chance():
    at = np.concatenate([np.full(20, HOUR * 8), np.full(980, HOUR * 9), np.full(500, HOUR * 15)])
    waits = np.concatenate([np.full(20, 100.0), np.full(980, 1.0), np.full(500, 1.0)])
    (_, p95, p99), late = _longest(at, at + waits, noon=False)
    assert (p95, late) == (1.0, 1.0) and p99 == 100.0  # 20 of 1,500; alone they are all of an hour
    late_ones = np.where(np.arange(1000) < 55, 9.0, 1.0)  # 5.5 % of 1,000: two standard errors are 1.4 points
    (_, p95, _), late = _longest(np.full(1000, DAY / 2), DAY / 2 + late_ones, noon=False)
    assert (p95, late) == (9.0, 1.0)
    assert _longest(np.full(1000, DAY / 2), DAY / 2 + late_ones, noon=True)[1] == 9.0  # one hour is not many


def test_an_autoscaler_keeps_as_many_as_a_goal_wants():
    near, far = plans([2.5, 60.0], day=Day(100_000, 4.0), service=replace(SERVICE, loading=1800.0))
    assert near.grown.fewest > far.grown.fewest


def test_replicas_to_which_nobody_goes_are_paid_for_all_the_same():
    clips = half_and_half()
    (found,) = plans([4.0], Costs(clips.seconds | {LARGE: np.full(1000, NAN)}, clips.alone))
    assert found.fixed.hours[LARGE] == 24 and found.grown.hours[LARGE] == pytest.approx(24, abs=0.1)
    assert found.fixed.at_work == 0


@pytest.mark.parametrize("clips", [100, 1000])
def test_a_quiet_endpoint_wants_one_of_each(clips):
    (found,) = plans([4.0], day=Day(clips, 2.0))
    assert found.fixed.replicas == {SMALL: 1, LARGE: 1} and found.grown.fewest == 1


def test_a_model_that_takes_no_time_wants_one_replica():
    clips = half_and_half()
    (found,) = plans([4.0], Costs({SMALL: np.zeros(1000), LARGE: clips.seconds[LARGE]}, clips.alone))
    assert found.fixed.replicas[SMALL] == 1


def test_what_no_number_of_replicas_does_is_said():
    found = plan(half_and_half(), Day(100_000), [0.5], SERVICE, policy, 0)
    assert (found.sized[0].fixed, found.sized[0].grown, found.sized[0].alone) == (None, None, None)
    clips = half_and_half()
    waits = np.nan_to_num(clips.seconds[LARGE]) + 0.005 + 0.02
    assert found.unhurried == pytest.approx(np.percentile(waits, 95)) and found.unhurried > 0.5
    assert found.unhurried_alone == pytest.approx(np.percentile(clips.alone + 0.02, 95))


def test_a_batch_that_costs_something_wants_more_replicas():
    dear = replace(SERVICE, fixed={LARGE: 1.0})
    cheap, dearer = (plans([6.0], service=service)[0].fixed for service in (SERVICE, dear))
    assert dearer.replicas[LARGE] > cheap.replicas[LARGE]
    assert dearer.late <= 6.0


def test_a_slow_small_model_gets_replicas_of_its_own():
    clips = half_and_half()
    slow = Costs(clips.seconds | {SMALL: np.full(1000, 0.9)}, clips.alone)
    (found,) = plans([4.0], slow)
    assert found.fixed.replicas[SMALL] >= math.ceil(100_000 / DAY * 2 * 0.9 / 0.7)


def test_a_verifier_is_sized_so_that_few_wait_for_it():
    clips = half_and_half()
    again = np.where(np.arange(1000) % 4 == 1, 2.0, NAN)
    (found,) = plans([8.0], Costs(clips.seconds | {VERIFY: again}, clips.alone))
    # a quarter of 2.3 clips a second, two seconds each, at most 0.7 of the time: two could; 95 % wait for 0.8 s at most
    assert found.fixed.replicas[VERIFY] > 2
    assert found.fixed.hours[VERIFY] == found.grown.hours[VERIFY] == 24 * found.fixed.replicas[VERIFY]
    assert found.grown.late <= 8.0


def test_the_price_of_a_day_by_hand():
    (found,) = plans([4.0])
    large = found.fixed.replicas[LARGE]
    assert found.fixed.price(SERVICE.prices) == pytest.approx(24 * (0.1 * found.fixed.replicas[SMALL] + 2.0 * large))
    assert found.fixed.price({}) == 0


def test_the_seed_is_all_that_is_left_to_chance():
    one, again, other = plans([4.0]), plans([4.0]), plans([4.0], seed=1)
    assert one == again
    assert one[0].fixed.latency != other[0].fixed.latency


def test_each_search_is_told():
    heard = []
    plan(half_and_half(), Day(50_000), [4.0, 8.0], SERVICE, policy, 0, lambda done, of: heard.append((done, of)))
    assert heard[0] == (0, 6) and heard[-1] == (6, 6) and heard == sorted(heard)
