"""One small actor a run: stages tell it how far they are, the driver asks it, and no other driver has its name.

It dies with its driver, so its name says whether a run is under way on this cluster. It lets only so many
parts begin before others are written, which bounds what a killed run does twice; and it remembers how
often a part was begun, so that a sample that kills its worker is found.
"""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict

import ray
from ray.util.metrics import Gauge
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from uacs.cluster.progress import COUNTED, Counts
from uacs.errors import Refused

NAMESPACE = "uacs"
PREFIX, VERIFIER = "uacs-run-", "uacs-verifier-"
GRACE = 30.0  # seconds that Ray may take to notice that a driver died
SILENCE = 300.0  # seconds without a word of any stage


class Tally:
    """What has become of a run's parts in this session. Everything that stages say may be said twice."""

    def __init__(self, run_id: str, total: int, earlier: Counts, in_flight: int):
        self.run_id, self.total, self.in_flight = run_id, total, in_flight
        self.done = earlier
        self.written: set[str] = set()
        self.under_way: dict[str, dict[str, int]] = {}
        self.begun: Counter[str] = Counter()
        self.trying: dict[str, str] = {}
        self.deaths: Counter[tuple[str, str]] = Counter()
        self.heard = 0
        self.free = asyncio.Condition()
        self.samples = Gauge("uacs_samples", "Samples of a run by how far they are.", ("run", "state"))

    async def begin(self, part: str) -> int:
        """Wait until the part may begin; returns how often it was begun before.

        After a long silence it may in any case: parts that a lost node took with it hold their places, and
        whoever waits here may be the actor that is to do them again.
        """
        async with self.free:
            while not self._may(part):
                heard = self.heard
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.free.wait(), SILENCE)
                if heard == self.heard:
                    break
            self.heard += 1
            if part not in self.written:
                self.under_way.setdefault(part, {})
            if sample_id := self.trying.pop(part, None):  # it was being asked about when the worker died
                self.deaths[part, sample_id] += 1
            self.begun[part] += 1
            return self.begun[part] - 1

    def _may(self, part: str) -> bool:
        return part in self.under_way or part in self.written or len(self.under_way) < self.in_flight

    async def try_alone(self, part: str, sample_id: str | None) -> int:
        """Note which sample of a suspect part is asked about now, if any; returns how many deaths it caused."""
        self.trying.pop(part, None)
        if sample_id is None:
            return 0
        self.trying[part] = sample_id
        return self.deaths[part, sample_id]

    async def note(self, part: str, counts: dict[str, int]) -> None:
        """How far a part is; counts by the names of `Counts`, each replacing what was said before."""
        self.heard += 1
        if part in self.under_way:
            self.under_way[part].update(counts)

    async def finish(self, part: str, counts: Counts) -> None:
        """A part is written."""
        async with self.free:
            self.heard += 1
            if part not in self.written:
                self.written.add(part)
                self.under_way.pop(part, None)
                self.done += counts
            self.free.notify_all()

    async def read(self) -> Counts:
        """All that has come so far, earlier sessions included; sets Prometheus' gauges as well."""
        live: Counter[str] = Counter()
        for counts in self.under_way.values():
            live.update(counts)
        now = self.done + Counts(**{name: live[name] for name in COUNTED})
        for name, value in {"total": self.total, **asdict(now)}.items():
            self.samples.set(value, {"run": self.run_id, "state": name})
        return now


def take(run_id: str, total: int, earlier: Counts, in_flight: int) -> ray.actor.ActorHandle:
    """The run's tally, on this node; raises `Refused` if another driver on this cluster has it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, scheduling_strategy=here)(Tally)
    options = dict(name=name_of(run_id), namespace=NAMESPACE)
    wait = 0.25
    for _ in range(int(GRACE / wait)):
        if not alive(run_id):
            try:
                return actor.options(**options).remote(run_id, total, earlier, in_flight)
            except ValueError:  # another was quicker
                pass
        time.sleep(wait)
    raise Refused(f"run {run_id} is under way on this cluster; wait for it, or stop that job first")


def alive(run_id: str) -> bool:
    """Whether a driver on this cluster has the run."""
    try:
        ray.get_actor(name_of(run_id), namespace=NAMESPACE)
    except ValueError:
        return False
    return True


def any_alive() -> bool:
    """Whether any run is under way on this cluster."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return any(actor["namespace"] == NAMESPACE and actor["name"].startswith(PREFIX) for actor in named)


def name_of(run_id: str) -> str:
    """What a run's tally and its Serve application are called."""
    return PREFIX + run_id


def verifier_of(run_id: str) -> str:
    """What the Serve application of a run's verifier is called."""
    return VERIFIER + run_id


def run_of(app: str) -> str | None:
    """The run that an application of such a name is of; None if it is of none."""
    return next((app.removeprefix(prefix) for prefix in (PREFIX, VERIFIER) if app.startswith(prefix)), None)
