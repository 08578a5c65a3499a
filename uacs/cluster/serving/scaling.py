"""How many replicas of a large model there are: by the traffic before the UBM, ahead of the queue before the model.

    Traffic      what a replica of the endpoint counts: samples, and how many of them each later stage was due for
    Outlook      what a replica of the large model tells Serve: the endpoint's traffic, and its own seconds a sample
    look_ahead   what Serve's controller makes of both: `replicas_wanted`

A queue says that replicas are too few once they are, and nothing of the calls that a full one turned away. Traffic
does, since the endpoint counts a sample when it is due, whether or not it is asked.

Serve's policies see their own deployment's figures alone, so the large model's replicas fetch the endpoint's: by a
broadcast to all its replicas every few seconds, each of which takes some milliseconds and keeps nobody waiting. Serve
then averages them over `look_back_period_s` and holds its answer for `upscale_delay_s` and `downscale_delay_s`: the
counts within 10 seconds are noisy, and a replica of a large model takes minutes to load.

Serve takes the policy into its controller by value, together with what it uses here: nothing of that may import uacs,
and nothing may raise, since that stops the controller's care for all applications.
"""

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from statistics import fmean
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingContext
from ray.serve.exceptions import RayServeException

POLICY = {"policy_function": "uacs.cluster.serving.scaling:look_ahead"}
"""`policy` of an `autoscaling_config`."""

UTILISATION = 0.7  # share of its time that a replica is to be at work: the rest is room for bursts
RATE, SHARE = 10, 60  # seconds over which traffic, and the share of it that goes on, are counted
BATCHES = 20  # latest ones, by which a replica knows how long a sample takes
WAIT = 3.0  # seconds that the endpoint may take to say its traffic
ALL = "samples"
TINY = 1e-9  # of a replica: what floats add to a whole number is not worth one


def replicas_wanted(
    queue: float,
    fewest: int,
    most: int,
    traffic: float | None = None,
    share: float | None = None,
    seconds: float | None = None,
    utilisation: float = UTILISATION,
) -> int:
    """Replicas for the traffic to come, no fewer than the queue asks for, from `fewest` to `most`.

    traffic is what reaches the UBM in samples a second, share how much of it goes on to the large model, and
    seconds how long one replica takes for a sample. queue is the replicas for what is under way and waits, by
    themselves; they decide where one of the three is not known.

    >>> replicas_wanted(queue=0.5, fewest=1, most=8, traffic=20, share=0.3, seconds=0.35)  # 2.1 busy at 0.7 each
    3
    >>> replicas_wanted(queue=4.2, fewest=1, most=8, traffic=20, share=0.3, seconds=0.35)
    5
    >>> replicas_wanted(queue=0.5, fewest=1, most=8)
    1
    """
    ahead = 0.0
    if traffic is not None and share is not None and seconds is not None:
        ahead = traffic * share * seconds / utilisation
    return max(fewest, math.ceil(min(most, max(queue, ahead)) - TINY))


def look_ahead(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """`replicas_wanted` as Serve's autoscaling policy, without a state; the figures are those of `Outlook`."""

    def mean(name: str) -> float | None:
        values = context.aggregated_metrics.get(name, {}).values()
        return fmean(values) if values else None

    queue = context.total_num_requests / context.config.get_target_ongoing_requests()
    bounds = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return replicas_wanted(queue, *bounds, mean("traffic"), mean("share"), mean("seconds")), {}


class Traffic:
    """Samples that came to one replica of the endpoint within a minute, and how many each stage was due for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.counts: deque[tuple[int, dict[str, int]]] = deque()  # of each second in which something came

    def count(self, **samples: int) -> None:
        """Note so many `samples`, or so many that are due for a deployment: count(samples=8), count(large=3)."""
        now = int(self.clock())
        if not self.counts or self.counts[-1][0] != now:
            self.counts.append((now, {}))
        second = self.counts[-1][1]
        for name, number in samples.items():
            second[name] = second.get(name, 0) + number
        self._forget(now)

    def seen(self) -> dict[str, float]:
        """`rate`, samples a second over 10 whole ones, and what was counted within a minute, by name."""
        now = int(self.clock())
        self._forget(now)
        lately = sum(counts.get(ALL, 0) for second, counts in self.counts if now - RATE <= second < now)
        names = {name for _, counts in self.counts for name in counts}
        return {"rate": lately / RATE} | {name: sum(of.get(name, 0) for _, of in self.counts) for name in names}

    def _forget(self, now: int) -> None:
        while self.counts and self.counts[0][0] < now - SHARE:
            self.counts.popleft()


def together(seen: list[dict[str, float]], stage: str) -> dict[str, float]:
    """`traffic` and `share` of a stage over all replicas of the endpoint.

    >>> together([{"rate": 3.0, "samples": 90, "large": 20}, {"rate": 1.0, "samples": 10}], "large")
    {'traffic': 4.0, 'share': 0.2}
    """
    samples, due = (sum(one.get(name, 0) for one in seen) for name in (ALL, stage))
    return {"traffic": sum(one["rate"] for one in seen), "share": due / samples if samples else 0.0}


class Outlook:
    """What one replica of the large model, or of a verifier, knows of the work to come."""

    def __init__(self, ask: Callable[[], Awaitable[list[dict[str, float]]]] | None = None, stage: str | None = None):
        self.ask, self.stage = ask or _Endpoint(), stage
        self.batches: deque[tuple[float, int]] = deque(maxlen=BATCHES)
        self.warm = False

    def worked(self, seconds: float, samples: int) -> None:
        """Note a batch. The first is left out: it pays for what later ones find done."""
        if self.warm and samples:
            self.batches.append((seconds, samples))
        self.warm = True

    async def figures(self) -> dict[str, float]:
        """For `record_autoscaling_stats`: `seconds` a sample, and `traffic` and `share` where the endpoint says them.

        What is missing Serve knows from before, for `look_back_period_s`; then the queue alone decides.
        """
        batches = [*self.batches]  # the model's thread may add one
        known = {"seconds": sum(s for s, _ in batches) / sum(n for _, n in batches)} if batches else {}
        try:
            seen = await self.ask()
        except (RayError, RayServeException, TimeoutError):  # it is not up yet, or too busy to say
            return known
        return known | (together(seen, self.stage or serve.get_replica_context().deployment) if seen else {})


class _Endpoint:
    """Asks all replicas of the application's endpoint for what they have seen."""

    def __init__(self) -> None:
        self.handle: Any = None  # its router starts with the first broadcast

    async def __call__(self) -> list[dict[str, float]]:
        if self.handle is None:
            self.handle = serve.get_deployment_handle("Endpoint")
        answers = self.handle.broadcast("traffic_seen").results_async(timeout_s=WAIT, return_exceptions=True)
        return [seen for seen in await answers if isinstance(seen, dict)]  # one that dies takes its traffic along
