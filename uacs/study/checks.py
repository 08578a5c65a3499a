"""What the paper took for granted, looked at: does doubt foresee errors, what second looks do, what carries over.

The questions are those of a review of the paper: whether entropy correlates with the error of the score, whether a
sure answer hides a large one near y = 0, whether stage 3 corrects or copies, whether thresholds carry to other data.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from uacs import datasets, metrics
from uacs.cascade import deferral, doubt_quality
from uacs.cascade.intervals import Estimate
from uacs.cascade.objectives import Objective
from uacs.cascade.second_looks import SecondLooks, second_looks
from uacs.cascade.uncertainty import training_class
from uacs.errors import BadInput
from uacs.report.tables import Cell as Value
from uacs.report.tables import Column, Kind, Table
from uacs.study.cells import Cell
from uacs.study.tables import expected_shares
from uacs.study.view import View, score, score_of_shares

SHARES = tuple(np.arange(10, 61, 10) / 100)
NEAR = 1 / 6
"""Of the greatest score: labels nearer to 0 than this count as near 0, half a point where scores go to 3."""
NAMES = ("acc2", "mae")
ENTROPY = "entropy (cbe)"
RIVALS = ("large", "average", "small")
"""Whose answers might stand instead of second looks."""
AGAINST: tuple[tuple[str, str, Kind], ...] = (("acc2", "Acc2, points", "points"), ("mae", "MAE", "difference"))
APGR, QNC = (5, 6), 7  # places among the figures of `quality`
SUREST = 0.25
"""The share of the samples that count as sure ones."""


def top(view: View) -> float:
    """The greatest score of the range."""
    return max(map(abs, datasets.kind(view.like).score_range))


def correlation(view: View) -> Table:
    """Rank correlation of every estimator with the error, over all samples, near 0, and away from it; and what sure
    answers hide."""
    near = np.abs(view.label) <= NEAR * top(view)
    large = top(view) / 3

    def row(name: str) -> list[Value]:
        of = view.having(name)

        def figures(s: int, at: np.ndarray) -> list[float]:
            u, scored = of.cells[s].test.u[name][at], metrics.per_sample(of.cells[s].test.y[at], of.label[at], of.like)
            error, wrong, close = scored["mae"], 1 - scored["acc2"], near[at]
            sure = u <= np.quantile(u, SUREST)
            return [
                _rank(u, error),
                _rank(u[close], error[close]),
                _rank(u[~close], error[~close]),
                float(error.mean()),
                float(error[sure].mean()),
                float(np.mean(error > large)),
                float(np.mean(error[sure] > large)),
                float(np.nanmean(wrong[sure])),
            ]

        return [name + of.seeds_of(view), *of.estimated(figures)]

    return Table(
        "check-correlation",
        "Does doubt foresee the error of the score?",
        [
            Column("estimator", ""),
            Column("all", "rank correlation with abs(y - label)", "score"),
            Column("near", "where label is near 0", "score"),
            Column("away", "elsewhere", "score"),
            Column("error", "mean error", "score"),
            Column("error_sure", "of the surest quarter", "score"),
            Column("large", f"errors above {large:.2g}, %", "percent"),
            Column("large_sure", "of the surest quarter, %", "percent"),
            Column("wrong_sure", "wrong polarity of the surest quarter, %", "percent"),
        ],
        [row(name) for name in view.estimators],
        f"Near 0: labels within {NEAR * top(view):.2g} of it, {int(near[view.known].sum())} of {len(view.known)}. If "
        "the surest quarter's errors are as large as all, a sure polarity hides them. Among labels near 0 the error is "
        "about abs(y), and an answer far from 0 is a sure one: that the sign turns there is nearly a matter of course, "
        "how large those errors are is not.",
    )


def _rank(u: np.ndarray, error: np.ndarray) -> float:
    if len(u) < 3 or np.ptp(u) == 0 or np.ptp(error) == 0:
        return float("nan")
    return float(spearmanr(u, error).statistic)


def quality(view: View) -> Table:
    """How well doubts rank mistakes, how well they are calibrated, and what routing by them recovers."""

    def row(name: str) -> list[Value]:
        of = view.having(name)

        def figures(s: int, at: np.ndarray) -> list[float]:
            test = of.cells[s].test
            u, label = test.u[name][at], of.label[at]
            small = metrics.per_sample(test.y[at], label, of.like)
            large = metrics.per_sample(np.where(np.isfinite(test.y_large), test.y_large, test.y)[at], label, of.like)
            wrong = 1 - small["acc2"]
            found = [
                doubt_quality.auroc(u, wrong),
                doubt_quality.aurc(u, wrong),
                doubt_quality.excess_aurc(u, wrong),
                doubt_quality.augrc(u, wrong),
                doubt_quality.augrc(u, small["mae"]),
                doubt_quality.apgr(u, small["acc2"], large["acc2"]),
                doubt_quality.apgr(u, small["mae"], large["mae"]),
                doubt_quality.qnc(u, small["acc2"], large["acc2"]),
            ]
            return found

        found: list[Value] = [*of.estimated(figures)]
        found[QNC] = found[QNC].value  # type: ignore[union-attr]  # where a curve first reaches a level: no interval
        for at, gap in zip(APGR, gaps, strict=True):
            if not gap.sure:
                found[at] = None
        return [name + of.seeds_of(view), *found]

    gaps = view.gains(view.large, view.small, NAMES)

    return Table(
        "check-quality",
        "What a doubt is worth",
        [
            Column("estimator", ""),
            Column("auroc", "AUROC, wrong polarity", "score"),
            Column("aurc", "AURC", "score"),
            Column("eaurc", "excess AURC", "score"),
            Column("augrc", "AUGRC, wrong polarity", "score"),
            Column("augrc_error", "AUGRC, error", "score"),
            Column("apgr_acc2", "APGR, Acc2", "score"),
            Column("apgr_mae", "APGR, MAE", "score"),
            Column("qnc", "QNC, Acc2", "score"),
        ],
        [row(name) for name in view.estimators],
        "Who is asked gets y_large. APGR: the part of the gap to the large model that is recovered, in the mean over "
        "all shares; a coin's is 0.5, and where the gap may be none there is none. QNC: the least share to "
        "be asked for the better model's Acc2.",
    )


def calibration(view: View) -> Table:
    """Expected calibration error of what claims to be a probability."""
    rows: list[list[Value]] = []
    for title, told in probabilities(view).items():

        def figures(s: int, at: np.ndarray, told=told) -> list[float]:
            expected, happened = (values[at] for values in told[s])
            counted = np.isfinite(expected) & np.isfinite(happened)
            ece = doubt_quality.reliability(expected, happened).ece
            return [ece, float(expected[counted].mean()), float(happened[counted].mean())]

        rows.append([title, *view.estimated(figures)])
    return Table(
        "check-calibration",
        "Are probabilities of a mistake what they claim?",
        [
            Column("probability", ""),
            Column("ece", "ECE, points", "percent"),
            Column("expected", "expected mistakes, %", "percent"),
            Column("observed", "observed, %", "percent"),
        ],
        rows,
        "Expected calibration error over ten bins of equal width, of each seed by itself; of few samples it comes out "
        "too large. The classifier's: 1 less its likeliest class, against whether that class is the label's.",
    )


def probabilities(view: View) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """What claims to be the probability of a mistake, and whether there was one, (N,) each, for each seed."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"error": [], "classifier": []}
    for cell in view.cells:
        test = cell.test
        wrong = 1 - metrics.per_sample(test.y, test.label, view.like)["acc2"]
        found["error"].append((test.u["error"] if "error" in test.u else np.full(len(wrong), np.nan), wrong))
        right_class = training_class(test.label)
        missed = np.where(np.isfinite(test.label) & np.isfinite(test.y), test.p.argmax(axis=1) != right_class, np.nan)
        found["classifier"].append((1 - test.p.max(axis=1), missed))
    return {name: told for name, told in found.items() if all(np.isfinite(p).any() for p, _ in told)}


def looks(view: View, wordings: Sequence[str]) -> Table | None:
    """What second looks change, correct, spoil and copy, by how the large model was told; None without any."""
    rows: list[list[Value]] = []
    for wording in wordings:
        said = "cbe" if wording == wordings[0] else f"hints:{wording}"
        found = []
        for cell, taus in zip(view.cells, view.taus, strict=True):
            if said in cell.test.y_verify:
                found.append(second_looks(cell.test.answers("cbe", said), view.label, view.like, *taus))
        if not any(looked.n for looked in found):
            continue
        counts = np.mean(
            [[f.n, f.changed, f.corrected, f.spoiled, f.like_small, f.like_large, f.between] for f in found], axis=0
        )
        of = view.where([looked.n > 0 for looked in found])
        gains = _against(of, [looked for looked in found if looked.n])
        rows.append([wording + of.seeds_of(view), *counts.tolist(), *gains])
    if not rows:
        return None
    return Table(
        "check-looks",
        "What second looks do",
        [
            Column("told", "both answers told in"),
            Column("n", "looks", "mean"),
            Column("changed", "other polarity", "mean"),
            Column("corrected", "corrected", "mean"),
            Column("spoiled", "spoilt", "mean"),
            Column("like_small", "y_small again", "mean"),
            Column("like_large", "y_large again", "mean"),
            Column("between", "between both", "mean"),
            *(
                Column(f"{metric}_{rival}", f"{title}, against {rival}", kind)
                for rival in RIVALS
                for metric, title, kind in AGAINST
            ),
        ],
        rows,
        "Samples on which both models are unsure and of different polarity; counts are means over the seeds. Against: "
        "the second look's answers less those that would have stood instead, on these samples.",
    )


def _against(view: View, found: Sequence[SecondLooks]) -> list[Estimate]:
    """What the looks of each seed score, less what would have stood instead, on the same samples."""
    gains = []
    for rival in RIVALS:

        def figures(s: int, at: np.ndarray, rival=rival) -> np.ndarray:
            looked = found[s]
            kept = np.isin(looked.at, at)
            if not kept.any():
                return np.full(len(NAMES), np.nan)  # an interval that rests on a few looks is none
            label = view.label[looked.at[kept]]
            ours, theirs = (looked.endings[ending][kept] for ending in ("verify", rival))
            return score(ours, label, view.like, NAMES) - score(theirs, label, view.like, NAMES)

        gains += view.estimated(figures)
    return gains


def against_chance(view: View, shares: Sequence[float] = SHARES) -> Table:
    """Routing by entropy against a coin at every share: the whole cascade, stages 2 and 3 on."""
    rows: list[list[Value]] = []
    for share in shares:
        by_doubt, by_chance = [], []
        count = round(share * len(view.label))
        for s, cell in enumerate(view.cells):
            by_doubt.append(view.first(s, cell.test.u["cbe"], count).prediction)
            by_chance.append(expected_shares(view, s, count / len(view.label)))

        def coin(s: int, at: np.ndarray, by_chance=by_chance) -> np.ndarray:
            return score_of_shares(by_chance[s], at, NAMES)

        def apart(s: int, at: np.ndarray, by_doubt=by_doubt, coin=coin) -> np.ndarray:
            return score(by_doubt[s][at], view.label[at], view.like, NAMES) - coin(s, at)

        ours, chance, gain = view.scores(by_doubt, NAMES), view.estimated(coin), view.estimated(apart)
        rows.append([share, ours[0], chance[0], gain[0], ours[1], chance[1], gain[1]])
    return Table(
        "check-chance",
        "Entropy against a coin, at every share",
        [
            Column("asked", "asked, %", "percent"),
            Column("acc2", "Acc2 by entropy", "percent"),
            Column("acc2_chance", "by a coin", "percent"),
            Column("acc2_gain", "gain, points", "points"),
            Column("mae", "MAE by entropy", "score"),
            Column("mae_chance", "by a coin", "score"),
            Column("mae_gain", "gain", "difference"),
        ],
        rows,
        "The coin's is the mean over all its draws (closed form). The rest of the cascade is the same.",
    )


def intensity(view: View, shares: Sequence[float] = SHARES[:5]) -> Table:
    """Routing by how large the score's error is expected to be, or what asking is expected to gain, at given shares."""
    names = ("acc2", "mae", "corr")
    rows: list[list[Value]] = []
    routers = intensity_routers(view)
    for share in shares:
        count = round(share * len(view.label))
        answers = {title: _if_asked(view, doubts, count) for title, doubts in routers.items()}
        for title, of_router in answers.items():
            gains: list[Value] = [None] * 3
            if title != ENTROPY:
                gains = [*view.gains(of_router, answers[ENTROPY], names)]
            rows.append([share, title, *view.scores(of_router, names), *gains])
    return Table(
        "check-intensity",
        "Routing for intensity",
        [
            Column("asked", "asked, %", "percent"),
            Column("router", "who is asked first"),
            Column("acc2", "Acc2", "percent"),
            Column("mae", "MAE", "score"),
            Column("corr", "Corr", "score"),
            Column("acc2_gain", "Acc2 against entropy, points", "points"),
            Column("mae_gain", "MAE against entropy", "difference"),
            Column("corr_gain", "Corr against entropy", "difference"),
        ],
        rows,
        "Who is asked gets y_large. What is learned is learned on the validation split; the oracle knows the test "
        "split's labels and is what no router can be.",
    )


def _if_asked(view: View, doubts: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    found = []
    for cell, doubt in zip(view.cells, doubts, strict=True):
        asked = cell.most_doubtful(doubt, count) & np.isfinite(cell.test.y_large)
        found.append(np.where(asked, cell.test.y_large, cell.test.y))
    return found


def intensity_routers(view: View) -> dict[str, list[np.ndarray]]:
    """Doubts (N,) of each seed, by what they go by."""
    found: dict[str, list[np.ndarray]] = {ENTROPY: [cell.test.u["cbe"] for cell in view.cells]}
    for name, title in (("ptd", "expected error, by a head (ptd)"), ("miss", "expected error, learned (miss)")):
        if all(name in cell.test.u for cell in view.cells):
            found[title] = [cell.test.u[name] for cell in view.cells]
    for metric, title in (("acc2", "polarity"), ("mae", "error")):
        try:
            gains = [_gain(cell, Objective("front", None, metric)) for cell in view.cells]
        except BadInput:  # too few validation samples to learn from
            continue
        found[f"expected gain in {title}"] = gains
    found["an oracle of the error"] = [
        _error(cell.test.y, view) - _error(cell.test.y_large, view) for cell in view.cells
    ]
    return found


def _error(y: np.ndarray, view: View) -> np.ndarray:
    """As the dataset's MAE has it."""
    return metrics.per_sample(y, view.label, view.like)["mae"]


def _gain(cell: Cell, objective: Objective) -> np.ndarray:
    learned, _ = deferral.fit(cell.recording, objective, cell.seed)
    return learned.gain(cell.test.y, cell.test.u["cbe"], cell.test.p)
