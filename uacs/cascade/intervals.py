"""How far a figure may be from the truth, where both the samples and a training's seed are chance.

The same N samples are answered by S trained models, and the figure is the mean over the S. Its variance has two
parts: that between seeds over S, and that of the samples, by leaving a group of them out at a time, from all seeds at
once. Both are estimated, the first from a handful of seeds, so the interval is Student's with the degrees of freedom of
Satterthwaite (1946). What a seed and a sample do together is in either part, so with several seeds the interval is
rather too wide than too narrow. Samples of one cluster, as clips of one video, are left out together, since they
resemble each other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

GROUPS = 50
LEVEL = 0.95
ROUNDING = 1e-12
ORDER = 20250904  # of the samples, before they are dealt into groups


@dataclass(frozen=True)
class Estimate:
    """A figure, the ends of its 95 % interval, and over how many seeds it is the mean.

    Of one seed the interval is of the samples alone. p is how likely chance is to make a figure that is 0 in truth lie
    as far from it: a paired test, of a difference. NaN where the figure is undefined.
    """

    value: float
    low: float
    high: float
    seeds: int
    p: float = float("nan")

    @property
    def sure(self) -> bool:
        """Whether 0 lies outside the interval: said of a difference."""
        return self.low > 0 or self.high < 0


def estimates(
    figures: Callable[[int, np.ndarray], np.ndarray],
    seeds: int,
    samples: int,
    clusters: np.ndarray | None = None,
    groups: int = GROUPS,
) -> list[Estimate]:
    """K figures with their intervals; figures(seed, chosen) gives the K of a seed over some samples, (n,) positions.

    clusters (N,) says which samples belong together, by numbers from 0; without it each stands alone. Differences are
    estimated as figures of their own, so that what both sides share cancels out. A figure that no sample moves has no
    interval, unless seeds move it.

    >>> values = np.array([[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]])
    >>> [mean] = estimates(lambda seed, chosen: [values[seed, chosen].mean()], 2, 4)
    >>> mean.value  # 2.5 and 3.5
    3.0
    """
    of_seed = np.array([figures(seed, np.arange(samples)) for seed in range(seeds)], float)  # (S, K)
    value = of_seed.mean(axis=0)
    group = dealt(np.arange(samples) if clusters is None else clusters, groups)
    count = int(group.max()) + 1 if samples else 0
    without = np.array(
        [np.mean([figures(s, np.flatnonzero(group != g)) for s in range(seeds)], axis=0) for g in range(count)]
    ).reshape(count, len(value))
    by_samples = (count - 1) / max(count, 1) * np.sum((without - without.mean(axis=0)) ** 2, axis=0)
    telling = np.sum(without != value, axis=0)  # groups that a figure depends on
    by_seeds = of_seed.var(axis=0, ddof=1) / seeds if seeds > 1 else np.zeros_like(value)
    error = np.sqrt(by_samples + by_seeds)
    known = np.isfinite(error) & ((error > ROUNDING * np.abs(value)) | (value == 0))
    error = np.where(known, error, np.nan)
    freedom = _freedom(by_samples, np.maximum(telling - 1, 1), by_seeds, seeds - 1)
    half = t.ppf((1 + LEVEL) / 2, freedom) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(value == 0, 1.0, 2 * t.sf(np.abs(value) / error, freedom))
    p = np.where(np.isfinite(error) & np.isfinite(value), p, np.nan)
    ends = zip(value, value - half, value + half, p, strict=True)
    return [Estimate(float(v), float(low), float(high), seeds, float(chance)) for v, low, high, chance in ends]


def dealt(clusters: np.ndarray, groups: int = GROUPS) -> np.ndarray:
    """The group, from 0, of each of N samples: whole clusters, the largest first, each to the smallest group.

    >>> dealt(np.array([0, 0, 1, 2, 2, 2]), 2).tolist()  # of 3 and 3 samples
    [1, 1, 1, 0, 0, 0]
    """
    sizes = np.bincount(clusters) if len(clusters) else np.zeros(0, int)
    there = np.flatnonzero(sizes)
    drawn = np.random.default_rng(ORDER).permutation(there)
    filled = np.zeros(min(groups, len(there)), int)
    of_cluster = np.zeros(len(sizes), int)
    for cluster in drawn[np.argsort(-sizes[drawn], kind="stable")]:
        of_cluster[cluster] = filled.argmin()
        filled[filled.argmin()] += sizes[cluster]
    return of_cluster[clusters]


def _freedom(first: np.ndarray, first_freedom: np.ndarray, second: np.ndarray, second_freedom: int) -> np.ndarray:
    """Of the sum of two variances that have degrees of freedom of their own."""
    parts = first**2 / first_freedom + (second**2 / second_freedom if second_freedom > 0 else 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(parts > 0, (first + second) ** 2 / parts, np.inf)
