"""What finished runs say without a model: replayed at other thresholds, and compared with each other."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from uacs.cascade import paired
from uacs.cascade.outcomes import SYSTEMS, column, doubt, with_decision
from uacs.cascade.replay import Answers
from uacs.cascade.replay import replay as route
from uacs.cascade.summary import summarise
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.runs import Run, exists, read_thresholds, refuse_other_models, write_whole
from uacs.data.places import Place
from uacs.errors import BadInput, Refused, WrongUse


def replay(run: Run, thresholds: Thresholds) -> dict:
    """metrics.json as it would be with other thresholds, plus `missing`: answers that were due and never asked for.

    Where one is missing the cascade's fallback stands in (stage 3: y_large, stage 2: y_small).
    """
    identity = run.manifest["identity"]
    refuse_other_models(thresholds, identity)
    run.metrics()  # raises if it is not finished
    table = run.table()
    replayed = route(Answers.of(table), thresholds.tau_small, thresholds.tau_large, doubt(table, thresholds.deferral))
    decided = with_decision(table, thresholds.tau_small, thresholds.tau_large, thresholds.deferral)
    summary = summarise(decided, run.like, thresholds, wall=None, name=identity["dataset"])
    return summary | {"missing": {"large": int(replayed.missing_large), "verify": int(replayed.missing_verify)}}


def refuse_to_save(folder: Path) -> None:
    """Refuse a folder that holds something else than an earlier replay."""
    if folder.exists() and {path.name for path in folder.iterdir()} - {"metrics.json", "thresholds.json"}:
        raise Refused(f"{folder}: holds something else than a replay; name another --out")


def save(folder: Path, summary: dict, thresholds: Thresholds) -> None:
    """Leave a replay's metrics.json and the thresholds.json that it was made with in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "metrics.json", json.dumps(summary, indent=2))
    thresholds.save(folder / "thresholds.json")


def recalibrated(run: Run, calibration: Place | None, lambda_: float | None, beta: float | None) -> Thresholds:
    """Eq. 19's thresholds from the calibration that a run rests on, with another λ or β; by default with its own.

    The calibration is the one in the run's own folder unless another is named. It must be whole, and of
    other samples than the run's: thresholds set on what is then reported flatter it.
    """
    folder = calibration or run.place("calibration")
    if not exists(folder):
        raise BadInput(f"{folder}: no calibration there; name the run of `uacs calibrate` by --calibration")
    found, ours = Run.open(folder), run.manifest["identity"]
    theirs = found.manifest["identity"]
    if theirs["command"] != "calibrate":
        raise Refused(f"{folder}: a run of `uacs {theirs['command']}`; thresholds are set by one of `uacs calibrate`")
    if (theirs["split"], theirs["data"]) == (ours["split"], ours["data"]):
        raise Refused(f"{folder}: calibrated on the samples that {run.folder} reports; use one of another split")
    found.metrics()  # raises if it is not finished
    made = read_thresholds(found.place("thresholds.json")).small
    if made is None:
        raise BadInput(f"{folder}/thresholds.json: says nothing of λ and β, so is not a calibration's; calibrate again")
    return found.thresholds(made.lambda_ if lambda_ is None else lambda_, made.beta if beta is None else beta)


def compare(
    first: str, second: str, resamples: int = 2000, progress: Callable[[int, int], None] | None = None
) -> paired.Comparison:
    """Two runs on the samples that both answered, as RUN or RUN:SYSTEM with a system of `SYSTEMS`."""
    (one, answers), (two, others) = _run_and_answer(first), _run_and_answer(second)
    rules = {one.like, two.like}
    if len(rules) > 1:
        raise Refused(f"{first} is scored by {one.like}'s rules, {second} by {two.like}'s; there is no difference")
    return paired.compare(one.table(), two.table(), rules.pop(), (answers, others), resamples, progress=progress)


def _run_and_answer(spec: str) -> tuple[Run, str]:
    """A run and the column of its outcomes that is meant."""
    folder, colon, system = spec.rpartition(":")
    if system not in SYSTEMS:
        if colon and exists(folder):
            raise WrongUse(f"{spec}: expected RUN, RUN:small or RUN:large")
        folder, system = spec, "uacs"
    run = Run.open(folder)
    run.metrics()  # raises if it is not finished
    if not np.isfinite(column(run.table(), SYSTEMS[system])).any():
        raise BadInput(f"{folder}: no sample has an answer of '{system}'; name a run that asked it")
    return run, SYSTEMS[system]
