"""Whether live clips are such as the thresholds were calibrated on, and whether what the small model keeps stands.

`Reference` is what calibration looked like; it is kept in thresholds.json. `Drift` holds the last answers of an
endpoint against it: how unsure the small model is, and whom it hands on. `Shadow` counts what becomes of clips that
the small model settled and the large one was asked about all the same.
"""

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, model_validator
from scipy.special import chdtri, ndtri

from uacs.cascade.uncertainty import polarity
from uacs.errors import BadInput

TENTHS = 10
TIED = 1e-5  # nats: a sample's answers agree no better across batch sizes and devices, so no edge may part them
WINDOW = 1000
FEWEST = 200
"""Answers in the window before anything is said of it."""

SHIFTED = 0.25
"""PSI that calls for action: credit scoring's rule of thumb, for ten groups. A bell curve moved by half its standard
deviation has this much. It is folklore: see B. Yurdakul and J. Naranjo, "Statistical properties of the population
stability index", Journal of Risk Model Validation 14(4), 2020, from where `by_chance` is, too."""

OFF = 0.05
"""Difference in the share handed on that matters: a choice of ours, a twentieth of all clips more or fewer."""

CHANCE = 1e-4
"""How likely either alarm may be false where nothing changed, for one window. Windows overlap and are read again and
again, so over a long time it is more."""

SURE = float(-ndtri(CHANCE / 2))  # 3.89 standard errors, either way


class Reference(BaseModel):
    """What calibration looked like: u_small in tenths, and the share whose doubt was above tau_small.

    edges part the samples into up to ten groups, as equal as ties allow; counts has each group's samples, the surest
    first. A group has what is above the edge before it and at or below its own.
    """

    model_config = ConfigDict(extra="forbid")

    edges: list[FiniteFloat] = Field(max_length=TENTHS - 1)
    counts: list[PositiveInt]
    escalated: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _fit_together(self) -> "Reference":
        if sorted(set(self.edges)) != self.edges or len(self.counts) != len(self.edges) + 1:
            raise ValueError("expected edges that rise, and a count for each group that they make")
        return self

    @property
    def n(self) -> int:
        """How many samples it is of."""
        return sum(self.counts)

    @classmethod
    def of(cls, u_small: np.ndarray, doubt: np.ndarray, tau_small: float) -> "Reference":
        """Of the samples that the small model answered, by u_small and what tau_small is held against, (N,) each.

        An edge lies midway between two neighbours that differ, nearest to where a tenth ends: so equal values are in
        one group, and one that a GPU rounds otherwise stays there. Raises `BadInput` where nobody was answered.

        >>> u = np.array([0, 0, 0, 0, 0, 0, 0.25, 0.25, 0.5, 1])
        >>> Reference.of(u, u, tau_small=0.4)
        Reference(edges=[0.125, 0.375, 0.75], counts=[6, 2, 1, 1], escalated=0.2)
        """
        known = np.isfinite(u_small)
        if not known.any():
            raise BadInput("the small model answered no sample, so there is nothing to hold live clips against")
        u = np.sort(u_small[known])
        cuts = np.flatnonzero(np.diff(u) > TIED) + 1  # how many samples are below a gap
        wanted = len(u) * np.arange(1, TENTHS) / TENTHS
        at = np.unique(cuts[np.abs(cuts[:, None] - wanted).argmin(axis=0)]) if len(cuts) else cuts
        return cls(
            edges=((u[at - 1] + u[at]) / 2).tolist(),
            counts=np.diff(at, prepend=0, append=len(u)).tolist(),
            escalated=float(np.mean(doubt[known] > tau_small)),
        )


@dataclass(frozen=True)
class Reading:
    """What a window of n answers says; None where it has fewer than `FEWEST`.

    psi is the population stability index of u_small, and psi_by_chance what it exceeds once in 1 / `CHANCE` windows
    where nothing changed. escalated is the share whose doubt was above tau_small, expected the calibration's, and z
    how far apart these are in standard errors, the calibration's own included.
    """

    n: int
    expected: float
    psi: float | None = None
    psi_by_chance: float | None = None
    escalated: float | None = None
    z: float | None = None

    @property
    def shifted(self) -> bool:
        """Whether u_small is distributed otherwise: psi is at least `SHIFTED` and more than chance explains."""
        return self.psi is not None and self.psi_by_chance is not None and self.psi >= max(SHIFTED, self.psi_by_chance)

    @property
    def off(self) -> bool:
        """Whether another share is handed on: off by at least `OFF`, and by more than chance explains."""
        if self.escalated is None or self.z is None:
            return False
        return abs(self.escalated - self.expected) >= OFF and abs(self.z) > SURE

    @property
    def alarm(self) -> bool:
        """Whether the thresholds no longer fit what comes in: calibrate again, on clips such as these."""
        return self.shifted or self.off


class Drift:
    """The last answers of an endpoint, held against what calibration looked like.

    What chance explains is reckoned for clips that have nothing to do with each other. Many of one person in a row
    are alike and so fewer than they seem; `SHIFTED` and `OFF`, which do not shrink with n, stand against that.
    """

    def __init__(self, reference: Reference, window: int = WINDOW):
        if window < FEWEST:
            raise ValueError(f"a window of {window} answers never says anything; give {FEWEST} or more")
        self.reference, self.window = reference, window
        self._last: deque[tuple[int, bool]] = deque()
        self._counts, self._escalated = [0] * len(reference.counts), 0

    def add(self, u_small: float, escalated: bool) -> None:
        """Note an answer, whose doubt was above tau_small if escalated, asked or not; NaN is no answer."""
        if not math.isfinite(u_small):
            return
        group = bisect_left(self.reference.edges, u_small)
        self._last.append((group, bool(escalated)))
        self._counts[group] += 1
        self._escalated += bool(escalated)
        if len(self._last) > self.window:
            group, was = self._last.popleft()
            self._counts[group] -= 1
            self._escalated -= was

    def read(self) -> Reading:
        """What the window says now."""
        n, expected = len(self._last), self.reference.escalated
        if n < FEWEST:
            return Reading(n, expected)
        counts, share = np.array(self.reference.counts), self._escalated / n
        return Reading(
            n,
            expected,
            psi(counts, np.array(self._counts)),
            by_chance(self.reference.n, n, len(counts)),
            share,
            in_standard_errors(expected, self.reference.n, share, n),
        )


def psi(expected: np.ndarray, seen: np.ndarray) -> float:
    """Population stability index of two samples' counts in the same groups, (B,) each: Σ (p - q) ln(p / q).

    p are the shares seen and q those expected, to each of which ε is added, so that an empty group is not infinitely
    far: half a sample of the smaller of both, 1 / 2n. 0 for equal shares, else positive.

    >>> round(psi(np.array([50, 50]), np.array([100, 100])), 3), round(psi(np.array([50, 50]), np.array([50, 150])), 3)
    (0.0, 0.269)
    """
    epsilon = 0.5 / min(expected.sum(), seen.sum())
    q, p = (counts / counts.sum() + epsilon for counts in (expected, seen))
    return float(np.sum((p - q) * np.log(p / q)) / (1 + len(p) * epsilon))


def by_chance(n: int, m: int, groups: int) -> float:
    """The PSI that two samples of n and m from one distribution exceed with probability `CHANCE`.

    By Yurdakul and Naranjo it is (1 / n + 1 / m) times a χ² of as many degrees of freedom as groups, less one.
    """
    return (1 / n + 1 / m) * float(chdtri(groups - 1, CHANCE)) if groups > 1 else 0.0


def in_standard_errors(expected: float, n: int, share: float, m: int) -> float:
    """How far a share of m lies above one of n, in standard errors: the pooled z of two proportions, after Yates.

    His correction, half a sample of either, keeps a reference of twenty from raising the alarm too often.

    >>> round(in_standard_errors(0.4, 100, 0.6, 100), 3)  # (0.2 - 0.01) / sqrt(0.5 · 0.5 · 2 / 100)
    2.687
    """
    pooled = (expected * n + share * m) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    beyond = max(abs(share - expected) - (1 / n + 1 / m) / 2, 0.0)
    return math.copysign(beyond / error, share - expected) if error else 0.0


@dataclass(frozen=True)
class ShadowReading:
    """Of n clips that the small model settled: how many the large one gives another polarity, and the mean |Δy|."""

    n: int
    disagree: int
    mean_difference: float | None


class Shadow:
    """Running counts of clips that the small model settled and the large one was asked about all the same."""

    def __init__(self) -> None:
        self._n = self._disagree = 0
        self._difference = 0.0

    def add(self, y_small: float, y_large: float) -> bool | None:
        """Note both answers; returns whether their polarities agree, None where one lacks (NaN)."""
        if not (math.isfinite(y_small) and math.isfinite(y_large)):
            return None
        small, large = polarity(np.array([y_small, y_large]))
        self._n += 1
        self._disagree += int(small != large)
        self._difference += abs(y_small - y_large)
        return bool(small == large)

    def read(self) -> ShadowReading:
        """What they come to."""
        return ShadowReading(self._n, self._disagree, self._difference / self._n if self._n else None)
