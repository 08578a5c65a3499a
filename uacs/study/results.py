"""All figures of a study that is done: tables, pictures, one sample's way, every decision; as files and as a page."""

import json
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path

import numpy as np

from uacs.cascade.outcomes import column
from uacs.cluster.runs import Run, write_whole
from uacs.data import places
from uacs.mllm import RECORDED
from uacs.mllm.recorded import read_answers
from uacs.report import study_figures, study_page
from uacs.report import tables as written
from uacs.report.figures import histograms
from uacs.report.study_figures import Picture
from uacs.report.study_page import Drawn, StudyPage
from uacs.report.tables import Table
from uacs.study import carried, checks, curves, tables
from uacs.study.cells import Cell
from uacs.study.conduct import looks_of, told_of
from uacs.study.decisions import decisions, story
from uacs.study.findings import findings
from uacs.study.large import read_looks
from uacs.study.layout import Study
from uacs.study.view import View
from uacs.study.warnings import warnings


def write(study: Study, command: str) -> Path:
    """Leave results.json, tables/, figures/ and report.html in the study's folder; returns the report's place.

    command is what makes the study again, for whoever reads the page.
    """
    views = [view(study, name) for name in study.settings.large]
    found, drawn = _tables(study, views, command), _pictures(study, views[0])
    for table in found:
        write_whole(study.out / "tables" / f"{table.key}.csv", written.as_csv(table))
        write_whole(study.out / "tables" / f"{table.key}.tex", written.as_latex(table))
    for picture in drawn:
        for kind in ("png", "pdf"):
            places.write(study.out / "figures" / f"{picture.key}.{kind}", picture.picture.file(kind))
        places.write(study.out / "figures" / f"{picture.key}.svg", picture.svg.encode())
    page = StudyPage(
        title=f"A study of {study.dataset.info.name}",
        command=command,
        identity=Run.open(study.out).manifest["identity"],
        versions=Run.open(study.out).manifest["versions"],
        large=list(study.settings.large),
        seeds=study.settings.seeds,
        test=len(views[0].label),
        scored=len(views[0].known),
        tables=found,
        pictures=drawn,
        story=story(study, views[0]),
        decisions=decisions(study, views[0]),
        findings=findings(views[0], found, study.primary),
        warnings=warnings(study, views),
    )
    report = study.out / "report.html"
    write_whole(report, study_page.page(page))
    told = {"findings": [finding.said for finding in page.findings], "tables": [_plain(table) for table in found]}
    write_whole(study.out / "results.json", json.dumps(told, indent=1))  # last: by it the study counts as finished
    return report


def view(study: Study, name: str) -> View:
    """All seeds with one large model, second looks among the answers."""
    cells = [_with_looks(study, study.cell(seed, name)) for seed in study.settings.seeds]
    return View(study.dataset.info.name, cells, study.lambda_, study.settings.beta)


def _with_looks(study: Study, cell: Cell) -> Cell:
    """The cell with what its second looks came to."""
    large, size = study.settings.large[cell.name], len(cell.test.y)
    if large.recorded:
        return _with_recorded(cell, large.model.removeprefix(RECORDED), study.dataset.info.score_range)
    y_verify: dict[str, np.ndarray] = {}
    seconds = np.full(size, np.nan)
    place = {name: i for i, name in enumerate(cell.test.sample_ids)}
    for hints in study.settings.hints if cell.name == study.settings.main else [study.primary]:
        answers = read_looks(study.looks(cell.name, hints))
        for estimator in told_of(study, cell, hints):
            y = np.full(size, np.nan)
            for look in looks_of(study, cell, estimator, hints):
                row = answers.get(look.key)
                if row and row["y"] is not None:
                    y[place[look.sample.sample_id]] = row["y"]
                own = estimator == "cbe" and hints == study.primary  # whose cascade run time is told of
                if own and row and row["seconds"] is not None:
                    seconds[place[look.sample.sample_id]] = row["seconds"]
            y_verify[estimator if hints == study.primary else f"hints:{hints}"] = y
    return cell.with_looks(y_verify, seconds)


def _with_recorded(cell: Cell, file: str, score_range: tuple[float, float]) -> Cell:
    """Second looks that are on record, for every seed and estimator alike: they were told of another UBM's answers."""
    columns = read_answers(file)
    at = {name: i for i, name in enumerate(columns["sample_id"].tolist())}
    nan = np.full(len(at) + 1, np.nan)
    rows = [at.get(name, len(at)) for name in cell.test.sample_ids]
    y, seconds = (np.append(columns.get(name, nan[:-1]), np.nan)[rows] for name in ("y_verify", "seconds_verify"))
    again = np.clip(y, *score_range)  # as `RecordedAnswers` has it
    return cell.with_looks(dict.fromkeys(cell.estimators, again) if np.isfinite(y).any() else {}, seconds)


def _tables(study: Study, views: list[View], command: str) -> list[Table]:
    first = views[0]
    found = [
        tables.comparison(views),
        tables.differences(views),
        tables.efficiency(views),
        tables.other_models(views),
        tables.ablations(first, study.settings.draws),
        tables.volume(views),
        checks.correlation(first),
        checks.looks(first, ["as recorded"] if study.settings.large[first.name].recorded else study.settings.hints),
        carried.table(study, first),
        checks.quality(first),
        checks.calibration(first),
        checks.against_chance(first),
        checks.intensity(first),
    ]
    return [replace(table, command=_command(study, table, command)) for table in found if table]


def _command(study: Study, table: Table, command: str) -> str:
    """What makes a table, or the part of it that a command tells by itself."""
    name = study.settings.main
    run, calibration = (_as_typed(study.run(name, what)) for what in ("baseline", "calibration"))
    beta = study.settings.beta
    single = {
        "table-ii": f"uacs report {run}",
        "table-iii": f"uacs report {run}",
        "table-iv": f"uacs replay {run} --calibration {calibration} --lambda {study.lambda_:g} --beta {beta:g}",
        "table-differences": f"uacs compare {run} {run}:large",
        "table-ix": f"uacs report {run}",
    }.get(table.key)
    return f"{command}; of seed {study.settings.seeds[0]} alone: {single}" if single else command


def _as_typed(place: Path) -> Path:
    """A path as a person here would type it."""
    return place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place


def _pictures(study: Study, view: View) -> list[Drawn]:
    gains = checks.against_chance(view)
    shares = [float(row[0]) for row in gains.rows]  # type: ignore[arg-type]
    drawn: list[tuple[str, str, str, Picture]] = [
        (
            "figure-3",
            "Figure 3: the weight λ",
            "Thresholds by Eq. 19 of the validation split at each λ, metrics of the test split: what is seen here must "
            "not choose λ.",
            study_figures.lambda_sweep(curves.lambda_sweep(view)),
        ),
        (
            "figure-budget",
            "Accuracy by what is asked",
            "The cascade if a share of the samples is asked, the most doubtful first; stages 2 and 3 as they are.",
            study_figures.budget(curves.budget(view)),
        ),
        (
            "figure-chance",
            "Entropy above a coin",
            "The numbers are in the table of the same name.",
            study_figures.gains(shares, [row[3] for row in gains.rows], [row[6] for row in gains.rows]),  # type: ignore[misc]
        ),
        (
            "figure-risk",
            "Risk and coverage",
            "Wrong polarities among those that the small model would keep.",
            study_figures.risk(curves.risk(view)),
        ),
        (
            "figure-error",
            "Does entropy foresee the error of the score?",
            "Eighths of the samples by their entropy; means over the seeds.",
            study_figures.error_by_doubt(curves.error_by_doubt(view)),
        ),
        (
            "figure-reliability",
            "Reliability",
            "All seeds' answers together; the larger a mark, the more of them.",
            study_figures.reliability(curves.reliability(view)),
        ),
    ]
    drawn.insert(1, _figure_4(view))
    return [Drawn(key, title, note, picture.svg(), picture) for key, title, note, picture in drawn]


def _figure_4(view: View) -> tuple[str, str, str, Picture]:
    """Of the first seed: the small model's entropy and the large one's, where they are right and wrong."""
    cell, known = view.cells[0], view.known
    (tau_small, _), (tau_large, _) = cell.fits("cbe", view.lambda_, view.beta)
    test = cell.test
    panels = {"small model": (test.u["cbe"][known], test.y[known], test.label[known], tau_small, "entropy (nats)")}
    answered = known[np.isfinite(test.y_large[known])]
    panels[view.name] = (
        test.u_large[answered],
        test.y_large[answered],
        test.label[answered],
        tau_large,
        "uncertainty (nats)",
    )
    note = f"Test split, seed {cell.seed}; Gaussians of each group, the threshold from the validation split."
    return "figure-4", "Figure 4: uncertainty, right and wrong", note, Picture(histograms(panels))


def _plain(value):
    """As JSON has it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(of) for name, of in asdict(value).items()}
    if isinstance(value, dict):
        return {name: _plain(of) for name, of in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(of) for of in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def silent(study: Study) -> str | None:
    """The first large model that has answered no test sample, if any."""
    for name in study.settings.large:
        if not np.isfinite(column(Run.open(study.run(name, "baseline")).table(), "y_large")).any():
            return name
    return None
