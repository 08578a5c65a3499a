"""A UBM's learning rates by Ray Tune: trials train UBMs, each is worth the cascade that it makes possible.

The outer search draws rates, decays, dropout and seed; the inner one is exact. After every epoch the UBM that a
training keeps answers the validation split, and with the large model's recorded answers every pair of thresholds
is replayed (`cascade/sweep.py`): the wanted point is what the trial reports, and what ASHA stops trials by.

A seed gives the same list of trials, whatever their number. OUT/trials/NNN is the trial's own folder:

trial.json   its settings, its status and what each epoch reported
ubm/         the training (`uacs.ubm.training`), resumable while it lasts; in the end only the chosen trial has one

A search that is begun again walks the same list: a trial that is done only reports again, one that was in flight
goes on from its last epoch.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from uacs import errors
from uacs.cascade.objectives import Objective
from uacs.cascade.points import alone
from uacs.cascade.prices import Prices
from uacs.cascade.recording import Recording
from uacs.cascade.sweep import axis, sweep
from uacs.cluster import status, trials
from uacs.cluster.progress import Counts
from uacs.cluster.resources import nodes_of_ray
from uacs.cluster.runs import Run, write_outcome
from uacs.cluster.session import ray_session
from uacs.cluster.trials import Config, Heard, Report
from uacs.data import places
from uacs.data.prepared import PreparedDataset
from uacs.errors import BadInput, Refused, UacsError, shown
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
SEARCHED = (*RATES, *DECAYS, "dropout", "seed")
SPACE = {"rates": RATES, "decays": list(DECAY), "dropout": list(DROPOUT), "seeds": SEEDS}

CASCADE = ("utility", "quality", "time", "asked", "tau_small", "tau_large")
"""What the cascade around the UBM comes to that the training keeps, which is that of epoch `kept`."""
EPOCH = ("train_loss", "valid_loss", "valid_mae", "valid_acc2", "seconds")
"""What is of the epoch itself."""

REPORTED = ("epoch", "kept", *CASCADE, *EPOCH)

SCHEMA = pa.schema(
    [("trial", pa.int64()), ("status", pa.string()), ("error", pa.string())]
    + [(name, pa.int64() if name == "seed" else pa.float64()) for name in SEARCHED]
    + [(name, pa.int64() if name in ("epoch", "kept") else pa.float64()) for name in REPORTED]
)
"""trials.parquet: status is finished, stopped (by ASHA) or failed; repeat for the chosen settings with other seeds."""

Status = Literal["running", "finished", "stopped", "failed"]
NOTHING: Report = {"epoch": 0, "utility": float("nan")}
"""What Tune hears of a trial that ends without an epoch."""


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


class Record(BaseModel):
    """trial.json: what is known of a trial. epochs are its reports, `REPORTED` by name.

    Of one that is finished, cascade is `CASCADE` by the answers of its UBM as it lies there, and unreached why
    that misses the objective, if it does.
    """

    model_config = ConfigDict(extra="forbid")

    settings: TrainingSettings
    status: Status = "running"
    error: str | None = None
    epochs: list[Report] = []
    cascade: dict[str, float] = {}
    unreached: str | None = None

    def reports(self) -> list[Report]:
        """What Tune hears: an epoch each. How the trial ended goes with the last, or after it if it failed."""
        end = {"status": self.status, "error": self.error}
        if self.status in ("finished", "stopped"):
            return [*self.epochs[:-1], self.epochs[-1] | end]
        return [*self.epochs, *([NOTHING | end] if self.status == "failed" else [])]


@dataclass(frozen=True)
class Job:
    """A trial to be run, or a repeat of trial `number` with another seed, in a folder of its own."""

    folder: Path
    number: int
    settings: TrainingSettings
    repeat: bool = False

    @property
    def ubm(self) -> Path:
        """Where it trains."""
        return self.folder / "ubm"

    def read(self) -> Record:
        """What is known of it so far."""
        try:
            return Record.model_validate(json.loads((self.folder / "trial.json").read_text()))
        except FileNotFoundError:
            return Record(settings=self.settings)

    def write(self, record: Record) -> None:
        """Write trial.json whole or not at all."""
        places.write(self.folder / "trial.json", json.dumps(record.model_dump(), indent=1).encode())

    def row(self, record: Record, epoch: int = -1) -> Report:
        """A row of trials.parquet, by the position of an epoch; empty from there on if there is none."""
        status = "repeat" if self.repeat and record.status != "failed" else record.status
        said = {"trial": self.number, "status": status, "error": record.error}
        searched = {name: getattr(self.settings, name) for name in SEARCHED}
        report = record.epochs[epoch] if record.epochs else {}
        return said | searched | {name: report.get(name) for name in REPORTED}


@dataclass(frozen=True)
class Judge:
    """What a UBM is worth: the large model's recorded answers about N validation samples, which `row` finds by id."""

    recording: Recording
    row: dict[str, int]
    objective: Objective
    prices: Prices

    @classmethod
    def of(cls, table: pa.Table, dataset: PreparedDataset, objective: Objective, prices: Prices) -> "Judge":
        """Of a calibration's outcomes; raises `BadInput` unless they are about the dataset's split valid."""
        recording = Recording.of(table, dataset.info.like)
        labelled = np.flatnonzero(np.isfinite(recording.label))
        ids = table["sample_id"].to_pylist()
        row = {ids[place]: n for n, place in enumerate(labelled)}
        for sample in dataset.samples("valid"):
            if sample.label is not None and sample.sample_id not in row:
                raise BadInput(
                    f"{dataset.folder}: validation sample '{sample.sample_id}' is not in the calibration run, or has "
                    "no label there; run `uacs calibrate` on this data"
                )
        return cls(recording.subset(labelled), row, objective, prices)

    def figures(self, sample_ids: list[str], y: np.ndarray, u: np.ndarray, p: np.ndarray) -> tuple[Report, str | None]:
        """`CASCADE` for a UBM's answers y (n,), u (n,), p (n, 3), and why the objective is out of reach, if it is."""
        known = [(self.row[sample_id], n) for n, sample_id in enumerate(sample_ids) if sample_id in self.row]
        rows, of = (list(places) for places in zip(*known, strict=True))
        small = [np.full((len(self.row), *values.shape[1:]), np.nan) for values in (y, u, p)]
        for to, values in zip(small, (y, u, p), strict=True):
            to[rows] = values[of]
        recording, metric = self.recording.with_small(*small), self.objective.metric
        answers = recording.answers
        swept = sweep(recording, axis(answers.u_small), axis(answers.u_large), self.prices, [metric])
        quality, time = swept.metrics[metric].ravel(), swept.cost.ravel() / self.prices.alone
        large = alone(recording, "large", self.prices).metrics[metric]
        utility, unreached = self.objective.utility(quality, time, large), None
        try:
            best = self.objective.choose(quality, time, large)
        except BadInput as error:
            if not np.isfinite(utility).any():
                raise
            best, unreached = int(np.nanargmax(utility)), str(error)
        at_small, at_large = np.unravel_index(best, swept.cost.shape)
        wanted = (utility[best], quality[best], time[best], swept.asked.ravel()[best])
        taus = swept.tau_small[at_small], swept.tau_large[at_large]
        return dict(zip(CASCADE, map(float, (*wanted, *taus)), strict=True)), unreached


@dataclass(frozen=True)
class Task:
    """What all trials of a search have in common."""

    dataset: PreparedDataset
    text_encoder: str
    judge: Judge


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
    heard: list[dict[int, Report]] = [{} for _ in jobs]

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
            _end(job, record)
        if told and (epoch or last):
            told(job.row(record), last)

    plan = tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=settings.at_once, reuse_actors=True)
    trial = tune.with_parameters(_trial, jobs=jobs, task=task)
    space = {"job": tune.grid_search(list(range(len(jobs))))}
    found = trials.run(trial, space, plan, CPUS, settings.gpus, hear, DEATHS)
    for job, result in zip(jobs, found, strict=True):
        if result.error and (record := job.read()).status == "running":
            reason = shown(str(result.error).strip().splitlines()[-1], most=200)
            record.status, record.error = "failed", f"given up after {DEATHS + 1} tries: {reason}"
            _end(job, record)
            if told:
                told(job.row(record), True)


def _trial(config: Config, jobs: list[Job], task: Task) -> None:
    """What a worker does, at first and after a death: train on, or report again what is done."""
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")  # in 2 s a stopped training may not have let go
    job = jobs[config["job"]]
    record = job.read()
    if record.status == "running":
        _train(job, record, task)
        return
    for report in record.reports():
        tune.report(report)


def _train(job: Job, record: Record, task: Task) -> None:
    """Train to the end; what epoch is the last is told only then, as ASHA ends a trial that has had its epochs."""
    from uacs.ubm import training  # torch: workers only

    told = 0

    def tell() -> None:
        nonlocal told
        for report in record.reports()[told:]:
            told += 1
            tune.report(report)

    def judge(epoch: training.Epoch, answered: training.Answered) -> None:
        past = record.epochs[: int(epoch["epoch"]) - 1]
        if training.best_epoch([*past, epoch]) == len(past):
            figures, _ = task.judge.figures(answered.sample_ids, answered.y, answered.u, answered.p)
            figures["kept"] = len(past) + 1
        else:
            figures = {name: past[-1][name] for name in ("kept", *CASCADE)}
        record.epochs = [*past, epoch | figures]
        job.write(record)

    def progress(epoch: training.Epoch | None = None) -> None:
        if not training.finished(record.epochs, job.settings):
            tell()

    try:
        progress()
        if not (job.ubm / "training.json").exists() or (job.ubm / "unfinished" / "state.pt").exists():
            training.train(task.dataset, task.text_encoder, job.settings, job.ubm, progress, judge)
        record.cascade, record.unreached = _deployed(job, task)
        record.status = "finished"
        job.write(record)
    except training.Diverged as error:
        record.status, record.error = "failed", str(error)
        _end(job, record)
    except UacsError as error:
        tune.report(NOTHING | {"fault": type(error).__name__, "error": str(error)})
        return
    except Exception as error:
        record.status, record.error = "failed", shown(f"{type(error).__name__}: {places.reason(error)}", most=200)
        _end(job, record)
    told = min(told, len(record.reports()) - 1)  # an epoch that was done again may have been the last this time
    tell()


def _deployed(job: Job, task: Task) -> tuple[dict[str, float], str | None]:
    """What the UBM makes of the cascade by the answers that it will give."""
    from uacs.ubm.predictor import SmallPredictor  # torch: workers only

    predictor = SmallPredictor(job.ubm, device=job.settings.device, threads=job.settings.threads)
    ids, outputs = [], []
    for part in task.dataset.parts("valid"):
        samples = task.dataset.read(part)
        ids += [sample.sample_id for sample in samples]
        outputs += predictor.predict(samples)
    y, u, p = (np.array([getattr(output, name) for output in outputs]) for name in ("y", "u", "p"))
    return task.judge.figures(ids, y, u, p)


def _end(job: Job, record: Record) -> None:
    """Write down how a trial that nobody wants has ended, and let go of what it takes."""
    job.write(record)
    shutil.rmtree(job.ubm, ignore_errors=True)


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
        **{f"base {name}": value for name, value in base.model_dump().items()},
    }


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
    finished = [n for n, record in enumerate(records) if record.status == "finished"]
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
