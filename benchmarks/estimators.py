"""What each estimator's doubt is worth on a run in which both models were asked about everything.

    uacs evaluate DATA --ubm UBM --mllm SPEC --out RUN --all-stages
    python -m benchmarks.estimators RUN [RUN ...]

Whom to ask is all that differs: the small model's answers are the same, and who is asked gets y_large. Of several runs,
as of several seeds, the means. Prints Markdown: how well u ranks wrong polarities (AUROC) and errors (Spearman's rank
correlation with abs(y - label)), areas under risk and coverage, what part of the gap to the large model is recovered
(APGR, a coin's is 0.5), the share to be asked for the better model's Acc2 (QNC), and the mean Acc2 over asking 10 to
60 %, less a coin's. Below, how far the probability of `error` is off (ECE).
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy.stats import spearmanr

from uacs import metrics
from uacs.cascade.doubt_quality import apgr, augrc, aurc, auroc, budget_curve, qnc, random_mean, reliability
from uacs.cascade.estimators import ESTIMATORS
from uacs.cascade.outcomes import column
from uacs.cluster.runs import Run

SHARES = np.arange(10, 61, 5) / 100

Values = dict[str, np.ndarray]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+")
    runs = [Run.open(place) for place in parser.parse_args().run]
    found = [_of(run) for run in runs]
    print(f"| estimator | {' | '.join(MEASURES)} |\n|---|{'---:|' * len(MEASURES)}")
    for name in ESTIMATORS:
        if all(name in run for run in found):
            means = np.mean([[run[name][measure] for measure in MEASURES] for run in found], axis=0)
            print(f"| `{name}` | {' | '.join(f'{value:.3f}' for value in means)} |")
    print(f"\nECE of `error`: {np.mean([_calibration_error(place) for place in runs]):.3f}")


def _of(run: Run) -> dict[str, dict[str, float]]:
    """Every measure of every estimator that the run has."""
    table = run.table()
    label, y_small, y_large = (column(table, name) for name in ("label", "y_small", "y_large"))
    small, large = (
        metrics.per_sample(y, label, run.like) for y in (y_small, np.where(np.isfinite(y_large), y_large, y_small))
    )
    signals = [dict(row) for row in table["signals"].to_pylist()]
    there = [name for name in ESTIMATORS if any(name in row for row in signals)]
    doubts = {name: np.array([row.get(name, np.nan) for row in signals]) for name in there}  # NaN of an error row
    return {name: {what: measure(u, small, large) for what, measure in MEASURES.items()} for name, u in doubts.items()}


def _calibration_error(run: Run) -> float:
    """Of estimator `error`, which is a probability."""
    table = run.table()
    right = metrics.per_sample(column(table, "y_small"), column(table, "label"), run.like)["acc2"]
    told = np.array([dict(row).get("error", np.nan) for row in table["signals"].to_pylist()])
    return reliability(told, 1 - right).ece


def _above_a_coin(u: np.ndarray, small: Values, large: Values) -> float:
    """Points of Acc2."""
    curve = budget_curve(u, small["acc2"], large["acc2"])
    by_doubt = np.interp(SHARES, np.linspace(0, 1, len(curve)), curve)
    return 100 * float(np.mean(by_doubt - [random_mean(share, small["acc2"], large["acc2"]) for share in SHARES]))


MEASURES: dict[str, Callable[[np.ndarray, Values, Values], float]] = {
    "AUROC, wrong": lambda u, small, large: auroc(u, 1 - small["acc2"]),
    "rank corr., error": lambda u, small, large: float(spearmanr(u, small["mae"], nan_policy="omit").statistic),
    "AURC, wrong": lambda u, small, large: aurc(u, 1 - small["acc2"]),
    "AUGRC, error": lambda u, small, large: augrc(u, small["mae"]),
    "APGR, Acc2": lambda u, small, large: apgr(u, small["acc2"], large["acc2"]),
    "APGR, MAE": lambda u, small, large: apgr(u, small["mae"], large["mae"]),
    "QNC, Acc2": lambda u, small, large: qnc(u, small["acc2"], large["acc2"]),
    "Acc2 above a coin, points": _above_a_coin,
}

if __name__ == "__main__":
    main()
