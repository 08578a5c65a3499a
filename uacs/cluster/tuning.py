"""`uacs tune thresholds`: search on a calibration, weigh the other rules beside it, and tell what each is worth.

What is chosen is chosen by the calibration's split; a test run, if there is one, only reports. OUT has
trials.parquet (the search's ledger), choices.parquet and fronts.parquet, search.json, thresholds.json and
report.html. The same command again takes a search up that was cut off.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pandas as pd

from uacs import metrics
from uacs.cascade.objectives import Objective
from uacs.cascade.points import Point
from uacs.cascade.recording import Recording
from uacs.cascade.rules import RuleSettings
from uacs.cascade.thresholds import Fit, Thresholds, explained
from uacs.cluster import status
from uacs.cluster.choices import SEARCH, Choice, Grounds, Searched, choices
from uacs.cluster.progress import Counts
from uacs.cluster.runs import Run, asking, second_look
from uacs.cluster.search_thresholds import Ledger, Points, Problem, ThresholdSearch, eq19, search
from uacs.cluster.session import ray_session
from uacs.cluster.tuning_view import every_point, front_of, scored, view_of
from uacs.data.places import Place
from uacs.errors import BadInput, WrongUse
from uacs.report.search_page import ThresholdView, thresholds_page


def tune_thresholds(
    given: Grounds,
    out: Place,
    settings: ThresholdSearch,
    objective: Objective,
    rule: str = SEARCH,
    told_rules: RuleSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ThresholdView:
    """Choose thresholds by a rule and leave them in `out` with all that they were weighed against; returns that.

    The search runs if it is the rule that is wanted. Raises `WrongUse` for a rule that there is not or a metric
    that the dataset lacks, `BadInput` where the rule comes to nothing.
    """
    refuse_other_metric(objective, given.valid)
    started = time.perf_counter()
    run = Run.begin(out, _identity(given, objective, settings), {"calibration": str(given.calibration.folder)})
    searched = _searched(given, run, settings, objective, progress) if rule == SEARCH else []
    found = choices(given, searched, settings, objective, rule, told_rules or RuleSettings())
    if found[0].thresholds is None:
        raise BadInput(found[0].note)
    view = view_of(given, run, settings, objective, searched, found, time.perf_counter() - started)
    run.write("thresholds.json", _signed(given.calibration, found[0].thresholds).text())
    run.write_table("choices.parquet", pd.DataFrame([told_of(choice) for choice in found]))
    run.write_table("fronts.parquet", _fronts(given, objective, searched))
    run.write("report.html", thresholds_page(view))
    run.write("search.json", json.dumps(_summary(view, found), indent=2))
    return view


def refuse_other_metric(objective: Objective, recording: Recording) -> None:
    """Refuse a metric that the dataset is not scored by."""
    known = metrics.names(recording.dataset)
    if objective.metric not in known:
        raise WrongUse(f"{recording.dataset} is not scored by {objective.metric}; there is {', '.join(known)}")


def _identity(given: Grounds, objective: Objective, settings: ThresholdSearch) -> dict:
    """What a search's trials depend on; how many there are, and which rule is wanted, may change."""
    made = given.calibration.manifest["identity"]
    names = ["dataset", "like", "split", "data", "ubm", "mllm", "readout"]
    if made.get("estimator") not in (None, "cbe"):  # so that searches made before there were others go on
        names.append("estimator")
    return {name: made.get(name) for name in names} | {
        "command": "tune thresholds",
        "asking": asking(made),
        "objective": asdict(objective),
        "knobs": settings.knobs,
        "prices": asdict(given.prices),
    }


def _searched(
    given: Grounds,
    run: Run,
    settings: ThresholdSearch,
    objective: Objective,
    progress: Callable[[int, int], None] | None,
) -> list[Searched]:
    """A search for each seed, all on one Ray."""
    problem = Problem.of(given.valid, objective, given.prices, settings.knobs)
    exact = problem.exact()
    objective.choose(exact.quality, exact.time, problem.large)  # what no point reaches no search will find
    status.refuse_alive(run)
    ledger, found = Ledger(run.place("trials.parquet")), []

    def written() -> Counts:
        return Counts(written=len(ledger.rows))

    total = settings.trials * settings.repeats
    with status.Pulse(run, total, Counts(), None) as pulse, ray_session(), pulse.counting(written):
        for number in range(settings.repeats):

            def heard(done: int, of: int, before: int = number * settings.trials) -> None:
                if progress:
                    progress(before + done, total)

            tried = search(problem, settings, settings.seed + number, ledger, heard)
            at = objective.choose(tried.quality, tried.time, problem.large)
            found.append(Searched(settings.seed + number, tried, _thresholds(problem, tried, at)))
    return found


def _thresholds(problem: Problem, tried: Points, at: int) -> Thresholds:
    """A point's thresholds with its λ and β: where both models share them, those."""
    taus = float(tried.tau_small[at]), float(tried.tau_large[at])
    found = explained(problem.recording, *taus, SEARCH)
    if problem.knobs == "each":
        return found
    lambda_, beta = shared_knobs(problem.fits, *taus)
    small, large = (fit.model_copy(update={"lambda_": lambda_, "beta": beta}) for fit in problem.fits)
    return found.model_copy(update={"small": small, "large": large})


def shared_knobs(fits: tuple[Fit, Fit], tau_small: float, tau_large: float) -> tuple[float, float]:
    """The λ and β at which Eq. 19 gives both thresholds, where there is one pair that does."""
    starts, spans = zip(*((eq19(fit, 0, 0), eq19(fit, 1, 0) - eq19(fit, 0, 0)) for fit in fits), strict=True)
    apart = spans[0] - spans[1]
    lambda_ = ((tau_small - starts[0]) - (tau_large - starts[1])) / apart if apart else 0.5
    lambda_ = float(np.clip(lambda_, 0, 1))
    return lambda_, tau_small - eq19(fits[0], lambda_, 0)


def _fronts(given: Grounds, objective: Objective, searched: list[Searched]) -> pd.DataFrame:
    """A row for each point of the exact front, and of each seed's: thresholds, metric and run time of both splits."""
    tables = []
    fronts = {"exact": every_point(given, objective)} | {f"search, seed {s.seed}": s.points for s in searched}
    for source, of in fronts.items():
        along = front_of(of, objective)
        table = {"front": source, "tau_small": along.tau_small, "tau_large": along.tau_large}
        for split, recording in given.splits.items():
            names = ("acc2", "mae", objective.metric)
            found, time_ = scored(recording, given.prices, along.tau_small, along.tau_large, names)
            table |= {f"{split}_{name}": values for name, values in found.items()} | {f"{split}_time": time_}
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)


def told_of(choice: Choice) -> dict:
    """A row of choices.parquet."""
    made = choice.thresholds
    row: dict[str, object] = {"choice": choice.name, "note": choice.note}
    row |= {"tau_small": made.tau_small, "tau_large": made.tau_large, "deferral": bool(made.deferral)} if made else {}
    for split, found in (("valid", choice.valid), ("test", choice.test)):
        row |= {f"{split}_{name}": value for name, value in _of_point(found).items()} if found else {}
    return row


def _of_point(found: Point) -> dict[str, float]:
    ends = {
        f"{name}_{end}": value
        for name, interval in found.intervals.items()
        for end, value in zip(("low", "high"), interval, strict=True)
    }
    return found.metrics | ends | {name: getattr(found, name) for name in ("asked", "second", "cost", "time")}


def _summary(view: ThresholdView, found: list[Choice]) -> dict:
    """search.json: what was wanted, what was found, and what it took."""
    return {
        "format": 1,
        "objective": view.objective.text(),
        "prices": asdict(view.prices),
        "knobs": view.knobs,
        "trials": view.trials,
        "seconds": view.seconds,
        "hypervolume_ratio": view.ratio,
        "choices": [told_of(choice) for choice in found],
        "repeats": [
            {"seed": r.seed, "tau_small": r.tau_small, "tau_large": r.tau_large, "valid": _of_point(r.valid)}
            | ({"test": _of_point(r.test)} if r.test else {})
            for r in view.repeats
        ],
    }


def _signed(calibration: Run, chosen: Thresholds) -> Thresholds:
    """Thresholds with what they are good for, the second look among it: they were chosen by replaying its answers."""
    made = calibration.signed(chosen)
    return made.model_copy(update={"second_look": second_look(calibration.manifest["identity"])})
