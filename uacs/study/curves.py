"""What a study draws: the λ sweep, curves over the share asked, reliability, risk and coverage, error by doubt."""

from collections.abc import Sequence

import numpy as np

from uacs import metrics
from uacs.cascade import doubt_quality
from uacs.report.study_figures import Bars, Curve, Sweep
from uacs.study.checks import NEAR, probabilities, top
from uacs.study.tables import expected_shares
from uacs.study.view import View, predictions, score, score_of_shares

LAMBDAS = np.arange(1, 11) / 10
ASKED = np.arange(0, 101, 5) / 100
DRAWN = ("cbe", "ptd", "ev", "miss")
"""Estimators with a curve of their own; the others lie upon these."""
NAMES = ("acc2", "mae")
QUANTILES = 8


def lambda_sweep(view: View) -> Sweep:
    """Figure 3: both metrics by λ, and the share asked, relative run time where answers carry seconds."""
    rows = []
    for lambda_ in LAMBDAS:
        decisions = [cell.decide("cbe", cell.thresholds("cbe", float(lambda_), view.beta)) for cell in view.cells]
        spent = view.seconds(decisions) or view.share(decisions)
        rows.append([*view.scores(predictions(decisions), NAMES), spent])
    acc2, mae, cost = zip(*rows, strict=True)
    alone = view.seconds()
    return Sweep(
        Curve.of("Acc2", LAMBDAS, acc2),
        Curve.of("MAE", LAMBDAS, mae),
        np.array([point.value for point in cost]) / (alone.value if alone else 1),
        "run time (% of the large model's)" if alone else "asked of the large model (%)",
        view.lambda_,
    )


def budget(view: View) -> dict[str, list[Curve]]:
    """Acc2 and MAE of the cascade by the share asked, for the drawn estimators, a coin, and an oracle.

    The entropy's has intervals. The oracle asks first where the large model gains most; it knows the labels.
    """
    found: dict[str, list[Curve]] = {name: [] for name in NAMES}
    for estimator in (name for name in DRAWN if name in view.estimators):
        of = view.having(estimator)
        counts = [round(share * len(view.label)) for share in ASKED]
        doubts = [cell.test.u[estimator] for cell in of.cells]
        answers = [[of.first(s, doubt, count).prediction for s, doubt in enumerate(doubts)] for count in counts]
        if estimator == "cbe":
            points = [of.scores(answer, NAMES) for answer in answers]
            for name, column in zip(NAMES, zip(*points, strict=True), strict=True):
                found[name].append(Curve.of(estimator, ASKED, column))
            continue
        values = np.array([_means(of, answer) for answer in answers])
        for i, name in enumerate(NAMES):
            found[name].append(Curve(estimator, ASKED, values[:, i]))
    chance = np.array([_of_chance(view, share) for share in ASKED])
    for i, name in enumerate(NAMES):
        found[name].append(Curve("a coin", ASKED, chance[:, i]))
        found[name].append(Curve("an oracle", ASKED, np.array([_of_oracle(view, share, name) for share in ASKED])))
    return found


def _means(view: View, answers: Sequence[np.ndarray]) -> np.ndarray:
    at = view.known
    return np.mean([score(y[at], view.label[at], view.like, NAMES) for y in answers], axis=0)


def _of_chance(view: View, share: float) -> np.ndarray:
    seeds = range(len(view.cells))
    return np.mean([score_of_shares(expected_shares(view, s, float(share)), view.known, NAMES) for s in seeds], axis=0)


def _of_oracle(view: View, share: float, name: str) -> float:
    values, at = [], view.known
    for s, cell in enumerate(view.cells):
        kept, asked = view.fates(s)
        before, after = (metrics.per_sample(fate, view.label, view.like)[name] for fate in (kept, asked))
        gain = np.nan_to_num(after - before if name == "acc2" else before - after)
        chosen = cell.most_doubtful(gain, round(share * len(view.label)))
        values.append(score(np.where(chosen, asked, kept)[at], view.label[at], view.like, (name,)))
    return float(np.mean(values))


def reliability(view: View) -> dict[str, Bars]:
    """Expected and observed mistakes by bins of probability, all seeds together, and how many samples a bin has."""
    found = {}
    for name, told in probabilities(view).items():
        expected, happened = (np.concatenate([one[i] for one in told]) for i in (0, 1))
        diagram = doubt_quality.reliability(expected, happened)
        found[name] = Bars(diagram.expected, diagram.observed, diagram.count, diagram.ece)
    return found


def risk(view: View) -> list[Curve]:
    """Wrong polarities among the surest samples, by how many are kept: the means over the seeds."""
    coverage, found = np.arange(2, 101, 2) / 100, []
    for estimator in (name for name in DRAWN if name in view.estimators):
        of, rows = view.having(estimator), []
        for cell in of.cells:
            u = cell.test.u[estimator]
            wrong = 1 - metrics.per_sample(cell.test.y, of.label, of.like)["acc2"]
            counted = np.flatnonzero(np.isfinite(u) & np.isfinite(wrong))
            order = counted[np.argsort(u[counted], kind="stable")]
            kept = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
            rows.append(kept[np.maximum(np.ceil(coverage * len(order)).astype(int), 1) - 1])
        found.append(Curve(estimator, coverage, np.mean(rows, axis=0)))
    return found


def error_by_doubt(view: View) -> list[Curve]:
    """The mean error of the score by the entropy's rank: over all samples, and over those labelled near 0."""
    near = np.abs(view.label) <= NEAR * top(view)
    found = []
    for title, mask in (("all", np.ones(len(near), bool)), ("label near 0", near), ("elsewhere", ~near)):

        def figures(s: int, at: np.ndarray, mask=mask) -> np.ndarray:
            cell = view.cells[s]
            chosen = at[mask[at]]
            error = metrics.per_sample(cell.test.y, view.label, view.like)["mae"][chosen]
            u = cell.test.u["cbe"][chosen]
            parts = np.array_split(np.argsort(u, kind="stable"), QUANTILES)
            return np.array([error[part].mean() if len(part) else np.nan for part in parts])

        if mask[view.known].sum() >= 2 * QUANTILES:
            middles = (np.arange(QUANTILES) + 0.5) / QUANTILES
            found.append(Curve.of(title, middles, view.estimated(figures)))
    return found
