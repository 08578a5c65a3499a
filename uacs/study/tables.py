"""Tables II to IX of the paper, from the cells of a study; the paper's own figures beside ours."""

from collections.abc import Sequence

import numpy as np

from uacs import metrics
from uacs.cascade import routing
from uacs.cascade.intervals import Estimate
from uacs.records import STAGES, Decision
from uacs.report.tables import Cell as Value
from uacs.report.tables import Column, Kind, Table
from uacs.study import paper
from uacs.study.cells import Cell
from uacs.study.view import View, predictions, score, score_of_shares

HEADINGS = {"acc7": "Acc7", "acc5": "Acc5", "acc3": "Acc3", "acc2": "Acc2", "f1": "F1", "mae": "MAE", "corr": "Corr"}
UACS = "U-ACS"


def kind(metric: str) -> Kind:
    """How a metric is written."""
    return "score" if metric in ("mae", "corr") else "percent"


def metric_columns(names: Sequence[str], published: bool) -> list[Column]:
    """A column for each metric, and the paper's behind it where it has figures of the dataset."""
    found = []
    for name in names:
        found.append(Column(name, HEADINGS[name], kind(name)))
        if published:
            found.append(Column(f"{name}_paper", f"{HEADINGS[name]}, paper", kind(name), paper=True))
    return found


def beside(values: Sequence[Value], names: Sequence[str], view: View, theirs: paper.Row | None) -> list[Value]:
    """A row's cells as `metric_columns` has them: ours, each before the paper's."""
    if not view.published:
        return list(values)
    row: list[Value] = []
    for value, name in zip(values, names, strict=True):
        row += [value, _of_paper(theirs, name)]
    return row


def _of_paper(theirs: paper.Row | None, name: str) -> float | None:
    value = (theirs or {}).get(name)
    return value / 100 if value is not None and kind(name) == "percent" else value


def comparison(views: Sequence[View]) -> Table:
    """Table II or III: the small model, each large one, the cascade, and what the paper cites of others."""
    first = views[0]
    chinese = "sims" in first.like
    names = paper.METRICS["sims" if chinese else "mosi"]
    nothing: list[Value] = [None] * len(names)
    rows: list[list[Value]] = [
        [f"{method} (cited)", *beside(nothing, names, first, theirs)]
        for method, theirs in (paper.COMPARED[first.dataset] if first.published else {}).items()
    ]
    own, ours = paper.OWN.get(first.dataset, {}), []
    rows.append(["UBM", *beside(first.scores(first.small, names), names, first, own.get("UBM"))])
    for view in views:
        rows.append(
            [view.name, *beside(view.scores(view.large, names), names, view, own.get(paper.known_as(view.name)))]
        )
        title, theirs = f"{UACS} with {view.name}", own.get(f"{UACS} with {paper.known_as(view.name)}")
        cascade = view.scores(predictions(view.decisions()), names)
        ours.append(len(rows))
        rows.append([title, *beside(cascade, names, view, theirs)])
    number = "III" if chinese else "II"
    cited = " Methods that are cited were not run here." if first.published else ""
    return Table(
        f"table-{number.lower()}",
        f"Table {number}: accuracy",
        [Column("method", ""), *metric_columns(names, first.published)],
        rows,
        f"Test split, by the dataset's own rules.{cited}",
        ours=ours,
    )


def other_models(views: Sequence[View]) -> Table | None:
    """Table V: what the cascade adds to each large model; None where there is but one."""
    if len(views) < 2:
        return None
    names = [name for name in HEADINGS if name in metrics.names(views[0].like)]
    rows: list[list[Value]] = []
    for view in views:
        rows.append([view.name, *view.scores(view.large, names)])
        cascade = predictions(view.decisions())
        rows.append([f"{UACS} with {view.name}", *view.scores(cascade, names)])
        rows.append(["difference", *view.gains(cascade, view.large, names)])
    return Table(
        "table-v",
        "Table V: another large model",
        [Column("method", ""), *(Column(name, HEADINGS[name], kind(name)) for name in names)],
        rows,
        "Differences are paired: the cascade less the large model alone, on the same samples.",
    )


def efficiency(views: Sequence[View]) -> Table:
    """Tables IV and VI: run time beside accuracy."""
    rows: list[list[Value]] = []
    first = views[0]
    own, ours = paper.OWN.get(first.dataset, {}), []
    for view in views:
        cascade, alone = view.decisions(), view.seconds()
        nobody = [Decision(np.zeros_like(d.stage), d.answer_from, d.prediction, d.degraded) for d in cascade]
        systems: list[tuple[str, Value, Estimate | None, Sequence[np.ndarray]]] = [
            ("UBM", 0.0, view.seconds(nobody), view.small),
            (view.name, 1.0, alone, view.large),
            (f"{UACS} with {view.name}", view.share(cascade), view.seconds(cascade), predictions(cascade)),
        ]
        for title, share, seconds, answers in systems[view is not first :]:
            if title.startswith(UACS):
                ours.append(len(rows))
            row: list[Value] = [title, share, seconds, _relative(seconds, alone)]
            row += view.scores(answers, ("acc2", "mae"))
            rows.append(row + _time_of_paper(own, title, view))
    columns = [
        Column("method", ""),
        Column("asked", "asked, %", "percent"),
        Column("seconds", "model seconds", "seconds"),
        Column("relative", "of the large model's time, %", "percent"),
        Column("acc2", "Acc2", "percent"),
        Column("mae", "MAE", "score"),
    ]
    if first.published:
        columns += [
            Column("relative_paper", "time, paper, %", "percent", paper=True),
            Column("acc2_paper", "Acc2, paper", "percent", paper=True),
            Column("mae_paper", "MAE, paper", "score", paper=True),
        ]
    note = (
        "Seconds of the models for the whole test split: stage 1 for everyone, stages 2 and 3 for those who are asked, "
    )
    note += "without loading and reading clips." if first.timed else "where answers carry none there are none."
    return Table("table-iv", "Tables IV and VI: run time", columns, rows, note, ours=ours)


def _time_of_paper(own: dict[str, paper.Row], title: str, view: View) -> list[Value]:
    if not view.published:
        return []
    name = paper.known_as(view.name)
    theirs = own.get(title.replace(view.name, name), {})
    seconds, alone = theirs.get("seconds"), own.get(name, {}).get("seconds")
    return [seconds / alone if seconds and alone else None, _of_paper(theirs, "acc2"), _of_paper(theirs, "mae")]


def _relative(seconds: Estimate | None, alone: Estimate | None) -> Value:
    """By the value of what the large model takes alone."""
    if seconds is None or alone is None:
        return None
    value, low, high = (float(end) / alone.value for end in (seconds.value, seconds.low, seconds.high))
    return Estimate(value, low, high, seconds.seeds)


def differences(views: Sequence[View]) -> Table:
    """The cascade against each model alone, sample by sample."""
    rows: list[list[Value]] = []
    for view in views:
        cascade = predictions(view.decisions())
        for rival, answers in ((view.name, view.large), ("UBM", view.small)):
            right = [
                [metrics.per_sample(y, view.label, view.like)["acc2"] for y in pair]
                for pair in zip(cascade, answers, strict=True)
            ]
            only = np.mean([[np.sum((a == 1) & (b == 0)), np.sum((a == 0) & (b == 1))] for a, b in right], axis=0)
            gains = view.gains(cascade, answers, ("acc2", "f1", "mae", "corr"))
            rows.append([f"{UACS} with {view.name}", f"{rival} alone", *gains, *only.tolist()])
    return Table(
        "table-differences",
        "The cascade against each model alone",
        [
            Column("cascade", ""),
            Column("rival", "less"),
            Column("acc2", "Acc2, points", "points"),
            Column("f1", "F1, points", "points"),
            Column("mae", "MAE", "difference"),
            Column("corr", "Corr", "difference"),
            Column("only_cascade", "polarity right in the cascade alone", "mean"),
            Column("only_rival", "in the other alone", "mean"),
        ],
        rows,
        "Paired, on the samples that both answer. Where only a handful of polarities differ, Acc2's interval is too "
        "narrow: look at the counts (means over the seeds), as McNemar's test does.",
    )


def ablations(view: View, draws: int) -> Table:
    """Tables VII and VIII: without the second look, without uncertainty, by other estimators as they are and at
    the share of the entropy's cascade."""
    names = ("acc3" if "sims" in view.like else "acc7", "acc2", "mae")
    theirs = paper.ABLATIONS.get(view.dataset, {})

    def row(of: View, title: str, decisions: Sequence[Decision], key: str | None = None) -> list[Value]:
        answers, ours = predictions(decisions), predictions(of.decisions())
        gains: list[Value] = [None, None] if key == "cbe" else [*of.gains(answers, ours, ("acc2", "mae"))]
        scores: list[Value] = [of.share(decisions), *of.scores(answers, names)]
        return [title + of.seeds_of(view), *scores, *gains, *_paper_cells(theirs.get(key or ""), names, view)]

    cascade = view.decisions()
    rows = [row(view, f"{UACS}: entropy (cbe)", cascade, "cbe")]
    rows += _by_chance(view, draws, names, theirs.get("random"))
    instead: list[tuple[str, Sequence[np.ndarray], str | None]] = [
        ("y_large stands", view.large, "without cross-verification"),
        ("the average (Eq. 15)", [_average(cell) for cell in view.cells], None),
        ("y_small stands", view.small, None),
    ]
    for title, answers, key in instead:
        rows.append(row(view, f"without the second look: {title}", _instead(cascade, answers), key))
    others = [(name, view.having(name)) for name in view.estimators if name != "cbe"]
    for name, of in others:
        rows.append(row(of, f"{name}, at its own thresholds", of.decisions(name), name))
    for name, of in others:
        rows.append(row(of, f"{name}, at the share of cbe", of.matched([c.test.u[name] for c in of.cells])))
    columns = [
        Column("variant", ""),
        Column("asked", "asked, %", "percent"),
        *(Column(name, HEADINGS[name], kind(name)) for name in names),
        Column("acc2_gain", "Acc2 against cbe, points", "points"),
        Column("mae_gain", "MAE against cbe", "difference"),
    ]
    if view.published:
        columns += [Column(f"{name}_paper", f"{HEADINGS[name]}, paper", kind(name), paper=True) for name in names]
    return Table(
        "table-vii",
        "Tables VII and VIII: ablations",
        columns,
        rows,
        "Differences are paired. Random routing asks as many as entropy does, the rest of the cascade stays on. At its "
        "own thresholds an estimator's doubt stands in Eq. 13, 15, 16 and 19; at the share of cbe it says only who is "
        "asked, as many as by entropy, and the rest is the entropy's. `temperature`, `error` and `miss` have learned "
        "from the split that thresholds are set on.",
        ours=[0],
    )


def _by_chance(view: View, draws: int, names: Sequence[str], theirs: paper.Row | None) -> list[list[Value]]:
    """Random routing: the mean of draws, and of all that there are (each sample with the same chance)."""
    ours = predictions(view.decisions())
    drawn = random_decisions(view, draws)
    of_draws = [_mean_shares([d.prediction for d in seed], view) for seed in drawn]
    of_all = []
    for s, (cell, decision) in enumerate(zip(view.cells, view.decisions(), strict=True)):
        share = float(np.sum(decision.stage > routing.SMALL) / np.isfinite(cell.test.y).sum())
        of_all.append(expected_shares(view, s, share))
    rows: list[list[Value]] = []
    for title, shares in ((f"mean of {draws} draws", of_draws), ("mean of all draws", of_all)):

        def scores(s: int, at: np.ndarray, shares=shares, of: Sequence[str] = names) -> np.ndarray:
            return score_of_shares(shares[s], at, of)

        def apart(s: int, at: np.ndarray, scores=scores) -> np.ndarray:
            return scores(s, at, of=("acc2", "mae")) - score(ours[s][at], view.label[at], view.like, ("acc2", "mae"))

        values: list[Value] = [view.share(view.decisions())]
        values += [*view.estimated(scores), *view.estimated(apart)]
        cells = _paper_cells(theirs if shares is of_draws else None, names, view)
        rows.append([f"without uncertainty: at random, {title}", *values, *cells])
    return rows


def expected_shares(view: View, s: int, share: float) -> metrics.Shares:
    """What each sample adds to the sums of a seed's metrics if a coin asks about a share of them, (N,) by name.

    Of metrics that are means of what samples add, accuracies and MAE, this is the mean over all coins.
    """
    kept, asked = (_shares(fate, view) for fate in view.fates(s))
    return {name: (1 - share) * kept[name] + share * asked[name] for name in kept}


def _mean_shares(answers: Sequence[np.ndarray], view: View) -> metrics.Shares:
    found = [_shares(answer, view) for answer in answers]
    return {name: np.mean([shares[name] for shares in found], axis=0) for name in found[0]}


def _shares(answer: np.ndarray, view: View) -> metrics.Shares:
    """Of all samples, those that are not `known` in name only."""
    found = metrics.shares(answer[view.known], view.label[view.known], view.like, centre=0.0)
    full = {}
    for name, values in found.items():
        full[name] = np.zeros(len(answer))
        full[name][view.known] = values
    return full


def _paper_cells(theirs: paper.Row | None, names: Sequence[str], view: View) -> list[Value]:
    return [_of_paper(theirs, name) for name in names] if view.published else []


def random_decisions(view: View, draws: int) -> list[list[Decision]]:
    """For each seed, cascades in which a coin takes as many samples as the entropy does."""
    found = []
    for s, (cell, ours) in enumerate(zip(view.cells, view.decisions(), strict=True)):
        count, draw = int(np.sum(ours.stage > routing.SMALL)), np.random.default_rng(cell.seed)
        masks, readable = np.zeros((draws, len(ours.stage)), bool), np.flatnonzero(np.isfinite(cell.test.y))
        for mask in masks:
            mask[draw.permutation(readable)[:count]] = True
        found.append([view.asking(s, mask) for mask in masks])
    return found


def _average(cell: Cell) -> np.ndarray:
    test = cell.test
    return routing.weighted_average(test.y, test.u["cbe"], test.y_large, test.u_large)


def _instead(decisions: Sequence[Decision], answers: Sequence[np.ndarray]) -> list[Decision]:
    """The same cascades with other answers where a second look was due."""
    return [
        Decision(d.stage, d.answer_from, np.where(d.stage == routing.VERIFY, y, d.prediction), d.degraded)
        for d, y in zip(decisions, answers, strict=True)
    ]


def volume(views: Sequence[View]) -> Table:
    """Table IX: how many test samples each part of the system has to do with."""
    rows: list[list[Value]] = []
    for view in views:
        stages = [np.bincount(d.stage[d.stage >= 0], minlength=len(STAGES)) for d in view.decisions()]
        small, large, average, verify = np.mean(stages, axis=0)
        asked = large + average + verify
        rows.append([view.name, len(view.label), small, asked, large, average, verify])
        if view.published and paper.known_as(view.name) == "HumanOmni":
            n, kept, asked_paper = paper.VOLUME[view.dataset]
            rows.append(["HumanOmni, paper", n, kept, asked_paper, None, None, None])
    columns = [
        Column("model", ""),
        Column("n", "test samples", "count"),
        Column("small", "settled by the UBM", "count"),
        Column("asked", "asked of the large model", "count"),
        Column("large", "large one sure", "count"),
        Column("average", "averaged", "count"),
        Column("verify", "second look", "count"),
    ]
    return Table("table-ix", "Table IX: samples per component", columns, rows, "Means over the seeds.")
