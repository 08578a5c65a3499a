"""The large model's replicas follow the traffic before the UBM, and never fall behind their own queue."""

import asyncio
import math
import time

import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers, lists, none, one_of, tuples
from ray import cloudpickle, serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from tests.cluster.chaos import wait_until
from uacs.cluster.serving.scaling import POLICY, Outlook, Traffic, look_ahead, replicas_wanted, together

rates, shares, times = floats(0, 1e4), floats(0, 1), floats(0, 1e3)
queues = floats(0, 1e3)
bounds = tuples(integers(0, 5), integers(1, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))


# --- replicas_wanted


@pytest.mark.parametrize(
    ("traffic", "share", "seconds", "wanted"),
    [
        (7, 0.5, 0.4, 2),  # 1.4 at work all the time, each of two for 0.7 of it: exactly enough
        (8, 0.5, 0.4, 3),
        (100, 0.17, 0.2, 5),  # 3.4 at work: 4.86 replicas
        (100, 0.17, 2.0, 10),  # 48.6, of which there are no more than 10
        (0, 0.5, 0.4, 1),
        (100, 0, 0.4, 1),
    ],
)
def test_the_work_that_comes_is_shared_out_at_seven_tenths_of_a_replica(traffic, share, seconds, wanted):
    assert replicas_wanted(0, 1, 10, traffic, share, seconds) == wanted


def test_a_queue_that_asks_for_more_has_its_way():
    assert replicas_wanted(6.1, 1, 10, 7, 0.5, 0.4) == 7
    assert replicas_wanted(1.9, 1, 10, 7, 0.5, 0.4) == 2


@pytest.mark.parametrize("known", [{}, {"traffic": 99.0}, {"traffic": 99.0, "share": 0.5}, {"seconds": 9.0}])
def test_without_a_figure_the_queue_decides_alone(known):
    assert replicas_wanted(2.5, 1, 10, **known) == 3


def test_what_floats_add_is_not_worth_a_replica():
    assert 0.1 + 0.2 > 0.3
    assert replicas_wanted((0.1 + 0.2) * 10, 1, 10) == 3


@given(queues, bounds, rates, shares, times, floats(1, 10))
def test_more_traffic_never_means_fewer_replicas(queue, bounds, traffic, share, seconds, factor):
    before = replicas_wanted(queue, *bounds, traffic, share, seconds)
    assert replicas_wanted(queue, *bounds, traffic * factor, share, seconds) >= before
    assert replicas_wanted(queue, *bounds, traffic, min(1.0, share * factor), seconds) >= before
    assert replicas_wanted(queue, *bounds, traffic, share, seconds * factor) >= before
    assert replicas_wanted(queue * factor, *bounds, traffic, share, seconds) >= before


@given(queues, bounds, one_of(none(), rates), one_of(none(), shares), one_of(none(), times))
def test_replicas_stay_within_bounds_and_do_not_fall_behind_the_queue(queue, bounds, traffic, share, seconds):
    wanted = replicas_wanted(queue, *bounds, traffic, share, seconds)
    assert bounds[0] <= wanted <= bounds[1]
    assert wanted >= min(bounds[1], queue - 1e-6)


@given(bounds, shares, times)
def test_without_traffic_and_queue_the_fewest_stay(bounds, share, seconds):
    assert replicas_wanted(0, *bounds, 0, share, seconds) == bounds[0]


@given(*[floats(0)] * 4)
def test_no_figure_makes_it_raise(queue, traffic, share, seconds):
    # an exception in Serve's controller would stop the care for all applications
    assert replicas_wanted(queue, 1, 4, traffic, share, seconds) in range(1, 5)


# --- look_ahead


def context(total, told, target=2.0, fewest=1, most=8):
    return AutoscalingContext(
        deployment_id=None,
        deployment_name="large",
        app_name="uacs",
        current_num_replicas=1,
        target_num_replicas=1,
        running_replicas=[],
        total_num_requests=lambda: total,
        total_queued_requests=0.0,
        aggregated_metrics=lambda: told,
        raw_metrics={},
        capacity_adjusted_min_replicas=fewest,
        capacity_adjusted_max_replicas=most,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=0.0,
        config=AutoscalingConfig(min_replicas=fewest, max_replicas=most, target_ongoing_requests=target),
    )


def test_replicas_of_one_deployment_say_the_same_traffic_and_their_own_seconds():
    told = {"traffic": {"a": 20.0, "b": 20.0}, "share": {"a": 0.3, "b": 0.3}, "seconds": {"a": 0.5, "b": 0.2}}
    assert look_ahead(context(1.0, told)) == (3, {})  # 20 x 0.3 x 0.35 / 0.7


def test_the_queue_counts_in_calls_of_which_each_replica_takes_some():
    assert look_ahead(context(9.0, {"running": {"a": 9.0}}, target=2.0)) == (5, {})


def test_serve_takes_the_policy_by_value(monkeypatch):
    policy = AutoscalingPolicy(**POLICY).get_serialized_policy_def()
    for module in ("uacs.cluster.serving.scaling", "uacs.cluster.serving", "uacs.cluster", "uacs"):
        monkeypatch.setitem(__import__("sys").modules, module, None)  # a controller whose image has no uacs
    assert cloudpickle.loads(policy)(context(9.0, {})) == (5, {})


# --- Traffic


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_traffic_is_counted_over_ten_whole_seconds(clock):
    traffic = Traffic(clock)
    assert traffic.seen() == {"rate": 0}
    for _ in range(12):  # 3 a second
        traffic.count(samples=2)
        traffic.count(samples=1, large=1)
        clock.now += 1
    assert traffic.seen() == {"rate": 3, "samples": 36, "large": 12}
    clock.now += 5
    assert traffic.seen()["rate"] == 1.5
    clock.now += 5
    assert traffic.seen() == {"rate": 0, "samples": 36, "large": 12}


def test_the_second_under_way_is_not_counted_yet(clock):
    traffic = Traffic(clock)
    traffic.count(samples=50)
    clock.now += 0.9
    assert traffic.seen()["rate"] == 0
    clock.now += 0.1
    assert traffic.seen()["rate"] == 5


def test_what_is_a_minute_old_is_forgotten(clock):
    traffic = Traffic(clock)
    traffic.count(samples=10, large=5)
    clock.now += 60
    assert traffic.seen() == {"rate": 0, "samples": 10, "large": 5}
    clock.now += 1
    assert traffic.seen() == {"rate": 0} and not traffic.counts


@given(lists(tuples(floats(0, 30), integers(0, 100)), max_size=50))
def test_no_more_is_kept_than_a_minute_and_the_rate_is_of_what_is_kept(events):
    clock = Clock()
    traffic = Traffic(clock)
    for pause, number in events:
        clock.now += pause
        traffic.count(samples=number)
    seen = traffic.seen()
    assert len(traffic.counts) <= 61
    assert 0 <= seen["rate"] <= seen.get("samples", 0) / 10 + 1e-9


def test_all_replicas_of_the_endpoint_are_one_traffic():
    seen = [{"rate": 2.0, "samples": 20, "large": 6, "verifier": 1}, {"rate": 6.0, "samples": 60, "large": 2}]
    assert together(seen, "large") == {"traffic": 8.0, "share": 0.1}
    assert together(seen, "verifier") == {"traffic": 8.0, "share": 1 / 80}
    assert together([{"rate": 0.0}], "large") == {"traffic": 0.0, "share": 0.0}


# --- Outlook


def figures(outlook):
    return asyncio.run(outlook.figures())


async def nobody():
    return []


def test_a_replica_knows_its_seconds_from_all_batches_but_the_first():
    outlook = Outlook(nobody, "large")
    assert figures(outlook) == {}
    outlook.worked(30.0, 1)
    assert figures(outlook) == {}
    outlook.worked(2.0, 8)
    outlook.worked(1.0, 2)
    outlook.worked(0.0, 0)  # all too late to be asked
    assert figures(outlook) == {"seconds": 0.3}
    for _ in range(20):
        outlook.worked(1.0, 10)
    assert figures(outlook) == {"seconds": 0.1}


def test_a_replica_passes_on_what_the_endpoint_has_seen():
    async def seen():
        return [{"rate": 3.0, "samples": 90, "large": 30}]

    outlook = Outlook(seen, "large")
    outlook.worked(1.0, 1)
    outlook.worked(1.0, 4)
    told = figures(outlook)
    assert told == {"seconds": 0.25, "traffic": 3.0, "share": 30 / 90}
    assert all(isinstance(value, float) and math.isfinite(value) for value in told.values())  # what Serve takes


def test_an_endpoint_that_does_not_answer_costs_nothing_but_its_figures():
    async def busy():
        raise TimeoutError

    outlook = Outlook(busy, "large")
    outlook.worked(1.0, 1)
    outlook.worked(1.0, 4)
    assert figures(outlook) == {"seconds": 0.25}


# --- all of it under Serve


@pytest.mark.cluster
def test_traffic_brings_replicas_that_the_queue_does_not_ask_for(ray_cluster):
    handle = serve.run(application(), name="scaling", route_prefix=None)
    try:
        wait_until(lambda: replicas() == 1, 30)
        assert handle.asked.remote(0).result() is None
        began = time.monotonic()
        while replicas() < 3 and time.monotonic() - began < 60:
            handle.asked.remote(20).result()
            time.sleep(0.2)
        assert replicas() == 3  # 100 samples a second, a tenth of them for 0.2 s each: 2.9
        wait_until(lambda: replicas() == 1, 60)
    finally:
        serve.delete("scaling")


def replicas():
    states = serve.status().applications["scaling"].deployments["large"].replica_states
    return states.get("RUNNING", 0)


def application():
    """An endpoint that counts and never asks, and a large model that is never asked: there is no queue."""

    class Endpoint:
        def __init__(self, large):
            self.traffic = Traffic()

        async def asked(self, samples):
            self.traffic.count(samples=samples, large=samples // 10)

        async def traffic_seen(self):
            return self.traffic.seen()

    class Large:
        def __init__(self):
            self.outlook = Outlook()
            for _ in range(2):
                self.outlook.worked(0.2, 1)

        async def record_autoscaling_stats(self):
            return await self.outlook.figures()

    soon = {"look_back_period_s": 3, "metrics_interval_s": 1, "upscale_delay_s": 0, "downscale_delay_s": 1}
    scaling = AutoscalingConfig(min_replicas=1, max_replicas=3, policy=AutoscalingPolicy(**POLICY), **soon)
    options = {"num_cpus": 0.1}
    large = serve.deployment(Large, name="large", autoscaling_config=scaling, ray_actor_options=options)
    return serve.deployment(Endpoint, name="Endpoint", ray_actor_options=options).bind(large.bind())
