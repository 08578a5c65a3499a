"""A trial of a search for UBMs, as its worker runs it: a training, judged after each epoch by the cascade around it.

OUT/trials/NNN is the trial's own folder:

trial.json   its settings, its status and what each epoch reported
ubm/         the training (`uacs.ubm.training`), resumable while it lasts; in the end only the chosen trial has one
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from ray import tune

from uacs.cascade.objectives import Objective
from uacs.cascade.points import goal
from uacs.cascade.prices import Prices
from uacs.cascade.recording import Recording
from uacs.cascade.sweep import axis, sweep
from uacs.cluster.trials import Config, Report
from uacs.data import places
from uacs.data.prepared import PreparedDataset
from uacs.errors import BadInput, UacsError, shown
from uacs.ubm.settings import TrainingSettings

SEARCHED = (
    *("lr_text", "lr_audio", "lr_vision", "lr_other"),
    *("decay_text", "decay_audio", "decay_vision", "decay_other"),
    *("dropout", "seed"),
)
"""The settings that a search draws."""

CASCADE = ("utility", "quality", "time", "asked", "tau_small", "tau_large")
"""What the cascade around the UBM comes to that the training keeps, which is that of epoch `kept`."""
EPOCH = ("train_loss", "valid_loss", "valid_mae", "valid_acc2", "seconds")
"""What is of the epoch itself."""

REPORTED = ("epoch", "kept", *CASCADE, *EPOCH)

Status = Literal["running", "finished", "stopped", "failed"]
NOTHING: Report = {"epoch": 0, "utility": float("nan")}
"""What Tune hears of a trial that ends without an epoch."""


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
        large = goal(recording, metric)
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


def trial(config: Config, jobs: list[Job], task: Task) -> None:
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

    told = max(
        0, len(record.epochs) - 1
    )  # of one that goes on ASHA hears the newest epoch: it may not stop it further back

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
        end(job, record)
    except UacsError as error:
        tune.report(NOTHING | {"fault": type(error).__name__, "error": str(error)})
        return
    except Exception as error:
        record.status, record.error = "failed", shown(f"{type(error).__name__}: {places.reason(error)}", most=200)
        end(job, record)
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


def end(job: Job, record: Record) -> None:
    """Write down how a trial that nobody wants has ended, and let go of what it takes."""
    job.write(record)
    shutil.rmtree(job.ubm, ignore_errors=True)
