"""The field's metrics by each dataset's own rules (MMSA's `metricsTop`), and bootstrap intervals.

Predictions and labels are (N,) float arrays without NaN. MOSI and MOSEI headline Acc2 leaves true
zeros out (every Acc2 of the paper on MOSI is a fraction of 656, the non-zero ones of 686); SIMS
counts zero as negative. The numbers are fractions of 1, unrounded. `benchmarks/metrics_against_mmsa.py`
holds them against MMSA's own.
"""

from collections.abc import Callable

import numpy as np

from uacs import datasets

Scores = dict[str, float]


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
    return rules(dataset)(prediction, label) | {"n": len(label)}


def rules(dataset: str) -> Callable[[np.ndarray, np.ndarray], Scores]:
    """The scoring function of a dataset by its name."""
    return RULES[datasets.kind(dataset).rules]


def _score_mosi(p: np.ndarray, y: np.ndarray) -> Scores:
    p32, y32 = _single(p), _single(y)
    spoken = y32 != 0
    acc2, f1 = _binary(p32[spoken] > 0, y32[spoken] > 0)
    acc2_has0, f1_has0 = _binary(p32 >= 0, y32 >= 0)
    return {
        "acc2": acc2,
        "f1": f1,
        "acc2_has0": acc2_has0,
        "f1_has0": f1_has0,
        "acc7": _rounded_accuracy(p32, y32, 3),
        "acc5": _rounded_accuracy(p32, y32, 2),
        "acc3": _rounded_accuracy(p32, y32, 1),
        "mae": _mean(np.abs(p - y)),
        "corr": _correlation(p, y),
    }


def _score_sims(p: np.ndarray, y: np.ndarray) -> Scores:
    p, y = np.clip(p, -1, 1), np.clip(y, -1, 1)
    p32, y32 = _single(p), _single(y)
    acc2, f1 = _binary(p32 > 0, y32 > 0)
    return {
        "acc2": acc2,
        "f1": f1,
        "acc5": _binned_accuracy(p32, y32, [-0.7, -0.1, 0.1, 0.7]),
        "acc3": _binned_accuracy(p32, y32, [-0.1, 0.1]),
        "mae": _mean(np.abs(p - y)),
        "corr": _correlation(p, y),
    }


RULES: dict[str, Callable[[np.ndarray, np.ndarray], Scores]] = {
    "mosi": _score_mosi,
    "sims": _score_sims,
}
"""By the names that `uacs.datasets` uses."""


def _single(values: np.ndarray) -> np.ndarray:
    # Classes (and constants) are told in float32, as the field's toolkit does: 0.1 as float32 is a little more
    # than 0.1, and still belongs to the bin that ends at 0.1. MAE and Corr have no ties and stay float64.
    return np.asarray(values, np.float32)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _rounded_accuracy(p: np.ndarray, y: np.ndarray, limit: int) -> float:
    # np.round is half-to-even, as in the field's toolkit: 0.5 and 1.5 become 0 and 2
    return _mean(np.round(np.clip(p, -limit, limit)) == np.round(np.clip(y, -limit, limit)))


def _binned_accuracy(p: np.ndarray, y: np.ndarray, edges: list[float]) -> float:
    # bins are open on the left and closed on the right
    ends = _single(np.array(edges))
    return _mean(np.searchsorted(ends, p, side="left") == np.searchsorted(ends, y, side="left"))


def _binary(p: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Accuracy and F1 weighted by true class frequency, of boolean arrays."""
    return _mean(p == y), _weighted_f1(p, y)


def _weighted_f1(p: np.ndarray, y: np.ndarray) -> float:
    if not len(y):
        return float("nan")
    total = 0.0
    for value in (False, True):
        hits = np.sum((p == value) & (y == value))
        named = np.sum(p == value) + np.sum(y == value)
        total += np.mean(y == value) * (2 * hits / named if named else 0.0)
    return float(total)


def _correlation(p: np.ndarray, y: np.ndarray) -> float:
    if len(y) < 2 or np.ptp(_single(p)) == 0 or np.ptp(_single(y)) == 0:
        return float("nan")
    return float(np.corrcoef(p, y)[0, 1])


def per_sample(prediction: np.ndarray, label: np.ndarray, dataset: str) -> dict[str, np.ndarray]:
    """What each sample adds to `acc2` (1 right, 0 wrong, NaN not counted) and to `mae`, as (N,) arrays.

    A prediction or label that is NaN is not counted in either.
    """
    prediction, label = np.asarray(prediction, float), np.asarray(label, float)
    if rules(dataset) is _score_sims:
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
