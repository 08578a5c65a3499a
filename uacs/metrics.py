"""The field's metrics by each dataset's own rules (MMSA's `metricsTop`), and bootstrap intervals.

Predictions and labels are (N,) float arrays without NaN. MOSI and MOSEI headline Acc2 leaves true
zeros out (every Acc2 of the paper on MOSI is a fraction of 656, the non-zero ones of 686); SIMS
counts zero as negative. The numbers are fractions of 1, unrounded. `benchmarks/metrics_against_mmsa.py`
holds them against MMSA's own.

Every metric is a formula over sums: `shares` is what each sample adds to them, `of_sums` what the sums
come to. So thousands of predictions that differ in some samples are scored at once (`cascade/sweep.py`).
"""

from collections.abc import Callable, Iterable

import numpy as np

from uacs import datasets

Scores = dict[str, float]
Shares = dict[str, np.ndarray]

EXTREMES = {"low": np.minimum, "high": np.maximum}
"""The shares that are not added up: of these the least and the greatest count."""


def score(prediction: np.ndarray, label: np.ndarray, dataset: str) -> Scores:
    """All metrics of `dataset` by its rules (`uacs.datasets`).

    Returns `mae, corr, acc2, f1, acc3, acc5, n`, for MOSI's rules also `acc7, acc2_has0, f1_has0`.
    A metric without samples, or the correlation of a constant, is NaN.

    >>> score(np.array([1.4, -0.2]), np.array([2.0, 1.0]), "mosi")["acc2"]
    0.5
    """
    prediction, label = np.asarray(prediction, float), np.asarray(label, float)
    if prediction.shape != label.shape or prediction.ndim != 1:
        raise ValueError(f"prediction {prediction.shape} and label {label.shape} must be of one shape (N,)")
    if not (np.isfinite(prediction).all() and np.isfinite(label).all()):
        raise ValueError("predictions and labels must be finite; leave failed samples out and count them")
    sums = {name: total(name, values) for name, values in shares(prediction, label, dataset).items()}
    return {name: float(value) for name, value in of_sums(sums, names(dataset)).items()} | {"n": len(label)}


def names(dataset: str) -> tuple[str, ...]:
    """The metrics that a dataset's rules have."""
    return METRICS[datasets.kind(dataset).rules]


def shares(prediction: np.ndarray, label: np.ndarray, dataset: str, centre: float | None = None) -> Shares:
    """What each sample adds to the sums that `of_sums` reads, as (N,) arrays by name.

    Sums of squares keep their digits if scores are taken from a `centre`, by default the predictions' mean;
    shares of several predictions can be mixed if theirs is the same.
    """
    return RULES[datasets.kind(dataset).rules](prediction, label, centre)


def needed(names: Iterable[str]) -> set[str]:
    """The shares that some metrics are made of."""
    return {share for name in names for share in FORMULAS[name][0]}


def total(name: str, values: np.ndarray) -> np.ndarray:
    """The sum of a share over samples (N,), or the extreme that it stands for."""
    if name not in EXTREMES:
        return np.add.reduce(values, dtype=float)
    return EXTREMES[name].reduce(values, initial=nothing(name))


def nothing(name: str) -> float:
    """What no sample at all adds to a share."""
    return {"low": np.inf, "high": -np.inf}.get(name, 0.0)


def of_sums(sums: Shares, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Metrics of sums of shares, which are numbers or arrays of one shape."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: formula(*(sums[share] for share in of)) for name in names for of, formula in [FORMULAS[name]]}


def _mosi(p: np.ndarray, y: np.ndarray, centre: float | None) -> Shares:
    p32, y32 = _single(p), _single(y)
    spoken = y32 != 0
    return {
        "counted": spoken,
        **_binary(p32 > 0, y32 > 0, spoken),
        **{f"{name}_has0": values for name, values in _binary(p32 >= 0, y32 >= 0, np.ones(len(y), bool)).items()},
        "same7": _same_rounded(p32, y32, 3),
        "same5": _same_rounded(p32, y32, 2),
        "same3": _same_rounded(p32, y32, 1),
        **_continuous(p, y, centre),
    }


def _sims(p: np.ndarray, y: np.ndarray, centre: float | None) -> Shares:
    p, y = np.clip(p, -1, 1), np.clip(y, -1, 1)
    p32, y32 = _single(p), _single(y)
    everyone = np.ones(len(y), bool)
    return {
        "counted": everyone,
        **_binary(p32 > 0, y32 > 0, everyone),
        "same5": _same_bin(p32, y32, [-0.7, -0.1, 0.1, 0.7]),
        "same3": _same_bin(p32, y32, [-0.1, 0.1]),
        **_continuous(p, y, centre),
    }


RULES: dict[str, Callable[[np.ndarray, np.ndarray, float | None], Shares]] = {"mosi": _mosi, "sims": _sims}
"""By the names that `uacs.datasets` uses."""

METRICS = {
    "mosi": ("acc2", "f1", "acc2_has0", "f1_has0", "acc7", "acc5", "acc3", "mae", "corr"),
    "sims": ("acc2", "f1", "acc5", "acc3", "mae", "corr"),
}


def _binary(p: np.ndarray, y: np.ndarray, counted: np.ndarray) -> Shares:
    """Of boolean classes: how often each side says yes, and both do."""
    return {"yes": counted & p, "true": counted & y, "hits": counted & p & y}


def _continuous(p: np.ndarray, y: np.ndarray, centre: float | None) -> Shares:
    """For MAE and Corr; labels are taken from their mean, so that they add up to 0."""
    p32, y32 = _single(p), _single(y)
    dp = p - (p.mean() if centre is None and len(p) else centre or 0.0)
    dy = y - (y.mean() if len(y) else 0.0)
    constant = not len(y) or y32.min() == y32.max()
    return {
        "samples": np.ones(len(y), bool),
        "error": np.abs(p - y),
        "p": dp,
        "pp": dp * dp,
        "py": dp * dy,
        "yy": np.full(len(y), np.nan) if constant else dy * dy,
        "low": p32.astype(float),
        "high": p32.astype(float),
    }


def _single(values: np.ndarray) -> np.ndarray:
    # Classes (and constants) are told in float32, as the field's toolkit does: 0.1 as float32 is a little more
    # than 0.1, and still belongs to the bin that ends at 0.1. MAE and Corr have no ties and stay float64.
    return np.asarray(values, np.float32)


def _same_rounded(p: np.ndarray, y: np.ndarray, limit: int) -> np.ndarray:
    # np.round is half-to-even, as in the field's toolkit: 0.5 and 1.5 become 0 and 2
    return np.round(np.clip(p, -limit, limit)) == np.round(np.clip(y, -limit, limit))


def _same_bin(p: np.ndarray, y: np.ndarray, edges: list[float]) -> np.ndarray:
    # bins are open on the left and closed on the right
    ends = _single(np.array(edges))
    return np.searchsorted(ends, p, side="left") == np.searchsorted(ends, y, side="left")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole)


def _accuracy(counted, yes, true, hits) -> np.ndarray:
    return np.divide(2 * hits + counted - yes - true, counted)


def _weighted_f1(counted, yes, true, hits) -> np.ndarray:
    """F1 of both classes, weighted by how often each is true; a class that nobody names or is has F1 0."""
    no, untrue, misses = counted - yes, counted - true, counted - yes - true + hits
    f1_yes = 2 * hits / np.maximum(yes + true, 1)
    f1_no = 2 * misses / np.maximum(no + untrue, 1)
    return np.divide(true * f1_yes + untrue * f1_no, counted)


def _correlation(samples, p, pp, py, yy, low, high) -> np.ndarray:
    spread = np.where(low < high, (pp - p * p / samples) * yy, np.nan)  # the labels add up to 0
    return np.clip(py / np.sqrt(spread), -1, 1)


BINARY, BINARY_HAS0 = ("counted", "yes", "true", "hits"), ("samples", "yes_has0", "true_has0", "hits_has0")

FORMULAS: dict[str, tuple[tuple[str, ...], Callable[..., np.ndarray]]] = {
    "acc2": (BINARY, _accuracy),
    "f1": (BINARY, _weighted_f1),
    "acc2_has0": (BINARY_HAS0, _accuracy),
    "f1_has0": (BINARY_HAS0, _weighted_f1),
    "acc7": (("same7", "samples"), _ratio),
    "acc5": (("same5", "samples"), _ratio),
    "acc3": (("same3", "samples"), _ratio),
    "mae": (("error", "samples"), _ratio),
    "corr": (("samples", "p", "pp", "py", "yy", "low", "high"), _correlation),
}
"""Each metric's shares, and the formula over their sums."""


def per_sample(prediction: np.ndarray, label: np.ndarray, dataset: str) -> dict[str, np.ndarray]:
    """What each sample adds to `acc2` (1 right, 0 wrong, NaN not counted) and to `mae`, as (N,) arrays.

    A prediction or label that is NaN is not counted in either.
    """
    prediction, label = np.asarray(prediction, float), np.asarray(label, float)
    if datasets.kind(dataset).rules == "sims":
        prediction, label = np.clip(prediction, -1, 1), np.clip(label, -1, 1)
        counted = np.ones(len(label), bool)
    else:
        counted = _single(label) != 0
    same = (_single(prediction) > 0) == (_single(label) > 0)
    right = np.where(counted & np.isfinite(prediction) & np.isfinite(label), same, np.nan)
    return {"acc2": right, "mae": np.abs(prediction - label)}


def bootstrap(values: np.ndarray, resamples: int = 2000, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean of per-sample values (N,) over resampled samples; NaN is not counted.

    For two systems on the same samples hand over the difference of their values: the resamples are
    then paired.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    draw = np.random.default_rng(seed)
    means = [values[draw.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
