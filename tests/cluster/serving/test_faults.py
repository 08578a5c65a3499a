"""Parts of an endpoint die under load: all are answered or told to come again, nobody hangs, it is whole again."""

import asyncio
import os
import signal
import time

import httpx2
import pytest

from benchmarks.serving.clients import GONE, at_once
from benchmarks.serving.clients import codes as counted
from benchmarks.serving.endpoint import endpoint, server, workers
from tests.cluster.chaos import wait_until
from uacs.client import Client, Unanswered

pytestmark = pytest.mark.cluster
RETRYABLE = {GONE, 502, 503, 504}
BODIES = [
    {"text": f"it was {word} and {other}"} for word in ("good", "bad", "fine", "dull") for other in ("warm", "cold")
]
MANY = 200
PARTS = {
    "large": "ray::ServeReplica:uacs:large",
    "small": "ray::ServeReplica:uacs:small",
    "endpoint": "ray::ServeReplica:uacs:Endpoint",
    "endpoint, by HAProxy": "ray::ServeReplica:uacs:Endpoint",
    "proxy": "ray::ProxyActor",
    "HAProxy": "ray::HAProxyManager",
}
KILLS = [((), part) for part in ("large", "small", "endpoint", "proxy")]
KILLS += [(("--ha-proxy",), part) for part in ("large", "small", "endpoint, by HAProxy", "HAProxy")]
BROKEN = ("proxy", "HAProxy", "endpoint, by HAProxy")  # what they had taken on is lost with the connection


@pytest.fixture(scope="module")
def url(tiny_demo, request):
    room = ["limits.deadline=20", "limits.requests=256", "endpoint_pool.queue=256", "large_pool.queue=64"]
    with endpoint(tiny_demo[0], *request.param, *(word for setting in room for word in ("--set", setting))) as found:
        yield found


def whole(url) -> bool:
    """Whether it answers by both models."""
    with Client(url, retries=0) as client:
        try:
            return client.health().status == "ok" and client.predict("good and bad").status == "ok"
        except Unanswered:
            return False


@pytest.mark.parametrize(("url", "part"), KILLS, indirect=["url"], ids=lambda said: "".join(said))
def test_a_part_that_is_killed_under_load_costs_nobody_more_than_another_try(url, part, capsys):
    wait_until(lambda: whole(url))
    (victim,) = workers(url, PARTS[part])
    killed = []

    def kill():
        os.kill(victim, signal.SIGKILL)
        killed.append(time.monotonic())

    bodies = [BODIES[i % len(BODIES)] for i in range(MANY)]
    outcomes = asyncio.run(at_once(url, bodies, kill))
    codes = {outcome.code for outcome in outcomes}
    allowed = {200} | RETRYABLE | ({500} if part == "endpoint, by HAProxy" else set())
    assert len(outcomes) == MANY and codes <= allowed, codes
    assert part in BROKEN or (200 in codes and GONE not in codes), codes
    assert max(outcome.seconds for outcome in outcomes) < 30
    wait_until(lambda: whole(url), 60)
    with capsys.disabled():
        after = time.monotonic() - killed[0]
        degraded = sum(outcome.status == "degraded" for outcome in outcomes)
        print(f"\n{part} killed: {counted(outcomes)}; {degraded} degraded; whole again after {after:.1f} s")
    again = asyncio.run(at_once(url, bodies))
    assert {outcome.code for outcome in again} == {200}


def test_what_no_replica_takes_up_is_given_back_soon_after_the_deadline(tiny_demo):
    with endpoint(tiny_demo[0], "--set", "limits.deadline=3") as url:
        wait_until(lambda: whole(url))
        (replica,) = workers(url, PARTS["endpoint"])
        os.kill(replica, signal.SIGSTOP)
        try:
            (outcome,) = asyncio.run(at_once(url, BODIES[:1]))
        finally:
            os.kill(replica, signal.SIGCONT)
        assert outcome.code == 408 and 3 < outcome.seconds < 10
        wait_until(lambda: whole(url))


def test_what_was_taken_on_is_finished_after_ctrl_c(tiny_demo):
    async def answered(url):
        """Whole batches, which take a while, and when they were answered."""
        body = {"samples": [{"text": f"it was good and bad {i}"} for i in range(256)]}
        async with httpx2.AsyncClient(timeout=60) as http:
            asking = [asyncio.create_task(http.post(f"{url}/v1/predict/batch", json=body)) for _ in range(3)]
            await asyncio.sleep(0.5)  # they are read by now, and take longer
            waiting = sum(not task.done() for task in asking)
            server(url).send_signal(signal.SIGINT)
            return waiting, [answer.status_code for answer in await asyncio.gather(*asking)]

    with endpoint(tiny_demo[0]) as url:
        ended = server(url)
        waiting, codes = asyncio.run(answered(url))
        assert waiting and codes == [200] * 3
        assert ended.wait(60) == 0
