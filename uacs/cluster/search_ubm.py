"""A UBM's learning rates by Ray Tune: trials train UBMs, each is worth the cascade that it makes possible.

The outer search draws rates, decays, dropout and seed; the inner one is exact. After every epoch the UBM that a
training keeps answers the validation split, and with the large model's recorded answers every pair of thresholds
is replayed (`cascade/sweep.py`): the wanted point is what the trial reports, and what ASHA stops trials by.

A seed gives the same list of trials, whatever their number (`ubm_trials.py` is one). A search that is begun again
walks the same list: a trial that is done only reports again, one that was in flight goes on from its last epoch.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from uacs import errors
from uacs.cascade.objectives import Objective
from uacs.cascade.prices import Prices
from uacs.cluster import status, trials
from uacs.cluster.progress import Counts
from uacs.cluster.resources import nodes_of_ray
from uacs.cluster.runs import Run, write_outcome
from uacs.cluster.session import ray_session
from uacs.cluster.trials import Heard, Report
from uacs.cluster.ubm_trials import REPORTED, SEARCHED, Job, Judge, Record, Task, end, trial
from uacs.data import places
from uacs.data.prepared import PreparedDataset
from uacs.errors import Refused, UacsError, shown
from uacs.ubm.settings import TrainingSettings

CPUS = 0.5  # logical, as any of our actors
DEATHS = 2  # of its worker that a trial outlives

RATES = {"lr_text": 4.0, "lr_audio": 10.0, "lr_vision": 10.0, "lr_other": 10.0}
"""How far from the base's a learning rate is drawn, log-uniformly: by this factor either way."""
DECAYS = ("decay_text", "decay_audio", "decay_vision", "decay_other")
DECAY = (1e-5, 1e-1)
"""From where to where a decay is drawn, log-uniformly; as often it stays the base's."""
DROPOUT = (0.0, 0.5)
SEEDS = 10_000
SPACE = {"rates": RATES, "decays": list(DECAY), "dropout": list(DROPOUT), "seeds": SEEDS}

SCHEMA = pa.schema(
    [("trial", pa.int64()), ("status", pa.string()), ("error", pa.string())]
    + [(name, pa.int64() if name == "seed" else pa.float64()) for name in SEARCHED]
    + [(name, pa.int64() if name in ("epoch", "kept") else pa.float64()) for name in REPORTED]
)
"""trials.parquet: status is finished, stopped (by ASHA) or failed; repeat for the chosen settings with other seeds."""


class SearchSettings(BaseModel):
    """How a UBM is searched for, and what of the Ray its trials take."""

    model_config = ConfigDict(extra="forbid")

    trials: int = Field(20, ge=1, description="may be raised later: those that are done stay")
    at_once: int = Field(2, ge=1, description="trials that run at the same time")
    max_epochs: int | None = Field(None, ge=1, description="of a trial; as the base has it")
    grace: int = Field(3, ge=1, description="epochs before a trial may be stopped")
    reduction: float = Field(3.0, gt=1, description="of so many trials one is kept at each of ASHA's rungs")
    seed: int = Field(0, ge=0)
    gpus: float = Field(0.0, ge=0, le=1, description="share of a GPU that each trial takes; 0: it trains on CPU")
    threads: int = Field(1, ge=1, description="torch threads of each trial on CPU")
    repeats: int = Field(1, ge=0, description="further trainings with the settings found, with the seeds that follow")


@dataclass(frozen=True)
class Found:
    """What a search found: the trial, its settings, its UBM in OUT/ubm, and the thresholds that go with it.

    figures are `CASCADE`, by the answers of that UBM as it lies there. unreached says why no thresholds meet the
    objective, where none do: then they are the nearest. epochs is trials.parquet, one row an epoch and trial.
    repeats are the folders of the UBMs of further seeds.
    """

    trial: int
    settings: TrainingSettings
    ubm: Path
    tau_small: float
    tau_large: float
    figures: dict[str, float]
    unreached: str | None
    epochs: pa.Table
    repeats: list[Path]


def search(
    dataset: PreparedDataset,
    text_encoder: str,
    base: TrainingSettings,
    calibration_table: pa.Table,
    calibration_identity: dict[str, Any],
    out: Path,
    settings: SearchSettings,
    objective: Objective,
    prices: Prices,
    told: Heard | None = None,
) -> Found:
    """Search, leave the best UBM in `out`/ubm and all that was tried in `out`/trials.parquet.

    calibration_table are the outcomes of a run about split valid in which the large model was asked everything,
    calibration_identity says which. `told` hears each epoch of each trial as a row of trials.parquet, and whether
    the trial is over. `out`, the data and an encoder's folder have to lie on a path that every node sees.

    Raises `Refused` if `out` was begun otherwise or is under way, or if this Ray has no room; and what is wrong
    with the data, if a trial finds it.
    """
    out = out.absolute()
    encoder = str(Path(text_encoder).absolute()) if Path(text_encoder).is_dir() else text_encoder
    dataset = PreparedDataset(places.absolute(dataset.folder))
    base = _as_trained(base, settings)
    task = Task(dataset, encoder, Judge.of(calibration_table, dataset, objective, prices))
    identity = _identity(task, base, settings) | {f"calibration {k}": v for k, v in calibration_identity.items()}
    run = Run.begin(out, json.loads(json.dumps(identity)), settings.model_dump())
    status.refuse_alive(run)

    jobs = [Job(out / "trials" / f"{n:03}", n, drawn(base, settings.seed, n)) for n in range(_count(out, settings))]
    with status.Pulse(run, len(jobs) + settings.repeats, Counts(), None) as pulse, ray_session():
        preflight(settings, nodes_of_ray())
        with pulse.counting(lambda: _counts(out)):
            _run(jobs, task, settings, _asha(base, settings), told)
            best = _best(jobs)
            _leave(best.ubm, out / "ubm")
            for job in jobs:
                if job.number != best.number:
                    shutil.rmtree(job.ubm, ignore_errors=True)
            repeats = [_repeat(out, best, n) for n in range(1, settings.repeats + 1)]
            _run(repeats, task, settings, None, told)
    epochs, record = _table([*jobs, *repeats]), best.read()
    write_outcome(out / "trials.parquet", epochs)
    return Found(
        trial=best.number,
        settings=best.settings,
        ubm=out / "ubm",
        tau_small=record.cascade["tau_small"],
        tau_large=record.cascade["tau_large"],
        figures=record.cascade,
        unreached=record.unreached,
        epochs=epochs,
        repeats=[job.ubm for job in repeats if job.read().status == "finished"],
    )


def drawn(base: TrainingSettings, seed: int, number: int) -> TrainingSettings:
    """The settings of a trial: 0 is the base as it stands; of the others each is drawn for itself.

    Rates, decays and dropout have three digits, so that they can be told and set again.
    """
    if number == 0:
        return base
    draw = np.random.default_rng([seed, number])
    found: dict[str, float] = {}
    for name, factor in RATES.items():
        found[name] = getattr(base, name) * factor ** draw.uniform(-1, 1)
    for name in DECAYS:
        decay = float(np.exp(draw.uniform(*np.log(DECAY))))
        found[name] = decay if draw.random() < 0.5 else getattr(base, name)
    found["dropout"] = draw.uniform(*DROPOUT)
    rounded = {name: float(f"{value:.3g}") for name, value in found.items()}
    return base.model_copy(update=rounded | {"seed": int(draw.integers(SEEDS))})


def preflight(settings: SearchSettings, nodes: list[dict[str, float]]) -> None:
    """Refuse trials that Ray would wait for without a word; `nodes` is what each node has."""
    room = 0
    for node in nodes:
        fits = int(node.get("CPU", 0) / CPUS)
        if settings.gpus:
            fits = min(fits, int(node.get("GPU", 0)) * int(1 / settings.gpus))
        room += fits
    if room < settings.at_once:
        has = " and ".join(f"{sum(node.get(what, 0) for node in nodes):g} {what}s" for what in ("CPU", "GPU"))
        raise Refused(
            f"{settings.at_once} trials at once need {CPUS:g} CPUs and {settings.gpus:g} GPUs each, this Ray has "
            f"{has}, room for {room}; lower at_once or gpus, or add nodes"
        )


def _run(
    jobs: list[Job], task: Task, settings: SearchSettings, scheduler: ASHAScheduler | None, told: Heard | None
) -> None:
    """Run trials to their ends, which their records tell; those that are done only report again, to the scheduler."""
    before = [job.read() for job in jobs]
    for job, record in zip(jobs, before, strict=True):
        if record.status != "running" and told:
            told(job.row(record), True)
    if all(record.status != "running" for record in before):
        return
    heard = [{epoch["epoch"]: epoch for epoch in record.epochs} for record in before]

    def hear(report: Report, last: bool) -> None:
        n = report["config"]["job"]
        job, epoch = jobs[n], report.get("epoch", 0)
        if "fault" in report:
            raise getattr(errors, report["fault"], UacsError)(report["error"])
        if before[n].status != "running" or (epoch in heard[n] and not last):
            return
        if epoch:
            heard[n][epoch] = {name: report[name] for name in REPORTED}
        record = Record(settings=job.settings, epochs=list(heard[n].values()))
        record.status, record.error = report.get("status", "running"), report.get("error")
        if last and record.status == "running":
            record.status = "stopped"
            end(job, record)
        if told and (epoch or last):
            told(job.row(record), last)

    plan = tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=settings.at_once, reuse_actors=True)
    bound = tune.with_parameters(trial, jobs=jobs, task=task)
    space = {"job": tune.grid_search(list(range(len(jobs))))}
    found = trials.run(bound, space, plan, CPUS, settings.gpus, hear, DEATHS)
    for job, result in zip(jobs, found, strict=True):
        if result.error and (record := job.read()).status == "running":
            reason = shown(str(result.error).strip().splitlines()[-1], most=200)
            record.status, record.error = "failed", f"given up after {DEATHS + 1} tries: {reason}"
            end(job, record)
            if told:
                told(job.row(record), True)


def _as_trained(base: TrainingSettings, settings: SearchSettings) -> TrainingSettings:
    device = "cuda" if settings.gpus else "cpu"
    epochs = settings.max_epochs or base.max_epochs
    return base.model_copy(update={"device": device, "threads": settings.threads, "max_epochs": epochs})


def _asha(base: TrainingSettings, settings: SearchSettings) -> ASHAScheduler:
    return ASHAScheduler(
        time_attr="epoch",
        metric="utility",
        mode="max",
        max_t=base.max_epochs,
        grace_period=min(settings.grace, base.max_epochs),
        reduction_factor=settings.reduction,
    )


def _identity(task: Task, base: TrainingSettings, settings: SearchSettings) -> dict[str, Any]:
    """What the outcome of a search depends on, beside the calibration; it may get more trials, or more at once."""
    info = task.dataset.info
    return {
        "command": "tune ubm",
        "dataset": info.name,
        "like": info.like,
        "split": "valid",
        "train": task.dataset.checksum("train")[:16],
        "valid": task.dataset.checksum("valid")[:16],
        "text_encoder": task.text_encoder,
        "objective": asdict(task.judge.objective),
        "prices": asdict(task.judge.prices),
        "seed": settings.seed,
        "grace": settings.grace,
        "reduction": settings.reduction,
        "space": SPACE,
        **{f"base {name}": value for name, value in base.model_dump(exclude=_unmoved(base)).items()},
    }


def _unmoved(base: TrainingSettings) -> set[str]:
    """Settings that came later and do nothing as they stand, so that searches made before go on."""
    return {"members"} | ({"estimator"} if base.estimator == "cbe" else set())


def _count(out: Path, settings: SearchSettings) -> int:
    """How many trials there are: as many as are wanted, and no fewer than were begun."""
    return max([settings.trials, *(int(name) + 1 for name in places.names_in(out / "trials") if name.isdigit())])


def _counts(out: Path) -> Counts:
    """Trials and repeats that are over, for status.json."""
    over = [json.loads(path.read_text())["status"] for path in out.glob("*/*/trial.json")]
    return Counts(written=sum(state != "running" for state in over), errors=over.count("failed"))


def _best(jobs: list[Job]) -> Job:
    """Of the trials that came to their own end the one of most utility, the first of equals."""
    records = [job.read() for job in jobs]
    finished = [n for n, record in enumerate(records) if record.status == "finished" and jobs[n].ubm.exists()]
    if not finished:
        reasons = [record.error for record in records if record.error] or ["all were stopped"]
        raise UacsError(f"{jobs[0].folder.parent}: not one of {len(jobs)} trials came to its end, as {reasons[0]}")
    return jobs[max(finished, key=lambda n: records[n].epochs[-1]["utility"])]


def _leave(folder: Path, place: Path) -> None:
    """Copy a UBM's folder, whole or not at all."""
    aside = place.with_name(f".{place.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(folder, aside)
    shutil.rmtree(place, ignore_errors=True)
    aside.rename(place)


def _repeat(out: Path, best: Job, n: int) -> Job:
    """The chosen trial with another seed; what an earlier choice left in its place goes."""
    settings = best.settings.model_copy(update={"seed": best.settings.seed + n})
    job = Job(out / "repeats" / f"{n:03}", best.number, settings, repeat=True)
    if job.read().settings != settings:
        shutil.rmtree(job.folder)
    return job


def _table(jobs: list[Job]) -> pa.Table:
    """trials.parquet: a row an epoch; one without an epoch for a trial that failed in its first."""
    rows = []
    for job in jobs:
        record = job.read()
        rows += [job.row(record, n) for n in range(max(1, len(record.epochs)))]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
