"""`uacs tune ubm`: search for a UBM's rates by the cascade that it makes possible, and tell what that is worth.

OUT has ubm/ (the chosen one), thresholds.json for it, trials.parquet, choices.parquet, search.json and
report.html. The same command again takes a search up that was cut off.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from uacs.cascade import rules
from uacs.cascade.objectives import Objective
from uacs.cascade.paired import SAME_LABEL
from uacs.cascade.points import alone
from uacs.cascade.recording import Recording
from uacs.cascade.rules import RuleSettings
from uacs.cascade.thresholds import Thresholds, explained
from uacs.cluster.choices import Choice, Grounds, weighed
from uacs.cluster.runs import Run, asking, second_look
from uacs.cluster.search_ubm import SEARCHED, Found, SearchSettings, search
from uacs.cluster.trials import Heard
from uacs.cluster.tuning import refuse_other_metric, told_of
from uacs.cluster.tuning_view import row_of
from uacs.data.prepared import PreparedDataset
from uacs.errors import BadInput
from uacs.report.search_figures import Curve
from uacs.report.search_page import Repeat, Row, Trial, UbmView, ubm_page
from uacs.ubm.estimating import fingerprint
from uacs.ubm.settings import TrainingSettings, load_config

NO_SECOND_LOOKS = (
    "the second looks on record were given to another UBM's answers, so y_large stands in for them here, at their price"
)


def tune_ubm(
    dataset: PreparedDataset,
    text_encoder: str,
    base: TrainingSettings,
    given: Grounds,
    out: Path,
    settings: SearchSettings,
    objective: Objective,
    told: Heard | None = None,
) -> UbmView:
    """Search, leave the chosen UBM and its thresholds in `out`; returns what the page shows.

    given has the large model's answers about the splits valid and test of `dataset`, whichever UBM they were
    recorded with. Raises `BadInput` where they are about other samples.
    """
    refuse_other_metric(objective, given.valid)
    for run in filter(None, (given.calibration, given.tested)):
        _refuse_other_samples(dataset, run)
    started = time.perf_counter()
    made = given.calibration.manifest["identity"]
    asked = {name: made[name] for name in ("data", "mllm", "readout")} | {"asking": asking(made)}
    if second_look(made) != second_look({}):  # only where it was chosen, so that searches made before go on
        asked["second_look"] = second_look(made)
    table = given.calibration.table()
    found = search(dataset, text_encoder, base, table, asked, out, settings, objective, given.prices, told)
    around = _around(found.ubm, dataset, given)
    chosen = _chosen(around, found)
    view = _view(dataset, given, around, settings, objective, found, chosen, time.perf_counter() - started)
    run = Run.open(out)
    run.write("thresholds.json", _signed(around, found, chosen).text())
    run.write_table("choices.parquet", pd.DataFrame([told_of(chosen), told_of(_recorded(given, objective))]))
    run.write("report.html", ubm_page(replace(view, identity=run.manifest["identity"])))
    run.write("search.json", json.dumps(_summary(view, found, chosen), indent=2))
    return view


def _refuse_other_samples(dataset: PreparedDataset, run: Run) -> None:
    """Refuse a run that is not about this data's samples, or labels them otherwise: names may be the same by chance."""
    split, table = run.manifest["identity"]["split"], run.table()
    labels = {sample.sample_id: sample.label for sample in dataset.samples(split)}
    for name, label in zip(table["sample_id"].to_pylist(), table["label"].to_pylist(), strict=True):
        if name not in labels or (labels[name] is None) != (label is None):
            raise BadInput(f"{run.folder}: sample '{name}' is not so in split '{split}' of {dataset.folder}; {_MEND}")
        if label is not None and abs(labels[name] - label) > SAME_LABEL:
            both = f"{label:g} there and {labels[name]:g} in {dataset.folder}"
            raise BadInput(f"{run.folder}: sample '{name}' is labelled {both}; {_MEND}")


_MEND = "name runs over this very data"


def _around(ubm: Path, dataset: PreparedDataset, given: Grounds) -> Grounds:
    """The same grounds with a UBM's answers in place of the recorded one's."""
    predict = _predictor(ubm)
    valid = _with(given.valid, given.calibration, predict(dataset, _split(given.calibration)))
    test = None
    if given.test and given.tested:
        test = _with(given.test, given.tested, predict(dataset, _split(given.tested)))
    return replace(given, valid=valid, test=test)


def _split(run: Run) -> str:
    return run.manifest["identity"]["split"]


def _predictor(ubm: Path) -> Callable[[PreparedDataset, str], dict[str, tuple]]:
    from uacs.ubm.predictor import SmallPredictor  # torch: not before it is needed

    predictor = SmallPredictor(ubm)

    def predict(dataset: PreparedDataset, split: str) -> dict[str, tuple]:
        """y, u and p of each sample by its id."""
        answers = {}
        for part in dataset.parts(split):
            samples = dataset.read(part)
            for sample, output in zip(samples, predictor.predict(samples), strict=True):
                answers[sample.sample_id] = (output.y, output.u, output.p)
        return answers

    return predict


def _with(recording: Recording, run: Run, answers: dict[str, tuple]) -> Recording:
    """A run's recording as another UBM answers its samples."""
    ids = run.table()["sample_id"].to_pylist()
    y, u, p = (np.array(values) for values in zip(*(answers[name] for name in ids), strict=True))
    return recording.with_small(y, u, p)


def _chosen(around: Grounds, found: Found) -> Choice:
    said = [NO_SECOND_LOOKS, *([found.unreached] if found.unreached else [])]
    made = explained(around.valid, found.tau_small, found.tau_large, "exact", said)
    return weighed(around, f"trial {found.trial}", made, "tuned")


def _recorded(given: Grounds, objective: Objective) -> Choice:
    """The cascade around the UBM of the calibration, at the thresholds that are best for it."""
    title = "the calibration's UBM"
    try:
        made = rules.choose("exact", given.valid, RuleSettings(), objective, given.prices)
    except BadInput as error:
        return Choice(title, None, None, None, str(error), "recorded")
    return weighed(given, title, made, "recorded")


def _signed(around: Grounds, found: Found, chosen: Choice) -> Thresholds:
    """thresholds.json for the chosen UBM and the recorded large model."""
    if chosen.thresholds is None:
        raise BadInput(chosen.note)
    estimator = load_config(found.ubm).estimator
    ubm = {"ubm": fingerprint(found.ubm, estimator), "estimator": estimator}
    ubm["second_look"] = second_look(around.calibration.manifest["identity"])
    return around.calibration.signed(chosen.thresholds).model_copy(update=ubm)


def _view(
    dataset: PreparedDataset,
    given: Grounds,
    around: Grounds,
    settings: SearchSettings,
    objective: Objective,
    found: Found,
    chosen: Choice,
    seconds: float,
) -> UbmView:
    epochs = found.epochs.to_pandas()
    tried = epochs[epochs.status.isin(["finished", "stopped", "failed"])]
    return UbmView(
        title=f"UBMs for {dataset.info.name}, chosen by the cascade on split valid",
        identity={},
        objective=objective,
        prices=given.prices,
        seconds=seconds,
        trials=[_trial(number, rows) for number, rows in tried.groupby("trial")],
        chosen=found.trial,
        rows=[row_of(chosen, True), row_of(_recorded(given, objective), False)],
        small=_alone(around, "small", "chosen UBM alone"),
        large=_alone(around, "large", "large model alone"),
        curves=[_curve(number, rows) for number, rows in tried.dropna(subset="quality").groupby("trial")],
        repeats=[_repeat(dataset, given, objective, folder) for folder in found.repeats],
        warnings=[NO_SECOND_LOOKS, *([found.unreached] if found.unreached else [])],
    )


def _trial(number: int, rows: pd.DataFrame) -> Trial:
    last = rows.iloc[-1]
    known = {name: (None if pd.isna(last[name]) else float(last[name])) for name in ("quality", "time")}
    settings = {name: int(last[name]) if name == "seed" else float(last[name]) for name in SEARCHED}
    return Trial(int(number), settings, last.status, int(rows.epoch.count()), **known, note=last.error or "")


def _curve(number: int, rows: pd.DataFrame) -> Curve:
    return Curve(
        int(number), rows.epoch.to_numpy(), rows.quality.to_numpy(), rows.time.to_numpy(), rows.status.iloc[-1]
    )


def _alone(around: Grounds, model: str, name: str) -> Row:
    points = {split: alone(recording, model, around.prices) for split, recording in around.splits.items()}
    return Row(name, points["valid"], points.get("test"))


def _repeat(dataset: PreparedDataset, given: Grounds, objective: Objective, folder: Path) -> Repeat:
    """The chosen settings with another seed, at the thresholds that are best for that UBM."""
    around = _around(folder, dataset, given)
    made = rules.choose("exact", around.valid, RuleSettings(), objective, around.prices)
    choice = weighed(around, folder.name, made, "")
    if choice.valid is None:
        raise BadInput(choice.note)
    return Repeat(load_config(folder).training.seed, made.tau_small, made.tau_large, choice.valid, choice.test)


def _summary(view: UbmView, found: Found, chosen: Choice) -> dict:
    """search.json: what was wanted, what was found, and what it took."""
    return {
        "format": 1,
        "objective": view.objective.text(),
        "prices": asdict(view.prices),
        "trials": len(view.trials),
        "seconds": view.seconds,
        "chosen": told_of(chosen) | {"trial": found.trial, "settings": found.settings.model_dump()},
        "repeats": [
            {"seed": r.seed, "valid": asdict(r.valid)} | ({"test": asdict(r.test)} if r.test else {})
            for r in view.repeats
        ],
    }
