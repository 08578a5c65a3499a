"""How many replicas an endpoint wants for so many clips a day, by what a run measured of its clips.

Clips come by chance, and are a run's, drawn with replacement: so a share of them goes on, and those that take long do.
They pass the stages of `queues`. Each hour of the day is to be within the goal: an autoscaler's replicas are tried in
all of them, its policy passed in, as `uacs.cluster.serving.scaling` is Serve's; those that stay in the busiest.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TypeVar

import numpy as np
import pyarrow as pa
from scipy.optimize import brentq
from scipy.special import gammaln

from uacs.cascade.outcomes import column
from uacs.cascade.queues import Growth, Stage, in_line
from uacs.errors import BadInput, WrongUse

SMALL, LARGE, VERIFY = "small", "large", "verify"
ALONE = "alone"
DAY, HOUR = 86_400.0, 3_600.0
NOON = DAY / 2  # the busiest moment
BEFORE = HOUR  # the busiest hour is simulated from then on, so that it finds the queues that it would
CLIPS, DAYS = 200_000, 7  # at least so many clips are simulated, in at most so many whole days
NOONS, DAYS_OF_NOON = 20_000, 400  # and in the busiest hours of as many days as have so many
FEW = 1_000  # clips: hours that have fewer are judged with the next
DOUBT = 2.0  # standard errors: of 24 hours one is late by chance where no more clips are than so many beyond 5 %
BUSY = 0.7  # share of their time, at most, that replicas of the small model and the verifier work
WAIT = 0.1  # share of the goal that 95 % of the clips may wait for either
ATMOST = 1.25  # times what they can do may come at noon: the hour about it has less
ENOUGH = 8  # times the replicas that could just do it: beyond, little changes
ROOM = 4  # batches that a replica takes on, as `uacs.cluster.serving.application` has it

Policy = Callable[[float, int, int, float, float, float], int]
"""`replicas_wanted`: of queue (in replicas), fewest, most, clips a second, share that goes on, and seconds a clip."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Costs:
    """Seconds that a run's clips take in each stage, (N,) each by its name, NaN for those that do not go there.

    alone are those of a large model that is asked about every clip (N,). left_out clips have no answer; filled are, by
    stage, those that go there and were not timed, "alone" those of all: they have the mean of the others.
    """

    seconds: dict[str, np.ndarray]
    alone: np.ndarray
    left_out: int = 0
    filled: dict[str, int] = field(default_factory=dict)

    def share(self, stage: str) -> float:
        """How many of the clips go there."""
        return float(np.isfinite(self.seconds[stage]).mean())

    def mean(self, stage: str) -> float:
        """Seconds of a clip that goes there; 0 where none does."""
        return float(np.nanmean(self.seconds[stage])) if self.share(stage) else 0.0


@dataclass(frozen=True)
class Service:
    """What is known of an endpoint besides, by stage: the most clips at once, and a batch's seconds beside its clips'.

    way is the seconds that HTTP and Ray take, loading those until a new replica answers, prices those of an hour of a
    replica.
    """

    batch: dict[str, int] = field(default_factory=lambda: {SMALL: 64, LARGE: 16, VERIFY: 16})
    fixed: dict[str, float] = field(default_factory=dict)
    way: float = 0.03
    loading: float = 120.0
    prices: dict[str, float] = field(default_factory=dict)

    def stage(self, name: str, replicas: int, growth: Growth | None = None) -> Stage:
        """So many replicas; the way is the first's."""
        batch, way = self.batch[name], self.way if name == SMALL else 0.0
        return Stage(replicas, batch, ROOM * batch, self.fixed.get(name, 0.0), way, growth)

    def growing(self, name: str, fewest: int, most: int, policy: Policy) -> Stage:
        """Replicas as an autoscaler's policy wants them."""
        target = max(1, self.batch[name] // 2)  # what `uacs.cluster.serving.application` tells Serve

        def wanted(load: float, rate: float, seconds: float) -> int:
            return policy(load / target, fewest, most, rate, 1.0, seconds)

        return self.stage(name, fewest, Growth(wanted, loading=self.loading))


@dataclass(frozen=True)
class Day:
    """A day's clips, and how many times the mean rate its busiest moment has, which is noon."""

    clips: float
    peak: float = 2.0

    @property
    def busiest(self) -> float:
        """Clips a second at noon."""
        return self.clips / DAY * self.peak

    @property
    def days(self) -> int:
        """Whole days that are simulated."""
        return min(DAYS, math.ceil(CLIPS / self.clips))

    @property
    def noons(self) -> int:
        """Busiest hours that are simulated, of as many days."""
        return min(DAYS_OF_NOON, math.ceil(NOONS / (self.busiest * HOUR)))

    def arrivals(self, draw: np.random.Generator, days: int = 1) -> np.ndarray:
        """When clips come within some days, in seconds and in order: a rate like ((1 - cos t) / 2)^k, k by the peak."""
        at = np.linspace(0, DAY, 24 * 60 + 1)
        rate = ((1 - np.cos(2 * math.pi * at / DAY)) / 2) ** _sharpness(self.peak)
        until = np.concatenate([[0], np.cumsum(rate[1:] + rate[:-1])])
        counts = draw.poisson(self.clips, days)
        each = [day * DAY + np.interp(draw.random(n), until / until[-1], at) for day, n in enumerate(counts)]
        return np.sort(np.concatenate(each))


@dataclass(frozen=True)
class Fleet:
    """Replicas by stage, their hours of a day, and p50, p95 and p99 in seconds: of noon's hour, by which those are
    chosen that stay, or of the hour with the longest p95 where the large model's grow, the most that may be; fewest are
    the fewest then.

    at_work is the share of the large model's paid time that its clips' own seconds are, late the p95 in seconds that is
    held against goals: noon's or, of all hours, the longest that is beyond chance.
    """

    replicas: dict[str, int]
    hours: dict[str, float]
    latency: tuple[float, float, float]
    at_work: float
    late: float
    fewest: int | None = None

    def price(self, prices: Mapping[str, float]) -> float:
        """Of a day."""
        return sum(hours * prices.get(name, 0.0) for name, hours in self.hours.items())


@dataclass(frozen=True)
class Sized:
    """What answers 95 % of the clips within `goal` seconds: replicas that stay, an autoscaler's, and those that stay of
    the large model alone. None where none was found."""

    goal: float
    fixed: Fleet | None
    grown: Fleet | None
    alone: Fleet | None


@dataclass(frozen=True)
class Plan:
    """What each goal takes, and the p95 in seconds of clips that never wait: of the cascade, and of the large model."""

    sized: list[Sized]
    unhurried: float
    unhurried_alone: float


def costs(table: pa.Table, given: Mapping[str, float], verifier: bool = False, again: float = 0.0) -> Costs:
    """What the clips of an outcome table cost; `given` are mean seconds of stages on another machine.

    verifier: stage 3 has replicas of its own, else it is the large model's, where each second look takes `again`
    besides. Raises `WrongUse` where nobody knows a stage's seconds, `BadInput` where there are no clips.
    """
    answered = np.isfinite(column(table, "u_small"))
    if not answered.any():
        raise BadInput("no clip has an answer of the small model, so nothing is known of those to come")
    stage = np.array(table["stage"].to_pylist(), object)[answered]
    everyone, twice = np.ones(len(stage), bool), stage == "verify"
    sent, filled = np.isin(stage, ["large", "average", "verify"]), {}

    def seconds(name: str, goes: np.ndarray, called: str | None = None) -> np.ndarray:
        measured = column(table, f"seconds_{name}")[answered]
        filled[called or name] = int(np.count_nonzero(goes & ~np.isfinite(measured)))
        return np.where(goes, _seconds(measured, given.get(name), name), np.nan)

    small, large, alone = seconds(SMALL, everyone), seconds(LARGE, sent), seconds(LARGE, everyone, ALONE)
    look = seconds(VERIFY, twice) if twice.any() else np.full(len(stage), np.nan)
    if verifier:
        every = {SMALL: small, LARGE: large, VERIFY: look}
    else:
        every = {SMALL: small, LARGE: large + np.where(twice, look + again, 0.0)}
    return Costs(every, alone, int(np.count_nonzero(~answered)), filled)


def _seconds(measured: np.ndarray, mean: float | None, name: str) -> np.ndarray:
    """Everyone's seconds: what was measured, else the mean of that, all as much faster as the mean is to be."""
    known = measured[np.isfinite(measured)]
    own = float(known.mean()) if len(known) else 0.0
    if not len(known) and mean is None:
        raise WrongUse(f"the answers carry no seconds of stage {name}; say --seconds {name}=SECONDS")
    filled = np.where(np.isfinite(measured), measured, own)
    if mean is None:
        return filled
    return filled * (mean / own) if own else np.full(len(measured), mean)


def plan(
    clips: Costs,
    day: Day,
    goals: list[float],
    service: Service,
    policy: Policy,
    seed: int,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Plan:
    """Replicas for each goal; `told` hears how many of how many searches are over."""
    ours = _Traffic(clips, day, service, seed)
    lonely = _Traffic(Costs({LARGE: clips.alone}, clips.alone), day, service, seed)
    found: list[Sized] = []
    for goal in goals:
        told(3 * len(found), 3 * len(goals))
        fixed, alone = ours.staying(goal), lonely.staying(goal)
        told(3 * len(found) + 2, 3 * len(goals))
        found.append(Sized(goal, fixed, ours.growing(goal, fixed, policy) if fixed else None, alone))
    told(3 * len(goals), 3 * len(goals))
    return Plan(found, ours.unhurried(), lonely.unhurried())


class _Traffic:
    """Clips that come, and what becomes of them with so many replicas; the same clips, whatever is tried."""

    def __init__(self, clips: Costs, day: Day, service: Service, seed: int):
        self.clips, self.day, self.service, self.seed = clips, day, service, seed
        self.whole, many = self._drawn(day.days, 0), self._drawn(day.noons, 1)
        of_day = many.at % DAY
        self.noon = many.part((of_day >= NOON - HOUR / 2 - BEFORE) & (of_day < NOON + HOUR / 2))
        self.tried = cache(self._tried)
        self.before = cache(self._before)

    def _drawn(self, days: int, stream: int) -> "_Clips":
        draw = np.random.default_rng([self.seed, stream])
        at = self.day.arrivals(draw, days)
        drawn = draw.integers(len(self.clips.alone), size=len(at))
        return _Clips(at, {name: seconds[drawn] for name, seconds in self.clips.seconds.items()})

    def unhurried(self) -> float:
        """The p95 of clips that never wait."""
        fixed = self.service.fixed
        each = [np.nan_to_num(seconds + fixed.get(name, 0.0)) for name, seconds in self.clips.seconds.items()]
        return float(np.percentile(sum(each), 95)) + self.service.way

    def staying(self, goal: float) -> Fleet | None:
        """The fewest replicas, of a number that stays, which answer 95 % of the busiest hour's clips within `goal`."""
        others = {name: self._others(name, goal) for name in self.clips.seconds if name != LARGE}
        if any(count is None for count in others.values()):
            return None

        def tried(large: int) -> Fleet | None:
            fleet = self.tried(tuple({name: others.get(name, large) for name in self.clips.seconds}.items()))
            return fleet if fleet.late <= goal else None

        least = self._just(LARGE, ATMOST)
        return _fewest(tried, least, ENOUGH * (least + 1))

    def growing(self, goal: float, fixed: Fleet, policy: Policy) -> Fleet | None:
        """The fewest that an autoscaler of the large model may go down to, so that each hour is within the goal."""
        most = 2 * fixed.replicas[LARGE]

        def tried(fewest: int) -> Fleet | None:
            fleet = self.tried(tuple((fixed.replicas | {LARGE: most}).items()), fewest, policy)
            return fleet if fleet.late <= goal else None

        return _fewest(tried, 1, most)

    def _others(self, name: str, goal: float) -> int | None:
        """The fewest replicas of the small model, or of the verifier, which let clips wait for little of the goal."""
        clips = self.noon
        goes = np.isfinite(clips.seconds[name])
        if not goes.any():
            return 1
        came = clips.at + (np.nan_to_num(clips.seconds[LARGE]) if name == VERIFY else 0.0)
        order = np.flatnonzero(goes)[np.argsort(came[goes], kind="stable")]
        came, seconds = came[order], clips.seconds[name][order]

        def tried(count: int) -> int | None:
            stage = replace(self.service.stage(name, count), way=0.0)
            done, _ = in_line([stage], came, [seconds], np.random.default_rng([self.seed, 2]))
            return count if np.percentile(done - came - seconds - stage.fixed, 95) <= WAIT * goal else None

        least = self._just(name, BUSY)
        return _fewest(tried, least, ENOUGH * (least + 1))

    def _just(self, name: str, busy: float) -> int:
        """Replicas that can do it at noon, in full batches, in so much of their time."""
        each = self.clips.mean(name) + self.service.fixed.get(name, 0.0) / self.service.batch[name]
        return max(1, math.ceil(self.day.busiest * self.clips.share(name) * each / busy))

    def _tried(self, replicas: tuple[tuple[str, int], ...], fewest: int | None = None, policy=None) -> Fleet:
        """What comes of so many replicas at noon or, where those of the large model grow, in whole days."""
        counts, clips, span = dict(replicas), self.noon, None
        stages = {name: self.service.stage(name, count) for name, count in counts.items()}
        if fewest is not None:
            clips, span = self.whole, (0.0, DAY * self.day.days)
            stages[LARGE] = self._growing(fewest, counts[LARGE], policy)
        at = self.before(counts[SMALL], fewest is None) if SMALL in counts else clips.at + self.service.way
        rest = [name for name in counts if name != SMALL]
        seconds = [clips.seconds[name] for name in rest]
        done, passed = in_line(
            [stages[name] for name in rest], at, seconds, np.random.default_rng([self.seed, 3]), span
        )
        hours = {name: DAY / HOUR * count for name, count in counts.items()}
        if fewest is not None:
            hours[LARGE] = passed[rest.index(LARGE)].held / self.day.days / HOUR
        busy = self.day.clips * self.clips.share(LARGE) * self.clips.mean(LARGE) / HOUR
        latency, late = _longest(clips.at, done, fewest is None)
        return Fleet(counts, hours, latency, busy / hours[LARGE], late, fewest)

    def _growing(self, fewest: int, most: int, policy: Policy) -> Stage:
        """As many as the policy wants of the first hour's clips, and then as it comes."""
        rate = np.searchsorted(self.whole.at, HOUR) / HOUR
        now = policy(0.0, fewest, most, float(rate), self.clips.share(LARGE), self.clips.mean(LARGE))
        return replace(self.service.growing(LARGE, fewest, most, policy), replicas=now)

    def _before(self, small: int, noon: bool) -> np.ndarray:
        """When so many replicas of the small model are done with each clip (N,)."""
        clips, stage = self.noon if noon else self.whole, self.service.stage(SMALL, small)
        return in_line([stage], clips.at, [clips.seconds[SMALL]], np.random.default_rng([self.seed, 2]))[0]


@dataclass(frozen=True)
class _Clips:
    """When they come (N,), in order, and their seconds in each stage (N,)."""

    at: np.ndarray
    seconds: dict[str, np.ndarray]

    def part(self, mask: np.ndarray) -> "_Clips":
        """Those of a mask (N,)."""
        return _Clips(self.at[mask], {name: seconds[mask] for name, seconds in self.seconds.items()})


def _longest(at: np.ndarray, done: np.ndarray, noon: bool) -> tuple[tuple[float, float, float], float]:
    """p50, p95 and p99 of the hour of the day with the longest p95, or of noon's: from half past to half past.

    And the p95 that is held against goals: of many hours the longest that is beyond chance. All days are together, and
    hours of few clips are one with their neighbours.
    """
    waited, hour = done - at, ((at % DAY + HOUR / 2) // HOUR).astype(int) % 24
    groups: list[np.ndarray] = []
    for h in [12] if noon else range(24):
        now = waited[hour == h]
        if groups and len(groups[-1]) < FEW:
            groups[-1] = np.concatenate([groups[-1], now])
        else:
            groups.append(now)
    if len(groups) > 1 and len(groups[-1]) < FEW:
        last = groups.pop()
        groups[-1] = np.concatenate([groups[-1], last])
    doubt = 0.0 if noon else DOUBT
    late = [np.quantile(group, max(0.95 - doubt * math.sqrt(0.95 * 0.05 / len(group)), 0.5)) for group in groups]
    p50, p95, p99 = max((np.percentile(group, (50, 95, 99)) for group in groups), key=lambda three: three[1])
    return (float(p50), float(p95), float(p99)), float(max(late))


def _fewest(tried: Callable[[int], Found | None], least: int, most: int) -> Found | None:
    """What `tried` makes of the fewest of least ... most by which it makes anything, if more never are worse."""
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
