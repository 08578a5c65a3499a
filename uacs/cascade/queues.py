"""How long clips wait where replicas answer them: queues, simulated clip by clip.

A clip goes to the replica with less to do of two that are drawn, as Serve's router sends it, and waits there; where all
have as much as they take on, it waits for the first that does not. A replica that is free takes what waits, oldest
first and at most a batch, and is at it for a fixed time and its clips' own, as `uacs.cluster.serving.turns` cuts
batches. How many replicas there are is given, or a policy's: by means over some seconds, once it has said so for long
enough, and a new one has to load.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

Wanted = Callable[[float, float, float], int]
"""Replicas, by clips that wait or are under way, clips that come a second, and seconds that one costs; all means."""

BATCHES = 20  # of a replica, by which it knows what a clip costs
FORESEEN = 4096  # random numbers that are drawn at once


@dataclass(frozen=True)
class Growth:
    """How an autoscaler goes about it, all in seconds.

    It decides `every` so many, by means over `look_back` that it is told anew only every `reports`, as Serve's
    controller is. A need for more must last for `up`, one for fewer for `down`; `loading` passes until a new replica
    answers. since is when the first replicas began, and with them the reports, which come by chance if it is None.
    """

    wanted: Wanted
    every: float = 1.0
    reports: float = 10.0
    look_back: float = 30.0
    up: float = 5.0
    down: float = 60.0
    loading: float = 0.0
    since: float | None = None


@dataclass(frozen=True)
class Stage:
    """Replicas at first, the most clips that one takes at once, and the most that it is at or that wait there.

    fixed are a batch's seconds beside its clips' own, way those of a clip's way there and back.
    """

    replicas: int
    batch: int = 1
    room: float = math.inf
    fixed: float = 0.0
    way: float = 0.0
    growth: Growth | None = None


@dataclass(frozen=True)
class Passed:
    """When each clip was done (N,), in seconds; replica-seconds at work, and paid for; and replicas from when on."""

    done: np.ndarray
    busy: float
    held: float
    sizes: list[tuple[float, int]]


Span = tuple[float, float]
"""From when to when replicas are there and paid for, in seconds; None: from the first clip until the last is done."""


def passed(
    stage: Stage, arrivals: np.ndarray, seconds: np.ndarray, draw: np.random.Generator, span: Span | None = None
) -> Passed:
    """A stage's clips: they come at `arrivals` (N,), in order, and cost `seconds` (N,) each."""
    run = _Pool(stage, seconds, draw, span or (float(arrivals[0]) if len(arrivals) else 0.0, 0.0))
    for i, now in enumerate(arrivals.tolist()):
        run.come(i, now)
    return run.found()


def in_line(
    stages: Sequence[Stage],
    arrivals: np.ndarray,
    seconds: Sequence[np.ndarray],
    draw: np.random.Generator,
    span: Span | None = None,
) -> tuple[np.ndarray, list[Passed]]:
    """Stages one behind the other: when each clip is done with all of them (N,), and what passed each.

    `seconds` has (N,) for each stage, NaN for clips that do not go there.
    """
    at, found = np.array(arrivals, float), list[Passed]()
    for stage, each, own in zip(stages, seconds, draw.spawn(len(stages)), strict=True):
        goes = np.flatnonzero(np.isfinite(each))
        goes = goes[np.argsort(at[goes], kind="stable")]
        found.append(passed(stage, at[goes], each[goes], own, span))
        at[goes] = found[-1].done + stage.way
    return at, found


@dataclass(slots=True, eq=False)
class _Replica:
    """Since when it is paid for, when it is done with what it is at, how many clips that is, and which wait for it."""

    since: float
    free: float
    at_work: int = 0
    waiting: deque[int] = field(default_factory=deque)
    took: float = 0.0  # of the batch that it is at
    batches: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=BATCHES))
    warm: bool = False

    def note(self) -> None:
        """The batch that it was at is over: noted, unless it was its first, as `uacs.cluster.serving.scaling` does."""
        if self.at_work and self.warm:
            self.batches.append((self.took, self.at_work))
        self.warm = self.warm or bool(self.at_work)

    @property
    def load(self) -> int:
        """Clips that it is at, or that wait for it."""
        return self.at_work + len(self.waiting)


class _Pool:
    """A stage under way."""

    def __init__(self, stage: Stage, seconds: np.ndarray, draw: np.random.Generator, span: Span):
        self.stage, self.seconds, self.draw = stage, seconds.tolist(), draw
        self.done = np.zeros(len(seconds))
        start, self.end = span
        self.replicas = [_Replica(start, start) for _ in range(stage.replicas)]
        self.lobby: deque[int] = deque()  # those for whom no replica has room
        self.busy, self.held = 0.0, 0.0
        self.sizes = [(start, stage.replicas)]
        self.chances: list[float] = []
        self.scaler = _Scaler(stage.growth, start, float(draw.random())) if stage.growth else None

    def come(self, i: int, now: float) -> None:
        """A clip comes."""
        if self.scaler:
            self.scaler.look(self, now)
            self.scaler.came.append(now)
        self._usher(now)
        chosen = self._chosen(now)
        if chosen.load >= self.stage.room:
            self.advance(now)
            chosen = min(self.replicas, key=lambda replica: replica.load)
        if self.lobby or chosen.load >= self.stage.room:
            self.lobby.append(i)
        elif chosen.free <= now:
            self._begin(chosen, [i], now)
        else:
            chosen.waiting.append(i)

    def _chosen(self, now: float) -> _Replica:
        """The one with less to do of two replicas."""
        count = len(self.replicas)
        if count == 1:
            self._work(self.replicas[0], now)
            return self.replicas[0]
        if len(self.chances) < 2:
            self.chances = self.draw.random(FORESEEN).tolist()
        first, second = int(self.chances.pop() * count), int(self.chances.pop() * (count - 1))
        one, other = self.replicas[first], self.replicas[second + (second >= first)]
        self._work(one, now)
        self._work(other, now)
        return other if other.load < one.load else one

    def advance(self, now: float) -> None:
        """Have all replicas do what they would have by now."""
        self._usher(now)
        for replica in self.replicas:
            self._work(replica, now)

    @property
    def load(self) -> int:
        """Clips that are under way or wait."""
        return len(self.lobby) + sum(replica.load for replica in self.replicas)

    def _usher(self, now: float) -> None:
        """Those in the lobby go where there is room first, by now."""
        while self.lobby:
            first = min(self.replicas, key=lambda replica: replica.free)
            if first.free > now:
                return
            self._work(first, first.free)
            if first.free <= now and not first.at_work:
                self._begin(first, [self.lobby.popleft()], first.free)
            while self.lobby and first.load < self.stage.room:
                first.waiting.append(self.lobby.popleft())

    def _work(self, replica: _Replica, now: float) -> None:
        """Have a replica do what it has begun, or would have, by now."""
        while replica.free <= now:
            if self.scaler:
                replica.note()
            replica.at_work = 0
            if not replica.waiting:
                return
            taken = min(self.stage.batch, len(replica.waiting))
            self._begin(replica, [replica.waiting.popleft() for _ in range(taken)], replica.free)

    def _begin(self, replica: _Replica, clips: list[int], now: float) -> None:
        took = self.stage.fixed + sum(self.seconds[i] for i in clips)
        replica.free, replica.at_work, replica.took = now + took, len(clips), took
        self.busy += took
        for i in clips:
            self.done[i] = replica.free

    def grow(self, since: float, ready: float) -> None:
        """A replica more, asked for at `since`."""
        self.replicas.append(_Replica(since, ready))
        self.sizes.append((ready, len(self.replicas)))

    def shrink(self, now: float) -> None:
        """A replica fewer: the one with the least to do, which it still does."""
        self.advance(now)
        idlest = min(self.replicas, key=lambda replica: replica.load)
        self.replicas.remove(idlest)
        self._leave(idlest, now)
        self.sizes.append((now, len(self.replicas)))

    def _leave(self, replica: _Replica, now: float) -> None:
        self._work(replica, math.inf)
        self.held += max(replica.free, now) - replica.since

    def found(self) -> Passed:
        """What came of it, once all clips are done."""
        if self.scaler:
            self.scaler.look(self, self.end)
        self.advance(math.inf)
        end = float(self.done.max(initial=self.end))
        for replica in self.replicas:
            self._leave(replica, end)
        if self.scaler:
            self.held += sum(max(end - since, 0.0) for since in self.scaler.coming)
        return Passed(self.done, self.busy, self.held, self.sizes)


class _Scaler:
    """The autoscaler's account of a pool: it is asked before each clip what it would have done by then."""

    def __init__(self, growth: Growth, start: float, chance: float):
        self.growth, self.next = growth, start + growth.every
        idle = 0.0 if growth.since is None else start - growth.since
        self.report = start + (growth.reports * chance if growth.since is None else -idle % growth.reports)
        self.wanted: int | None = None
        self.coming: deque[float] = deque()  # since when each replica that is yet to answer has been loading
        self.came: deque[float] = deque()  # arrivals within look_back
        looks = max(1, round(growth.look_back / growth.every))
        self.loads = deque([0] * round(idle / growth.every), looks)
        self.streak = 0  # looks in a row that wanted more (above 0) or fewer (below)

    def look(self, pool: _Pool, now: float) -> None:
        """Everything that is due by now."""
        while True:
            ready = self.coming[0] + self.growth.loading if self.coming else math.inf
            if min(ready, self.next) > now:
                return
            if ready <= self.next:
                pool.grow(self.coming.popleft(), ready)
            else:
                self._tick(pool, self.next)
                self.next += self.growth.every

    def _tick(self, pool: _Pool, now: float) -> None:
        growth = self.growth
        pool.advance(now)
        self.loads.append(pool.load)
        if now >= self.report:
            self.report += growth.reports
            self._told(pool, now)
        there = len(pool.replicas) + len(self.coming)
        more = 0 if self.wanted is None else self.wanted - there
        if more > 0:
            self.streak = max(self.streak, 0) + 1
        else:
            self.streak = min(self.streak, 0) - 1 if more < 0 else 0
        lasted = abs(self.streak) * growth.every
        if more > 0 and lasted > growth.up:
            self.coming.extend([now] * more)
            self.streak = 0
        elif more < 0 and lasted > growth.down:
            self._fewer(pool, -more, now)
            self.streak = 0

    def _told(self, pool: _Pool, now: float) -> None:
        """What is wanted by what there has been of late; of load alone, while no replica knows what a clip costs."""
        while self.came and self.came[0] <= now - self.growth.look_back:
            self.came.popleft()
        each = [
            sum(took for took, _ in replica.batches) / sum(clips for _, clips in replica.batches)
            for replica in pool.replicas
            if replica.batches
        ]
        load, rate = sum(self.loads) / len(self.loads), len(self.came) / self.growth.look_back
        self.wanted = self.growth.wanted(load, rate, sum(each) / len(each) if each else 0.0)

    def _fewer(self, pool: _Pool, many: int, now: float) -> None:
        """First those that do not answer yet."""
        for _ in range(many):
            if self.coming:
                pool.held += now - self.coming.pop()
            else:
                pool.shrink(now)
