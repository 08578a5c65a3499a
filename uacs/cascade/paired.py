"""Two runs over the same samples: what differs, and whether chance alone could have done it.

Only samples that both runs answered are compared, and every resample is drawn once for both, so that
what the samples themselves add to the spread cancels out.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.stats import binomtest

from uacs import metrics
from uacs.cascade.outcomes import SYSTEMS, column
from uacs.errors import BadInput, Refused, WrongUse

LEVEL = 0.95
SAME_LABEL = 1e-6  # a third is not the same number in a table and in a float32 array
REPORTED_EVERY = 100  # resamples between two calls of `progress`


@dataclass(frozen=True)
class Difference:
    """One metric of both runs, first minus second, and the 95 % paired percentile bootstrap interval of that."""

    first: float
    second: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class McNemar:
    """How many samples only one of two got right, and the exact two-sided p that this is chance."""

    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """The n samples compared, the others counted by why they were left out, and what the n say."""

    n: int
    left_out: dict[str, int]
    metrics: dict[str, Difference]
    mcnemar: McNemar


@dataclass(frozen=True)
class Pairs:
    """Both runs' answers and the label, (N,) each without NaN, in the order of the samples' names."""

    first: np.ndarray
    second: np.ndarray
    label: np.ndarray


def compare(
    first: pa.Table,
    second: pa.Table,
    dataset: str,
    systems: tuple[str, str] = ("prediction", "prediction"),
    resamples: int = 2000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare an answer column of one outcome table with one of another (`SYSTEMS`), sample by sample.

    The rows' order does not matter. Resamples in which a metric is undefined (a constant has no
    correlation) are left out of its interval. `progress(done, of)` is called now and then.
    """
    pairs, left_out = pair(first, second, systems)
    scores = [metrics.score(answers, pairs.label, dataset) for answers in (pairs.first, pairs.second)]
    names = [name for name in scores[0] if name != "n"]
    ends = _intervals(pairs, dataset, names, resamples, seed, progress)
    right = [metrics.per_sample(answers, pairs.label, dataset)["acc2"] for answers in (pairs.first, pairs.second)]
    return Comparison(
        n=len(pairs.label),
        left_out=left_out,
        metrics={
            name: Difference(scores[0][name], scores[1][name], scores[0][name] - scores[1][name], *ends[name])
            for name in names
        },
        mcnemar=mcnemar(*right),
    )


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's exact test: of the samples that one alone got right, is either's share beyond a coin's?

    first and second are (N,), 1 right, 0 wrong, NaN not counted. Source: McNemar 1947, with the binomial
    distribution in place of its approximation.

    >>> mcnemar(np.array([1, 1, 1, 0]), np.array([0, 0, 0, 0])).p  # three of three: 2 / 2**3
    0.25
    """
    only_first, only_second = int(np.sum((first == 1) & (second == 0))), int(np.sum((first == 0) & (second == 1)))
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p)


def pair(first: pa.Table, second: pa.Table, systems: tuple[str, str]) -> tuple[Pairs, dict[str, int]]:
    """The samples that both answered and that have a label in either run, and why the others are left out.

    Raises `Refused` where the runs label a sample differently, `BadInput` where nothing is left to compare.
    """
    for name in systems:
        if name not in SYSTEMS.values():
            raise WrongUse(f"no system '{name}' in an outcome table; there is {', '.join(SYSTEMS.values())}")
    rows = [_rows(table) for table in (first, second)]
    common = sorted(rows[0].keys() & rows[1].keys())
    if not common:
        raise BadInput("the two runs have no sample in common; compare runs over the same samples")
    at = [[of[name] for name in common] for of in rows]
    answers = [column(table, name)[i] for table, name, i in zip((first, second), systems, at, strict=True)]
    labels = [column(table, "label")[i] for table, i in zip((first, second), at, strict=True)]
    _refuse_other_labels(common, *labels)
    label = np.where(np.isfinite(labels[0]), labels[0], labels[1])
    why = np.select(
        [~np.isfinite(label), *_unanswered(*answers)],
        ["without a label", "unanswered in both", "unanswered in the first", "unanswered in the second"],
        "",
    )
    counts = Counter(
        {"only in the first": len(rows[0]) - len(common), "only in the second": len(rows[1]) - len(common)}
    )
    counts.update(why[why != ""].tolist())
    left_out = {reason: count for reason, count in counts.items() if count}
    kept = why == ""
    if not kept.any():
        said = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise BadInput(f"no labelled sample was answered by both runs ({said}); compare runs over a labelled split")
    return Pairs(answers[0][kept], answers[1][kept], label[kept]), left_out


def _rows(table: pa.Table) -> dict[str, int]:
    """The row of each sample, by name."""
    names = table["sample_id"].to_pylist()
    rows = {name: i for i, name in enumerate(names)}
    if len(rows) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise BadInput(f"sample '{twice}' is in one run more than once; an outcome table has one row a sample")
    return rows


def _refuse_other_labels(names: list[str], first: np.ndarray, second: np.ndarray) -> None:
    differ = np.flatnonzero(np.abs(first - second) > SAME_LABEL)
    if len(differ):
        i = differ[0]
        others = f", and {len(differ) - 1} more" if len(differ) > 1 else ""
        raise Refused(
            f"sample '{names[i]}' is labelled {first[i]:g} in the first run and {second[i]:g} in the second{others}; "
            "compare runs over the same labels"
        )


def _unanswered(first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    return [~np.isfinite(first) & ~np.isfinite(second), ~np.isfinite(first), ~np.isfinite(second)]


def _intervals(
    pairs: Pairs,
    dataset: str,
    names: list[str],
    resamples: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, tuple[float, float]]:
    """The percentile interval of each metric's difference over resampled samples; NaN where it is never defined."""
    draw, n = np.random.default_rng(seed), len(pairs.label)
    differences = np.empty((resamples, len(names)))
    for i in range(resamples):
        drawn = draw.integers(0, n, n)
        first = metrics.score(pairs.first[drawn], pairs.label[drawn], dataset)
        second = metrics.score(pairs.second[drawn], pairs.label[drawn], dataset)
        differences[i] = [first[name] - second[name] for name in names]
        if progress and ((i + 1) % REPORTED_EVERY == 0 or i + 1 == resamples):
            progress(i + 1, resamples)
    return {name: _ends(differences[:, k]) for k, name in enumerate(names)}


def _ends(values: np.ndarray) -> tuple[float, float]:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
