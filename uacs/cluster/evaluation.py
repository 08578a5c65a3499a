"""Calibrate and evaluate: a dataset's split through the cascade on Ray, into a run directory.

Both go the same way: check that data and models belong together, open the run, stream what is missing,
and sum up. Calibration asks everyone about everything and then sets the thresholds; evaluation routes
by thresholds that it is given.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray import serve

from uacs import fingerprints, mllm
from uacs.cascade.outcomes import with_decision
from uacs.cascade.summary import summarise
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.pipeline import Ask, PartDone, stream
from uacs.cluster.resources import preflight, ray_session, start_serve
from uacs.cluster.runs import Run, refuse_foreign, refuse_other_models, write_outcome, write_whole
from uacs.cluster.serving.large import deploy
from uacs.config import EvaluationSettings
from uacs.data.prepared import PreparedDataset
from uacs.errors import Refused
from uacs.report.page import write_report
from uacs.ubm.settings import UbmConfig, load_config

Progress = Callable[[PartDone | int], None]
"""Told how many samples there are, done ones included, then of each part as it is written."""


@dataclass(frozen=True)
class Models:
    """The two models of a run, and the split they answer."""

    dataset: PreparedDataset
    split: str
    ubm: Path
    mllm: str


def evaluate(
    models: Models,
    thresholds: Thresholds,
    out: Path,
    settings: EvaluationSettings,
    all_stages: bool = False,
    progress: Progress | None = None,
) -> dict:
    """Run the cascade over a split; returns the content of metrics.json.

    With `all_stages` the large model answers every sample, and looks twice wherever the models conflict,
    so that the run can be compared and replayed; the cascade's own predictions are the same.
    """
    identity = _identity(models, settings) | {
        "command": "evaluate",
        "asked": "everyone" if all_stages else "unsure",
        "tau_small": thresholds.tau_small,
        "tau_large": thresholds.tau_large,
    }
    refuse_other_models(thresholds, identity)
    ask = Ask(thresholds.tau_small, thresholds.tau_large, all_stages, "conflict" if all_stages else "due")
    run = Run.begin(out, identity, settings.model_dump())
    wall = _answer(run, models, ask, settings, progress)
    return _finish(run, models, thresholds, wall)


def calibrate(
    models: Models,
    out: Path,
    settings: EvaluationSettings,
    lambda_: float | None = None,
    beta: float = 0.0,
    progress: Progress | None = None,
) -> Thresholds:
    """Ask both models about all of a split, set both thresholds by Eq. 19, and leave thresholds.json in `out`.

    Without a λ the dataset's own holds (`uacs.datasets`).
    """
    identity = _identity(models, settings) | {"command": "calibrate", "asked": "everyone"}
    run = Run.begin(out, identity, settings.model_dump())
    nan = float("nan")
    wall = _answer(run, models, Ask(nan, nan, True, "conflict"), settings, progress)

    thresholds = run.thresholds(models.dataset.info.kind.lambda_ if lambda_ is None else lambda_, beta)
    for part in models.dataset.parts(models.split):
        answered = pq.read_table(run.outcome(part))
        decided = with_decision(answered, thresholds.tau_small, thresholds.tau_large)
        if not decided.equals(answered):
            write_outcome(run.outcome(part), decided)
    _finish(run, models, thresholds, wall)
    return thresholds


def calibrated(
    models: Models,
    out: Path,
    settings: EvaluationSettings,
    lambda_: float | None = None,
    beta: float = 0.0,
    progress: Progress | None = None,
) -> Thresholds:
    """Thresholds for a run in `out` that brings none: made in `out`/calibration, or those it was begun with."""
    refuse_foreign(out)
    lambda_ = models.dataset.info.kind.lambda_ if lambda_ is None else lambda_
    if (out / "manifest.json").exists():
        thresholds = Thresholds.load(out / "calibration" / "thresholds.json")
        made = thresholds.small
        if made and (made.lambda_, made.beta) != (lambda_, beta):
            was = f"λ {made.lambda_:g} and β {made.beta:g}, now {lambda_:g} and {beta:g}"
            raise Refused(f"{out}: the run there was calibrated with {was}; name a new --out")
        return thresholds
    return calibrate(models, out / "calibration", settings, lambda_, beta, progress)


def rewrite_report(folder: Path) -> dict:
    """Write the report of a finished run anew, from its own files; returns the content of metrics.json."""
    run = Run.open(folder)
    summary = run.metrics()
    write_report(folder, run.manifest, summary, run.table(), Thresholds.load(folder / "thresholds.json"))
    return summary


def _identity(models: Models, settings: EvaluationSettings) -> dict:
    """What a run's outcomes depend on; raises unless data and models belong together."""
    config, info = load_config(models.ubm), models.dataset.info
    refuse_other_data(config, models.dataset, models.ubm)
    return {
        "dataset": info.name,
        "like": info.like,
        "split": models.split,
        "data": models.dataset.checksum(models.split)[:16],
        "ubm": fingerprints.of_folder(models.ubm),
        "estimator": config.estimator,
        **mllm.identity(models.mllm, settings.mllm, info.language),
    }


def refuse_other_data(config: UbmConfig, dataset: PreparedDataset, ubm: Path) -> None:
    """Refuse data whose range or features are not those that a UBM was trained on."""
    info, data = dataset.info, dataset.folder
    if config.score_range != info.score_range:
        raise Refused(f"{data}: scores in {info.score_range}, the UBM {ubm} answers in {config.score_range}")
    for modality, trained in config.features.items():
        here = info.features.get(modality)
        if here and here != trained:
            raise Refused(
                f"{data}: {modality} features of '{here.extractor}' ({here.size}), the UBM {ubm} was trained "
                f"on '{trained.extractor}' ({trained.size}); prepare the data with the same, or train a UBM on these"
            )


def _answer(run: Run, models: Models, ask: Ask, settings: EvaluationSettings, progress: Progress | None) -> float:
    """Stream the parts that are missing; returns the wall seconds so far, models loaded and waiting."""
    parts = models.dataset.parts(models.split)
    missing = run.missing(parts)
    if progress:
        progress(models.dataset.rows(models.split))
        for name in sorted(set(parts) - set(missing)):
            progress(PartDone.read(name, run.outcome(name)))
    if not missing:
        return run.wall()
    mllm.check(models.mllm)
    with ray_session() as ours:
        preflight(settings.resources, ray.cluster_resources(), settings.mllm.device)
        start_serve()
        app, info = f"uacs-{run.run_id}", models.dataset.info
        try:
            deploy(app, models.mllm, settings.mllm, info.score_range, info.language, settings.resources)
            with run.session() as session:
                for part in _stream(run, missing, models, ask, app, settings):
                    session["parts"] += 1
                    if progress:
                        progress(part)
        finally:
            if not ours:
                serve.delete(app)
    return run.wall()


def _stream(run: Run, parts: list[str], models: Models, ask: Ask, app: str, settings: EvaluationSettings):
    return stream(
        parts,
        models.dataset.folder.absolute(),
        models.ubm.absolute(),
        run.folder.absolute() / "outcomes",
        app,
        ask,
        settings.resources,
        settings.batch_size,
        settings.chunk_size,
        settings.threads,
    )


def _finish(run: Run, models: Models, thresholds: Thresholds, wall: float) -> dict:
    table: pa.Table = run.table()
    thresholds.save(run.folder / "thresholds.json")
    info = models.dataset.info
    summary = summarise(table, info.like, thresholds, wall, info.name)
    write_whole(run.folder / "metrics.json", json.dumps(summary, indent=2))
    write_report(run.folder, run.manifest, summary, table, thresholds)
    return summary
