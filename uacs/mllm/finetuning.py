"""Adapting a large model to a dataset by LoRA: the paper's rates, VideoLLaMA2's recipe, resumable.

The model learns to finish its own prompts, as `uacs.mllm.training` teaches a whole one; here its weights stay as they
are, and an adapter on the decoder's projections learns, if wanted its connectors too, and a read-out head beside it.
The best adapter by split valid is kept.

A step's samples, hints and dropout depend on seed and step alone, so a training that was interrupted and resumed
gives the same adapter, by one process on the same machine bit by bit, as one that was not.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import distributed, nn

from uacs import fingerprints, metrics, mllm
from uacs.data.prepared import PreparedDataset
from uacs.errors import BadInput, Refused, UacsError, WrongUse
from uacs.mllm import MllmSettings, adapters, engines, lora, prompts
from uacs.mllm.adapters import Manifest
from uacs.mllm.head import Head
from uacs.mllm.lessons import Lesson, Row, Rows, Task, ahead, check, lessons, share, steps
from uacs.mllm.predictor import LargePredictor, Loaded
from uacs.mllm.training import answer_loss, lr_share
from uacs.records import ANSWERED

Told = dict[str, Any]
log = logging.getLogger("uacs.mllm")


class FinetuningSettings(BaseModel):
    """How an adapter is trained: rank, alpha, rate and epochs are the paper's, the rest VideoLLaMA2's recipe."""

    model_config = ConfigDict(extra="forbid")

    epochs: int = Field(1, ge=1)
    lr: float = Field(2e-5, gt=0)
    rank: int = Field(128, ge=1)
    alpha: int = Field(256, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    batch_size: int = Field(128, ge=1, description="samples of a step, all processes together")
    at_once: int = Field(4, ge=1, description="samples that a process reads at once; changes memory, not the step")
    warmup: float = Field(0.03, ge=0, le=1, description="share of the steps until the full rate; then a cosine to 0")
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    clip_gradient: float = Field(1.0, gt=0, description="largest gradient norm of a step")
    checkpointing: bool = Field(True, description="compute layers again rather than keep what they held")
    projector: bool = Field(False, description="train the connectors from towers to decoder as well, in full")
    projector_lr: float = Field(2e-5, gt=0)
    head: Literal["none", "apart", "joint"] = Field(
        "apart", description="for the read-out head: one that learns beside the adapter, or one that it learns for too"
    )
    head_lr: float = Field(1e-3, gt=0)
    second_looks: float = Field(
        0.35, ge=0, le=1, description="share asked stage 3's way, where earlier answers are known"
    )
    hint_noise: float = Field(1.0, gt=0, description="mean sd of an answer of its own that is made up, as in [-3, 3]")
    best_by: Literal["mae", "acc2"] = "mae"
    validations: int = Field(4, ge=1, description="looks at split valid in an epoch, the last at its end")
    save_steps: int = Field(10, ge=1, description="steps after which the state to go on from is left")
    loaders: int = Field(2, ge=1, description="threads that decode clips")
    seed: int = 0
    mllm: MllmSettings = MllmSettings()

    @model_validator(mode="after")
    def _fit(self) -> "FinetuningSettings":
        if self.mllm.dtype == "float16":
            raise ValueError("mllm.dtype=float16 overflows in training; bfloat16 or float32")
        if self.mllm.readout == "head" and self.head == "none":
            raise ValueError("mllm.readout=head needs a head; head=apart or joint")
        if self.mllm.adapters:
            raise ValueError("mllm.adapters is for evaluation; an adapter is trained over a base alone")
        return self


class Diverged(UacsError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class Training:
    """A training to do: on which data, over which base, and where its files go; second_looks is a file of earlier
    answers, deepspeed a config of it."""

    dataset: PreparedDataset
    base: str
    settings: FinetuningSettings
    out: Path
    second_looks: Path | None = None
    deepspeed: dict | None = None


def train(task: Training, progress: Callable[[Told], None] | None = None) -> dict:
    """Train an adapter and leave the best one in `task.out`; returns what training.json holds.

    A training that was cut off is taken up where it last left its state. Of several processes each takes its part of
    every step. `progress` hears of each step, and of each look at split valid. Raises `Refused` if `out` holds a
    finished adapter or one begun with other settings, `BadInput` where data or base are not as they must be.
    """
    begun = begun_in(task)
    settings, dataset, rank = task.settings, task.dataset, engines.place()[0]
    train_on = lessons(dataset, "train", task.second_looks)
    valid = lessons(dataset, "valid")
    pupil = Pupil(task)
    engine = _engine(task, pupil)
    unfinished = task.out / "unfinished"
    if rank == 0:
        (unfinished / "best").mkdir(parents=True, exist_ok=True)
        (unfinished / "identity.json").write_text(json.dumps(identity(task)))
    told: Told = {"step": 0, "steps": [], "validations": [], "notes": []}
    if begun:
        told = engine.load(unfinished)
    course = _course(train_on, settings)
    looks = {math.ceil(len(course) * k / (settings.epochs * settings.validations)) for k in _counts(settings)}
    with closing(_clips(course[told["step"] :], train_on, pupil, settings)) as clips:
        for turn in course[told["step"] :]:
            started = time.perf_counter()
            made = _step(turn, clips, train_on, len(course), pupil, engine, task)
            left_out = engines.gathered(made.pop("notes"))
            told["notes"] = sorted({*told["notes"], *(note for notes in left_out for note in notes)})
            told["step"] += 1
            told["steps"].append(made | {"step": told["step"], "seconds": time.perf_counter() - started})
            if progress and rank == 0:
                progress(told["steps"][-1] | {"of": len(course)})
            if told["step"] in looks:
                _look(pupil, engine, valid, task, told)
                if progress and rank == 0:
                    progress(told["validations"][-1] | {"of": len(course)})
            if told["step"] in looks or told["step"] % settings.save_steps == 0:
                engine.save(unfinished, told)
    if engines.place()[1] > 1:
        distributed.barrier()  # the state goes now, and whoever took up a finished training may still read it
    record = _record(task, told, len(train_on), len(valid))
    if rank == 0:
        _finish(task, pupil, record)
    return record


def begun_in(task: Training, workers: int | None = None) -> bool:
    """Whether `out` holds the state of this very training; raises `Refused` for another's or a finished adapter.

    workers are how many are to train together, if they have not been joined yet.
    """
    check(task.dataset)
    out, unfinished = task.out, task.out / "unfinished"
    if not engines.left(unfinished):
        if (out / adapters.MANIFEST).exists():
            raise Refused(f"{out}: a trained adapter lies there; name another --out or remove it")
        if (out / "config.json").exists():
            raise Refused(f"{out}: a model lies there; name another --out")
        return False
    begun = json.loads((unfinished / "identity.json").read_text())
    now = json.loads(json.dumps(identity(task, workers)))
    if different := sorted(key for key in now.keys() | begun.keys() if begun.get(key) != now.get(key)):
        raise Refused(f"{out}: a training with other {', '.join(different)} was begun there; name another --out")
    return True


def identity(task: Training, workers: int | None = None) -> dict:
    """What an adapter depends on. How it is computed, and by how many processes, may change; but not under DeepSpeed,
    whose states are in as many parts as there were processes."""
    computed = {"at_once", "checkpointing", "loaders", "save_steps"}
    asked = task.settings.mllm.model_dump(include={"readout", "hints", "frames", "dtype", "aspect", "load_in_4bit"})
    info = task.dataset.info
    size = workers or engines.place()[1]
    together = {"deepspeed": task.deepspeed, "workers": size} if task.deepspeed else {}
    return {
        **task.settings.model_dump(exclude=computed | {"mllm"}),
        **asked,
        "base": mllm.fingerprint(task.base),
        "prompts": prompts.version(info.language, task.settings.mllm.hints),
        "data": _checksums(task.dataset),
        "second looks": fingerprints.of_file(task.second_looks) if task.second_looks else None,
        **together,
    }


def _checksums(dataset: PreparedDataset) -> dict[str, str]:
    return {split: dataset.checksum(split)[:16] for split in ("train", "valid")}


class Pupil(nn.Module):
    """What learns: a base with an adapter on it, and a head.

    Towers are left out of the modules: they are frozen, and whoever parts weights among processes leaves them whole.
    """

    def __init__(self, task: Training):
        super().__init__()
        settings = task.settings
        lora.needed("uacs train mllm")
        if settings.mllm.device == "cpu":
            torch.set_num_threads(settings.mllm.threads)
        loaded = Loaded.of(task.base, settings.mllm)
        self.kind, self.inputs = loaded.family, loaded.inputs
        self.decoder = self.kind.decoder_of(loaded.model)
        whole = [name for name in self.kind.CONNECTORS if _has(loaded.model, name)] if settings.projector else []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            lora.attach(loaded.model, self.decoder, settings.rank, settings.alpha, settings.dropout, whole)
            self.head = None
            if settings.head != "none":
                bound = task.dataset.info.score_range[1]
                self.head = Head(self.decoder.config.hidden_size, bound).to(loaded.model.device)
        self.joint = settings.head == "joint"
        self.vocabulary = loaded.model.get_output_embeddings()
        self.connectors = nn.ModuleList(loaded.model.get_submodule(name) for name in whole)
        self._all = (loaded.model,)  # in a tuple, so that it is no module of this one's
        if settings.checkpointing:
            self.decoder.activation_checkpointing_enable()
            self.decoder.disable_input_require_grads()  # which is for another kind of checkpointing than this
        self.examined = LargePredictor(
            task.base,
            settings.mllm,
            task.dataset.info.score_range,
            task.dataset.info.language,
            loaded=Loaded(loaded.model, loaded.family, loaded.inputs, self.head),
        )
        self.examined.model.eval()
        self.rates = [group["lr"] for group in self.groups(settings)]

    @property
    def model(self) -> nn.Module:
        """The base with its adapter."""
        return self._all[0]

    def groups(self, settings: FinetuningSettings) -> list[dict]:
        """Trained weights by the rates that they learn at."""
        adapter = lora.trained(self.model).values()
        connectors = {id(p) for p in self.connectors.parameters()}
        parts = [
            (settings.lr, [p for p in adapter if id(p) not in connectors]),
            (settings.projector_lr, [p for p in adapter if id(p) in connectors]),
            (settings.head_lr, [*self.head.parameters()] if self.head else []),
        ]
        shared = {"betas": settings.betas, "weight_decay": settings.weight_decay}
        return [{"params": params, "lr": lr, **shared} for lr, params in parts if params]

    def forward(self, rows: list[Row], tokens: int, samples: int) -> torch.Tensor:
        """These rows' part of a step's loss: of nats a token of all its `tokens`, and the head's of all `samples`."""
        pairs = [(row.turn, row.tokens) for row in rows]
        loss, ends = answer_loss(self.kind, self.model, self.inputs, pairs, reduction="sum")
        self.nats = loss.item()
        loss = loss / tokens
        if self.head:
            seen = ends if self.joint else ends.detach()
            labels = [row.label for row in rows]
            loss = loss + self.head.loss(seen, labels) * (len(rows) / samples)
        return loss


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def _engine(task: Training, pupil: Pupil) -> "engines.Plain | engines.Sharded":
    settings, dtype = task.settings, getattr(torch, task.settings.mllm.dtype)
    shared = pupil, pupil.groups(settings), settings.clip_gradient, dtype, settings.mllm.device
    if task.deepspeed is None:
        return engines.Plain(*shared)
    if task.deepspeed["zero_optimization"]["stage"] == 3 and (settings.projector or settings.mllm.load_in_4bit):
        what = "projector" if settings.projector else "mllm.load_in_4bit"
        raise WrongUse(f"{what}=true: ZeRO-3 would part what has to stay whole; take --deepspeed zero2")
    return engines.Sharded(*shared, settings.at_once, task.deepspeed)


def _counts(settings: FinetuningSettings) -> range:
    return range(1, settings.epochs * settings.validations + 1)


def _course(of: list[Lesson], settings: FinetuningSettings) -> list[tuple[int, int, list[Task]]]:
    """All steps: number, epoch and tasks."""
    turns = [
        (epoch, tasks)
        for epoch in range(settings.epochs)
        for tasks in steps(of, settings.batch_size, settings.second_looks, settings.seed, epoch)
    ]
    return [(number, *turn) for number, turn in enumerate(turns)]


def _clips(
    course: list[tuple[int, int, list[Task]]], of: list[Lesson], pupil: Pupil, settings: FinetuningSettings
) -> Generator[list, None, None]:
    """The clips of each of this process's batches, of one step after another, decoded while the model learns."""

    def media(batch: list[Task]) -> list:
        return [_caught(pupil.inputs.media, of[task.lesson].sample) for task in batch]

    batches = (batch for *_, tasks in course for batch in _own(tasks, of, settings))
    return ahead(media, batches, settings.loaders, settings.loaders + 1)


def _own(tasks: list[Task], of: list[Lesson], settings: FinetuningSettings) -> list[list[Task]]:
    return share(tasks, of, *engines.place(), settings.at_once)


def _step(turn, clips: Iterator[list], of: list[Lesson], steps_: int, pupil: Pupil, engine, task: Training) -> Told:
    """Take a step; returns its mean loss in nats a token, rate, positions, and what was left out."""
    settings, info = task.settings, task.dataset.info
    number, epoch, tasks = turn
    rows = Rows(pupil.inputs, info.score_range, info.language, settings.mllm.hints, settings.hint_noise, settings.seed)
    tokens = sum(len(rows.answer(of[one.lesson].label)) for one in tasks)
    batches = _own(tasks, of, settings)
    torch.manual_seed(settings.seed * 1_000_003 + number * 1_009 + engines.place()[0])  # dropout
    sums, notes = np.zeros(4), list[str]()  # nats, tokens, positions with padding, positions without
    pupil.decoder.train()
    for k, batch in enumerate(batches):
        made = _rows(batch, next(clips), of, epoch, rows, notes)
        if not made and not engine.lockstep:
            continue
        loss = engine.loss(made or [rows.filler()], tokens, len(tasks))
        engine.backward(loss if made else loss * 0.0, last=k + 1 == len(batches))
        if made:
            lengths = [row.turn.length for row in made]
            sums += pupil.nats, sum(row.tokens for row in made), max(lengths) * len(lengths), sum(lengths)
    pupil.model.eval()
    nats, learnt, padded, full = engines.summed(sums.tolist(), settings.mllm.device)
    if not learnt:
        raise BadInput(f"step {number + 1}: none of its {len(tasks)} samples can be read, as {(notes or [''])[0]}")
    if not math.isfinite(nats):
        raise Diverged(f"step {number + 1}: the loss is {nats:g}; lower lr")
    by = lr_share(number, steps_, math.ceil(settings.warmup * steps_), 0.0)
    engine.step([rate * by for rate in pupil.rates])
    return {
        "loss": nats / learnt,
        "lr": settings.lr * by,
        "positions": int(full),
        "padding": 1 - full / padded,
        "notes": notes,
    }


def _rows(batch: list[Task], clips: list, of: list[Lesson], epoch: int, rows: Rows, notes: list[str]) -> list[Row]:
    """A batch's rows; a sample that makes none is left out and noted."""
    made = []
    for task, clip in zip(batch, clips, strict=True):
        row = clip if isinstance(clip, BadInput) else _caught(rows.row, of[task.lesson], clip, task, epoch)
        if isinstance(row, BadInput):
            notes.append(f"{row}; left out")
        else:
            made.append(row)
    return made


def _caught(make: Callable, *of) -> Any:
    """What is made, or why not."""
    try:
        return make(*of)
    except BadInput as error:
        return error


def _look(pupil: Pupil, engine, valid: list[Lesson], task: Training, told: Told) -> None:
    """Answer split valid, and keep the adapter if it is the best so far."""
    started = time.perf_counter()
    answers = _answers(pupil, engine, valid)
    info, labels, known = task.dataset.info, np.array([lesson.label for lesson in valid]), np.isfinite(answers)
    named = metrics.score(answers[known], labels[known], info.like) if known.any() else {}
    look = {
        "step": told["step"],
        "mae": named.get("mae", math.nan),
        "acc2": named.get("acc2", math.nan),
        "unanswered": int(np.isnan(answers).sum()),
        "judged": judged(answers, labels, info.score_range, info.like)[task.settings.best_by],
        "seconds": time.perf_counter() - started,
    }
    told["validations"].append(look)
    if best(told["validations"], task.settings.best_by) != len(told["validations"]) - 1:
        return
    with engine.whole():
        if engines.place()[0] == 0:
            place = task.out / "unfinished" / "best"
            _save_best(place, pupil, task)


def judged(answers: np.ndarray, labels: np.ndarray, score_range: tuple[float, float], like: str) -> dict[str, float]:
    """MAE and Acc2 of answers (N,) where one that is missing, NaN, is as wrong as can be."""
    low, high = score_range
    worst = np.where(labels - low > high - labels, low, high)
    named = metrics.score(np.where(np.isfinite(answers), answers, worst), labels, like)
    return {"mae": named["mae"], "acc2": named["acc2"]}


def best(validations: list[Told], by: str) -> int:
    """The place of the best look; of equal ones the first."""
    sign = 1 if by == "mae" else -1
    return min(range(len(validations)), key=lambda k: sign * validations[k]["judged"])


def _answers(pupil: Pupil, engine, valid: list[Lesson]) -> np.ndarray:
    """Scores (N,) of split valid, NaN where there is none; each process answers its part.

    Where weights lie in parts, all processes answer everything, since each has to be there when they are gathered.
    """
    rank, size = (0, 1) if getattr(engine, "partitioned", False) else engines.place()
    own = pupil.examined.answer([lesson.sample for lesson in valid[rank::size]])
    scores = [output.y if output.status in ANSWERED else math.nan for output in own]
    if size == 1:
        return np.array(scores)
    answers = np.empty(len(valid))
    for k, part in enumerate(engines.gathered(scores)):
        answers[k::size] = part
    return answers


def _save_best(place: Path, pupil: Pupil, task: Training) -> None:
    lora.save(place, lora.weights(pupil.model), pupil.model, task.base)
    if pupil.head:
        pupil.head.save(place)


def _record(task: Training, told: Told, learnt: int, looked_at: int) -> dict:
    settings = task.settings
    kept = best(told["validations"], settings.best_by)
    return {
        "base": task.base,
        "dataset": task.dataset.info.name,
        "settings": settings.model_dump(),
        "workers": engines.place()[1],
        "deepspeed": task.deepspeed,
        "samples": {"train": learnt, "valid": looked_at},
        "best": told["validations"][kept],
        **{name: told[name] for name in ("steps", "validations", "notes")},
    }


def _finish(task: Training, pupil: Pupil, record: dict) -> None:
    """Move the best adapter into place, its manifest last, and remove the state."""
    out, info, settings = task.out, task.dataset.info, task.settings
    for path in (out / "unfinished" / "best").iterdir():
        path.replace(out / path.name)
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    manifest = Manifest(
        base=mllm.absolute(task.base),
        base_fingerprint=mllm.fingerprint(task.base),
        dataset=info.name,
        like=info.like,
        language=info.language,
        score_range=info.score_range,
        readout=settings.mllm.readout,
        prompts=prompts.version(info.language, settings.mllm.hints),
        hints=settings.mllm.hints,
        second_looks=task.second_looks is not None,
        frames=pupil.inputs.frames,
        data=_checksums(task.dataset),
    )
    (out / adapters.MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    shutil.rmtree(out / "unfinished")
