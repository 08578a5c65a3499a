"""Calibrate and evaluate: a dataset's split through the cascade on Ray, into a run directory.

Both go the same way: check that data and models belong together, open the run, stream what is missing,
and sum up. Calibration asks everyone about everything and then sets the thresholds; evaluation routes
by thresholds that it is given.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import ray
from ray import serve

from uacs import fingerprints, mllm
from uacs.cascade.outcomes import with_decision
from uacs.cascade.routing import Verify
from uacs.cascade.summary import summarise
from uacs.cascade.thresholds import Thresholds
from uacs.cluster import runs, status, tally
from uacs.cluster.clips import Look
from uacs.cluster.pipeline import Ask, PartDone, Work, stream
from uacs.cluster.progress import READ, Counts, Progress, Told, of_table
from uacs.cluster.resources import Resources, capped, nodes_of_ray, preflight
from uacs.cluster.runs import OUTCOMES, Run, read_thresholds, refuse_foreign, refuse_other_models, write_outcome
from uacs.cluster.serving.large import deploy, frames_of, reap, remove
from uacs.cluster.session import ray_session, start_serve
from uacs.config import EvaluationSettings
from uacs.data import places
from uacs.data.places import Place
from uacs.data.prepared import PreparedDataset
from uacs.data.speech import absolute, identity
from uacs.errors import BadInput, Refused
from uacs.mllm import MllmSettings
from uacs.mllm.adapters import over
from uacs.records import OUTCOME_SCHEMA
from uacs.report.page import page
from uacs.ubm.estimating import estimator_of, fingerprint
from uacs.ubm.settings import UbmConfig, load_config

BUSY = 10.0  # seconds that the tally may take to answer

log = logging.getLogger("uacs.run")


@dataclass(frozen=True)
class Models:
    """The two models of a run, and the split they answer; stage 3 may be another's than the large model's."""

    dataset: PreparedDataset
    split: str
    ubm: Path
    mllm: str
    verifier: str | None = None


def evaluate(
    models: Models,
    thresholds: Thresholds,
    out: Place,
    settings: EvaluationSettings,
    all_stages: bool = False,
    progress: Told | None = None,
) -> dict:
    """Run the cascade over a split; returns the content of metrics.json.

    With `all_stages` the large model answers every sample, and looks twice wherever the models conflict,
    so that the run can be compared and replayed; the cascade's own predictions are the same.
    """
    settings = settings.model_copy(update={"estimator": settings.estimator or thresholds.estimator})
    identity = _identity(models, settings) | {
        "command": "evaluate",
        "asked": "everyone" if all_stages else "unsure",
        "tau_small": thresholds.tau_small,
        "tau_large": thresholds.tau_large,
    }
    if thresholds.deferral:
        identity["deferral"] = fingerprints.of_settings(thresholds.deferral.model_dump())
    refuse_other_models(thresholds, identity)
    verify: Verify = "conflict" if all_stages else "due"
    ask = Ask(thresholds.tau_small, thresholds.tau_large, all_stages, verify, thresholds.deferral)
    run = Run.begin(out, identity, settings.model_dump())
    wall = _answer(run, models, ask, settings, progress)
    return _finish(run, models, thresholds, wall)


def calibrate(
    models: Models,
    out: Place,
    settings: EvaluationSettings,
    lambda_: float | None = None,
    beta: float = 0.0,
    progress: Told | None = None,
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
        answered = run.rows([part], OUTCOME_SCHEMA.names)
        decided = with_decision(answered, thresholds.tau_small, thresholds.tau_large)
        if not decided.equals(answered):
            write_outcome(run.outcome(part), decided)
    _finish(run, models, thresholds, wall)
    return thresholds


def calibrated(
    models: Models,
    out: Place,
    settings: EvaluationSettings,
    lambda_: float | None = None,
    beta: float = 0.0,
    progress: Told | None = None,
) -> Thresholds:
    """Thresholds for a run in `out` that brings none: made in `out`/calibration, or those it was begun with."""
    refuse_foreign(out)
    lambda_ = models.dataset.info.kind.lambda_ if lambda_ is None else lambda_
    calibration = places.within(out, "calibration")
    if runs.exists(out):
        thresholds = read_thresholds(places.within(calibration, "thresholds.json"))
        made = thresholds.small
        if made and (made.lambda_, made.beta) != (lambda_, beta):
            was = f"λ {made.lambda_:g} and β {made.beta:g}, now {lambda_:g} and {beta:g}"
            raise Refused(f"{out}: the run there was calibrated with {was}; name a new --out")
        return thresholds
    return calibrate(models, calibration, settings, lambda_, beta, progress)


def rewrite_report(folder: Place) -> dict:
    """Write the report of a finished run anew, from its own files; returns the content of metrics.json."""
    run = Run.open(folder)
    if (command := run.manifest["identity"]["command"]).startswith(("tune", "study")):
        raise BadInput(f"{folder}: no run's; the same `uacs {command}` again writes its report, and does nothing twice")
    summary, thresholds = run.metrics(), read_thresholds(run.place("thresholds.json"))
    run.write("report.html", page(run.manifest, summary, run.table(), thresholds))
    return summary


def _identity(models: Models, settings: EvaluationSettings) -> dict:
    """What a run's outcomes depend on; raises unless data and models belong together."""
    config, info = load_config(models.ubm), models.dataset.info
    about = info.language, info.score_range, info.name
    refuse_other_data(config, models.dataset, models.ubm)
    estimator = estimator_of(models.ubm, config, settings.estimator)
    return {
        "dataset": info.name,
        "like": info.like,
        "split": models.split,
        "data": models.dataset.checksum(models.split)[:16],
        "ubm": fingerprint(models.ubm, estimator),
        "estimator": estimator,
        **mllm.identity(models.mllm, settings.mllm, *about),
        **_heard(models, settings),
        **(
            {"verifier": mllm.identity(models.verifier, of_verifier(models, settings), *about)}
            if models.verifier
            else {}
        ),
    }


def _heard(models: Models, settings: EvaluationSettings) -> dict:
    """Who writes down what is said in clips, if anybody does; refuses one that would not be asked."""
    if settings.decoding.speech is None:
        return {}
    if not models.dataset.info.later:
        what = f"{models.dataset.folder}: its clips are not looked at for the UBM"
        raise Refused(f"{what}, so decoding.speech is not asked; `uacs prepare --speech` writes transcripts down")
    return {"speech": identity(settings.decoding.speech)}


def of_verifier(models: Models, settings: EvaluationSettings) -> MllmSettings:
    """How a verifier answers; by the large model's adapters only if it has the same base."""
    own = settings.of_verifier
    if settings.verifier or not own.adapters or models.verifier is None:
        return own
    alike = over(models.verifier, ())[0] == over(models.mllm, ())[0]
    return own if alike else own.model_copy(update={"adapters": []})


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


def _answer(run: Run, models: Models, ask: Ask, settings: EvaluationSettings, progress: Told | None) -> float:
    """Answer the parts that are missing; returns the wall seconds so far, models loaded and waiting."""
    last = status.refuse_alive(run)
    _note_killed(run, last)
    parts, total = models.dataset.parts(models.split), models.dataset.rows(models.split)
    done = run.done() & set(parts)
    counts = of_table(run.rows(done, READ))
    missing, most = [part for part in parts if part not in done], settings.errors_allowed(total)
    _refuse_errors(run, counts, done, most)
    if progress:
        progress(Progress(total, counts, counts))
    if not missing:
        if last and last.state != "finished":  # killed after the last part, before it could say so
            status.Pulse(run, total, counts, None).write("finished")
        return run.wall()
    for spec in filter(None, (models.mllm, models.verifier)):
        mllm.check(spec)
    with status.Pulse(run, total, counts, progress) as pulse:
        for folder in (run.folder, run.place(OUTCOMES)):
            places.clear_asides(folder)
        with ray_session() as ours, _workers(run, models, ask, settings, total, counts, ours) as work:
            plan = capped(_plan(models, settings), nodes_of_ray(), models.verifier is not None)
            with pulse.counting(lambda: ray.get(work.tally.read.remote(), timeout=BUSY)):
                for part in stream(missing, work, plan):
                    counts += part.counts
                    _log_part(run, part)
                    _refuse_errors(run, counts, [part.part], most)
    return run.wall()


@contextmanager
def _workers(
    run: Run, models: Models, ask: Ask, settings: EvaluationSettings, total: int, earlier: Counts, ours: bool
) -> Iterator[Work]:
    """All that a run's stages need while it lasts: its tally and its large model, up and loaded."""
    plan, info = _plan(models, settings), models.dataset.info
    preflight(plan, nodes_of_ray(), settings.mllm.device, models.verifier is not None)
    start_serve()
    counter = tally.take(run.run_id, total, earlier, plan.pool[1] + plan.parts_in_flight)
    reap()
    about = info.score_range, info.language
    names = [tally.name_of(run.run_id), tally.verifier_of(run.run_id)]
    try:
        apps = [deploy(names[0], models.mllm, settings.mllm, *about, plan)]
        if models.verifier:
            own = of_verifier(models, settings), *about, plan.of_verifier()
            apps.append(deploy(names[1], models.verifier, *own, taken=(apps[0],)))
        yield _work(run, models, ask, apps, counter, settings)
    finally:
        ray.kill(counter)
        if not ours:
            for name in serve.status().applications.keys() & names:
                remove(name)


def _work(run: Run, models: Models, ask: Ask, apps: list[str], counter, settings: EvaluationSettings) -> Work:
    return Work(
        data=places.absolute(models.dataset.folder),
        dataset=models.dataset.info.name,
        language=models.dataset.info.language,
        ubm=str(models.ubm.absolute()),
        out=places.absolute(run.place(OUTCOMES)),
        apps=apps,
        ask=ask,
        look=_look(models, apps[0], settings),
        tally=counter,
        batch_size=settings.batch_size,
        chunk_size=settings.chunk_size,
        threads=settings.threads,
        estimator=settings.estimator,
    )


def _look(models: Models, app: str, settings: EvaluationSettings) -> Look:
    """What the run wants of clips: frames for the large model, and for the UBM the features that are yet to be made."""
    info, plan = models.dataset.info, settings.resources
    reads = load_config(models.ubm).features
    speech, cache = settings.decoding.speech, settings.decoding.cache
    return Look(
        frames=frames_of(app, info.name),
        extract={modality: spec for modality, spec in info.later.items() if modality in reads},
        limits=settings.decoding.limits,
        speech=speech and absolute(speech),
        cache=cache and places.absolute(cache),
        tasks=plan.decoders,
        cpus=min(1.0, plan.actor_cpus),  # so much is free in any case
        chunks=plan.replicas[1] + 1,
    )


def _plan(models: Models, settings: EvaluationSettings) -> Resources:
    """The resources; of raw clips, whose parts are a chunk each, as many parts wait as keep all replicas busy."""
    plan = settings.resources
    waiting = max(plan.parts_in_flight, plan.replicas[1] + 1) if models.dataset.info.later else plan.parts_in_flight
    return plan.model_copy(update={"parts_in_flight": waiting})


def _note_killed(run: Run, last: status.Status | None) -> None:
    """Count the seconds of a session whose driver was killed."""
    if last and last.state == "running":
        progress = last.progress
        run.add_session(progress.seconds, progress.counts.written - progress.earlier.written)
        run.write("status.json", json.dumps(json.loads(run.read("status.json") or "{}") | {"state": "killed"}))


def _refuse_errors(run: Run, counts: Counts, parts: Iterable[str], most: int) -> None:
    """Stop a run of which more samples are at fault than are allowed, naming one."""
    if counts.errors <= most:
        return
    rows = run.rows(parts, ["status", "error"]).to_pylist()
    first = next((row["error"] for row in rows if row["status"] == "error"), "")
    raise Refused(
        f"{run.folder}: {counts.errors} of {counts.written} samples are errors, more than the {most} allowed, as "
        f"{first}; mend the data, or go on with a larger --max-errors"
    )


def _log_part(run: Run, part: PartDone) -> None:
    """Log a part and the samples in it that failed, by id: what is wrong with them may quote them."""
    where = {"run": run.run_id, "part": part.part}
    log.info("part written", extra=where | asdict(part.counts))
    if part.counts.errors or part.counts.degraded:
        for row in run.rows([part.part], ["sample_id", "status", "large_status"]).to_pylist():
            if row["status"] != "ok":
                log.warning("sample failed", extra=where | row)


def _finish(run: Run, models: Models, thresholds: Thresholds, wall: float) -> dict:
    table: pa.Table = run.table()
    _refuse_incomplete(run, table, models)
    run.write("thresholds.json", thresholds.text())
    info = models.dataset.info
    summary = summarise(table, info.like, thresholds, wall, info.name)
    run.write("report.html", page(run.manifest, summary, table, thresholds))
    run.write("metrics.json", json.dumps(summary, indent=2))
    return summary


def _refuse_incomplete(run: Run, table: pa.Table, models: Models) -> None:
    """The promise of a run, looked at once more: a row for each sample, and no sample twice."""
    rows, ids = models.dataset.rows(models.split), table["sample_id"]
    if table.num_rows != rows or len(ids.unique()) != rows:
        raise Refused(
            f"{run.folder}: {table.num_rows} outcomes of {len(ids.unique())} samples, where the split has {rows}: "
            f"something else wrote into {OUTCOMES}; remove what does not belong there and run the command again"
        )
