"""How many replicas an endpoint wants for so many clips a day, by what a run measured of its clips.

Clips come by chance, and are a run's, drawn with replacement: so a share of them goes on, and those that take long do.
They pass the stages of `queues`. Replicas of a number that stays are chosen for the busiest time of the day; an
autoscaler's for each hour of the day, its policy passed in, as `uacs.cluster.serving.scaling` is Serve's.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import pyarrow as pa
from scipy.optimize import brentq
from scipy.special import gammaln

from uacs.cascade.outcomes import column
from uacs.cascade.queues import Growth, Passed, Stage, in_line
from uacs.errors import WrongUse

SMALL, LARGE, VERIFIER = STAGES = ("small", "large", "verify")
DAY, HOUR = 86_400.0, 3_600.0
MOST = 250_000  # clips of the busiest hour that are simulated
UTILISATION = 0.7  # of replicas whose number is not searched for
WAIT = 0.1  # share of a goal that the small model may let 95 % of the clips wait
FEW = 0.01  # of a day's clips: the p95 of an hour that has fewer is chance
ROOM = 4  # batches that a replica takes on, as `uacs.cluster.serving.application` has it
ENOUGH = 8  # times the replicas that could just do it: more would change nothing

Told = Callable[[int, int], None]
Policy = Callable[[float, int, int, float, float, float], int]
"""`replicas_wanted`: of queue (in replicas), fewest, most, clips a second, share that goes on, and seconds a clip."""


@dataclass(frozen=True)
class Costs:
    """Seconds that a run's clips take in each stage, (N,) each by its name, NaN for those that do not go there.

    alone are those of a large model that is asked about every clip (N,), left_out the clips that have no answer.
    """

    seconds: dict[str, np.ndarray]
    alone: np.ndarray
    left_out: int = 0

    def share(self, stage: str) -> float:
        """How many of the clips go there."""
        return float(np.isfinite(self.seconds[stage]).mean())

    def mean(self, stage: str) -> float:
        """Seconds of a clip that goes there."""
        return float(np.nanmean(self.seconds[stage])) if self.share(stage) else 0.0


@dataclass(frozen=True)
class Service:
    """What is known of an endpoint besides, by stage: the most clips at once, and a batch's seconds beside its clips'.

    way is the seconds that HTTP and Ray take, loading those until a new replica answers, prices those of an hour of a
    replica.
    """

    batch: dict[str, int] = field(default_factory=lambda: {SMALL: 64, LARGE: 16, VERIFIER: 16})
    fixed: dict[str, float] = field(default_factory=dict)
    way: float = 0.03
    loading: float = 120.0
    prices: dict[str, float] = field(default_factory=dict)

    def stage(self, name: str, replicas: int, growth: Growth | None = None) -> Stage:
        """So many replicas; the way is the first's."""
        way = self.way if name == SMALL else 0.0
        batch = self.batch[name]
        return Stage(replicas, batch, ROOM * batch, self.fixed.get(name, 0.0), way, growth)

    def growing(self, name: str, fewest: int, most: int, policy: Policy) -> Stage:
        """Replicas as an autoscaler's policy wants them."""
        target = max(1, self.batch[name] // 2)  # what `serving.application` tells Serve

        def wanted(load: float, rate: float, seconds: float) -> int:
            return policy(load / target, fewest, most, rate, 1.0, seconds)

        return self.stage(name, fewest, Growth(wanted, loading=self.loading))

    def capacity(self, name: str, seconds: float) -> float:
        """Clips a second of a replica that never waits, at so many seconds each."""
        return 1 / (seconds + self.fixed.get(name, 0.0) / self.batch[name])


@dataclass(frozen=True)
class Day:
    """A day's clips, and how many times the mean rate its busiest moment has."""

    clips: float
    peak: float = 2.0

    @property
    def busiest(self) -> float:
        """Clips a second in the busiest moment."""
        return self.clips / DAY * self.peak

    def at_peak(self, draw: np.random.Generator) -> np.ndarray:
        """Arrivals of the busiest hour, or of as much of it as has `MOST` clips; seconds, in order."""
        count = draw.poisson(min(self.busiest * HOUR, MOST))
        return np.sort(draw.uniform(0, min(HOUR, MOST / self.busiest), count))

    def through(self, draw: np.random.Generator) -> np.ndarray:
        """Arrivals from midnight to midnight: a rate like ((1 - cos t) / 2)^k, k as the peak wants it."""
        k = _sharpness(self.peak)
        at = np.linspace(0, DAY, 24 * 60 + 1)
        rate = ((1 - np.cos(2 * math.pi * at / DAY)) / 2) ** k
        until = np.concatenate([[0], np.cumsum(rate[1:] + rate[:-1])])
        chances = np.sort(draw.random(draw.poisson(self.clips)))
        return np.interp(chances, until / until[-1], at)


@dataclass(frozen=True)
class Pool:
    """Replicas by stage, or the most there were; replica-hours of a day; p50, p95 and p99 of the busiest hour, in
    seconds; and how much of its paid time the large model is at work. fewest are an autoscaler's of the large model."""

    replicas: dict[str, int]
    hours: dict[str, float]
    latency: tuple[float, float, float]
    busy: float
    fewest: int | None = None

    def price(self, prices: Mapping[str, float]) -> float:
        """Of a day."""
        return sum(hours * prices.get(name, 0.0) for name, hours in self.hours.items())


@dataclass(frozen=True)
class Sized:
    """What answers 95 % of the clips within `goal` seconds: replicas of a number that stays, an autoscaler's, and
    those of the large model alone. None where no number does."""

    goal: float
    fixed: Pool | None
    grown: Pool | None
    alone: Pool | None


def costs(table: pa.Table, given: Mapping[str, float], verifier: bool = False) -> Costs:
    """What the clips of an outcome table cost; `given` are mean seconds of stages on another machine.

    verifier: stage 3 has replicas of its own, else it is the large model's. Raises `WrongUse` where nobody knows a
    stage's seconds.
    """
    answered = np.isfinite(column(table, "u_small"))
    stage = np.array(table["stage"].to_pylist(), object)[answered]
    everyone, twice = np.ones(len(stage), bool), stage == "verify"
    sent = np.isin(stage, ["large", "average", "verify"])

    def seconds(name: str, goes: np.ndarray) -> np.ndarray:
        return _seconds(column(table, f"seconds_{name}")[answered], goes, given.get(name), name)

    small, alone = seconds(SMALL, everyone), seconds(LARGE, everyone)
    again = seconds(VERIFIER, twice) if twice.any() else np.full(len(stage), np.nan)
    large = np.where(sent, alone, np.nan)
    if verifier:
        every = {SMALL: small, LARGE: large, VERIFIER: again}
    else:
        every = {SMALL: small, LARGE: large + np.where(twice, again, 0.0)}
    return Costs(every, alone, int(np.count_nonzero(~answered)))


def _seconds(measured: np.ndarray, goes: np.ndarray, mean: float | None, said: str) -> np.ndarray:
    """Seconds of the clips that go there; those that have none have the mean of the others."""
    known = measured[np.isfinite(measured)]
    if not len(known) and mean is None:
        raise WrongUse(f"the answers carry no seconds of stage {said}; say --seconds {said}=SECONDS")
    own = float(known.mean()) if len(known) else 0.0
    filled = np.where(np.isfinite(measured), measured, own)
    if mean is not None:
        filled = filled * (mean / own) if own else np.full(len(measured), mean)
    return np.where(goes, filled, np.nan)


def sized(
    clips: Costs, day: Day, goals: list[float], service: Service, policy: Policy, seed: int, told: Told
) -> list[Sized]:
    """Replicas for each goal; `told` hears how many of how many are done."""
    peak, whole = (_Traffic(clips, service, seed, at) for at in (day.at_peak, day.through))
    lonely = Costs({LARGE: clips.alone}, clips.alone)
    # nobody asks the small model there, so the way is the large model's
    alone = _Traffic(lonely, replace(service, fixed={LARGE: service.fixed.get(LARGE, 0.0)}), seed, day.at_peak)
    found = []
    for goal in goals:
        fixed = peak.fixed(goal)
        grown = whole.grown(goal, fixed, policy) if fixed else None
        found.append(Sized(goal, fixed, grown, alone.fixed(goal)))
        told(len(found), len(goals))
    return found


class _Traffic:
    """Clips that come, and what becomes of them with so many replicas; the same ones whatever is tried."""

    def __init__(
        self, clips: Costs, service: Service, seed: int, arrivals: Callable[[np.random.Generator], np.ndarray]
    ):
        self.clips, self.service, self.seed = clips, service, seed
        draw = np.random.default_rng(seed)
        self.at = arrivals(draw)
        drawn = draw.integers(len(clips.alone), size=len(self.at))
        self.seconds = {name: seconds[drawn] for name, seconds in clips.seconds.items()}
        self.rate = len(self.at) / (self.at[-1] - self.at[0])
        self.before = cache(self._before)

    def fixed(self, goal: float) -> Pool | None:
        """The fewest replicas, of a number that stays, by which 95 % of the clips are answered within `goal`."""
        if self._unhurried() > goal or (small := self._small(goal)) is None:
            return None
        behind = {name: self._just(name, UTILISATION) for name in self.seconds if name == VERIFIER}
        least = self._just(LARGE, 1.0)

        def tried(large: int) -> Pool | None:
            found = self._pool({SMALL: small} | {LARGE: large} | behind)
            return found if found.latency[1] <= goal else None

        return _fewest(tried, least, ENOUGH * least + ENOUGH)

    def grown(self, goal: float, fixed: Pool, policy: Policy) -> Pool | None:
        """The fewest that an autoscaler may leave, so that each hour of the day is within the goal."""
        most = {name: 2 * fixed.replicas[name] for name in self.seconds if name != SMALL}

        def tried(fewest: int) -> Pool | None:
            starts = {LARGE: fewest, VERIFIER: 1}
            stages = {name: self.service.growing(name, starts[name], count, policy) for name, count in most.items()}
            found = replace(self._pool(fixed.replicas, stages), fewest=fewest)
            return found if found.latency[1] <= goal else None

        return _fewest(tried, 1, most[LARGE])

    def _small(self, goal: float) -> int | None:
        """The fewest replicas of the small model which keep clips waiting for little of the goal."""
        if SMALL not in self.seconds:
            return 0
        least = self._just(SMALL, UTILISATION)
        unhurried = self.seconds[SMALL] + self.service.fixed.get(SMALL, 0.0) + self.service.way

        def tried(count: int) -> int | None:
            waited = self.before(count)[0] - self.at - unhurried
            return count if np.percentile(waited, 95) <= WAIT * goal else None

        return _fewest(tried, least, ENOUGH * least + ENOUGH)

    def _just(self, name: str, utilisation: float) -> int:
        """Replicas that can just do it, at so much of their time."""
        goes = np.isfinite(self.seconds[name])
        if not goes.any():
            return 1
        each = float(self.seconds[name][goes].mean())
        load = self.rate * goes.mean() / self.service.capacity(name, each)
        return max(1, math.ceil(load / utilisation))

    def _unhurried(self) -> float:
        """The p95 of clips that never wait."""
        alone = [np.nan_to_num(seconds + self.service.fixed.get(name, 0.0)) for name, seconds in self.seconds.items()]
        return float(np.percentile(sum(alone), 95)) + self.service.way

    def _before(self, small: int) -> tuple[np.ndarray, list[Passed]]:
        """When the small model is done with each clip, with so many replicas."""
        if not small:
            return self.at + self.service.way, []
        stage = self.service.stage(SMALL, small)
        return in_line([stage], self.at, [self.seconds[SMALL]], np.random.default_rng(self.seed))

    def _pool(self, replicas: dict[str, int], growing: dict[str, Stage] | None = None) -> Pool:
        """What comes of so many replicas."""
        at, passed = self.before(replicas.get(SMALL, 0))
        names = [name for name in self.seconds if name != SMALL]
        stages = [(growing or {}).get(name) or self.service.stage(name, replicas[name]) for name in names]
        done, behind = in_line(stages, at, [self.seconds[name] for name in names], np.random.default_rng(self.seed + 1))
        by_name = dict(zip([SMALL] * len(passed) + names, [*passed, *behind], strict=True))
        hours = {name: DAY / HOUR * replicas[name] for name in by_name}
        hours |= {name: by_name[name].held / HOUR for name in growing or ()}
        most = {name: max(count for _, count in found.sizes) for name, found in by_name.items()}
        large = by_name[LARGE]
        return Pool(most, hours, self._latency(done), large.busy / large.held if large.held else 0.0)

    def _latency(self, done: np.ndarray) -> tuple[float, float, float]:
        """p50, p95 and p99 of the hour whose p95 is the longest."""
        waited, hour = done - self.at, (self.at // HOUR).astype(int)
        ends = np.flatnonzero(np.diff(hour)) + 1
        hours = [part for part in np.split(waited, ends) if len(part) >= FEW * len(waited)]
        p50, p95, p99 = max((tuple(np.percentile(part, (50, 95, 99))) for part in hours), key=lambda three: three[1])
        return float(p50), float(p95), float(p99)


def _fewest(tried, least: int, most: int):
    """What `tried` makes of the fewest of least ... most by which it makes anything; None if it never does."""
    low, high = least, least
    while (found := tried(high)) is None:
        if high >= most:
            return None
        low, high = high + 1, min(most, 2 * high)
    while low < high:
        middle = (low + high) // 2
        if (better := tried(middle)) is None:
            low = middle + 1
        else:
            found, high = better, middle
    return found


def _sharpness(peak: float) -> float:
    """k, by which ((1 - cos t) / 2)^k is `peak` times its mean at its greatest.

    >>> _sharpness(1.0), round(_sharpness(2.0), 6)
    (0.0, 1.0)
    """
    if peak == 1:
        return 0.0

    def off(k: float) -> float:
        mean = math.exp(gammaln(k + 0.5) - gammaln(k + 1)) / math.sqrt(math.pi)
        return mean - 1 / peak

    return float(brentq(off, 0, peak**2 * 2))
