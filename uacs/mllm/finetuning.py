"""Adapting a large model to a dataset by LoRA: the paper's rates, VideoLLaMA2's recipe, resumable.

The model learns to finish its own prompts, as `uacs.mllm.training` teaches a whole one; here its weights stay as they
are, and an adapter on the decoder's projections learns, if wanted its connectors too, and a read-out head beside it.
The best adapter by split valid is kept.

A step's samples, hints and dropout depend on seed and step alone, so a training that was interrupted and resumed
gives the same adapter, by one process on the same machine bit by bit, as one that was not.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from uacs import fingerprints, mllm
from uacs.data.prepared import PreparedDataset
from uacs.errors import BadInput, Refused, UacsError, WrongUse, reason
from uacs.mllm import adapters, engines, prompts
from uacs.mllm.adapters import Manifest
from uacs.mllm.engines import Engine
from uacs.mllm.finetuning_settings import FinetuningSettings, Training
from uacs.mllm.lessons import Lesson, Row, Rows, Task, ahead, check, doubts, lessons, share, steps
from uacs.mllm.pupil import Pupil
from uacs.mllm.training import lr_share
from uacs.mllm.validation import Told, best, kept_in, look

Turn = tuple[int, int, list[Task]]
"""A step: its number, its epoch, and what is learnt in it."""


IDENTITY = "identity.json"


class Diverged(UacsError):
    """The loss is no number any more."""


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
    told: Told = {"step": 0, "steps": [], "validations": [], "notes": doubts(task.second_looks)}
    if begun:
        told = engine.load(unfinished)
    elif rank == 0:
        _begin(unfinished, identity(task))
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
            if told["step"] in looks and all(step["loss"] is None for step in told["steps"]):
                raise BadInput(f"{dataset.folder}: none of the samples so far can be read, as {told['notes'][0]}")
            if told["step"] in looks:
                look(pupil, engine, valid, task, told)
                if progress and rank == 0:
                    progress(told["validations"][-1] | {"of": len(course)})
            if told["step"] in looks or told["step"] % settings.save_steps == 0:
                engine.save(unfinished, told)
                if rank == 0:
                    _drop_others(task, told)
    if engines.place()[1] > 1:
        distributed.barrier()  # the state goes now, and whoever took up a finished training may still read it
    record = _record(task, told, len(train_on), len(valid))
    if rank == 0:
        _finish(task, pupil, told, record)
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
    begun = json.loads((unfinished / IDENTITY).read_text())
    now = json.loads(json.dumps(identity(task, workers)))
    if different := sorted(key for key in now.keys() | begun.keys() if begun.get(key) != now.get(key)):
        raise Refused(f"{out}: a training with other {', '.join(different)} was begun there; name another --out")
    return True


def identity(task: Training, workers: int | None = None) -> dict:
    """What an adapter depends on. How it is computed, and by how many processes, may change; but not under DeepSpeed,
    whose states are in as many parts as there were processes."""
    computed = {"at_once", "checkpointing", "loaders", "save_steps"}
    info, answers = task.dataset.info, task.second_looks
    size = workers or engines.place()[1]
    together = {"deepspeed": task.deepspeed, "workers": size} if task.deepspeed else {}
    return {
        **task.settings.model_dump(exclude=computed | {"mllm"}),
        **mllm.identity(task.base, task.settings.mllm, info.language),
        "data": _checksums(task.dataset) | {"like": info.like, "score_range": info.score_range},
        "second looks": fingerprints.of_place(answers) if answers else None,
        **together,
    }


def _checksums(dataset: PreparedDataset) -> dict[str, str]:
    return {split: dataset.checksum(split)[:16] for split in ("train", "valid")}


def _engine(task: Training, pupil: Pupil) -> Engine:
    """Who takes the steps."""
    settings, dtype = task.settings, getattr(torch, task.settings.mllm.dtype)
    shared = pupil, pupil.groups(settings), settings.clip_gradient, dtype, settings.mllm.device
    if task.deepspeed is None:
        return engines.Plain(*shared)
    if settings.projector:  # gradients come in another order of words alone, and DeepSpeed adds them up as they come
        raise WrongUse("projector=true: connectors are trained by PyTorch alone; leave --deepspeed away")
    if settings.mllm.load_in_4bit and task.deepspeed["zero_optimization"]["stage"] == 3:
        raise WrongUse("mllm.load_in_4bit=true: ZeRO-3 would part packed weights; take --deepspeed zero2")
    if not distributed.is_initialized():
        raise WrongUse("DeepSpeed: no processes that torch.distributed has joined; train by uacs.cluster.finetuning")
    return engines.Sharded(*shared, settings.at_once, task.deepspeed)


def _counts(settings: FinetuningSettings) -> range:
    return range(1, settings.epochs * settings.validations + 1)


def _course(of: list[Lesson], settings: FinetuningSettings) -> list[Turn]:
    """All steps of a training."""
    turns = [
        (epoch, tasks)
        for epoch in range(settings.epochs)
        for tasks in steps(of, settings.batch_size, settings.second_looks, settings.seed, epoch)
    ]
    return [(number, *turn) for number, turn in enumerate(turns)]


def _clips(
    course: list[Turn], of: list[Lesson], pupil: Pupil, settings: FinetuningSettings
) -> Generator[list, None, None]:
    """The clips of each of this process's batches, of one step after another, decoded while the model learns."""

    def media(batch: list[Task]) -> list:
        return [_caught(pupil.inputs.media, of[task.lesson].sample) for task in batch]

    batches = (batch for *_, tasks in course for batch in _own(tasks, of, settings))
    return ahead(media, batches, settings.loaders, settings.loaders + 1)


def _own(tasks: list[Task], of: list[Lesson], settings: FinetuningSettings) -> list[list[Task]]:
    return share(tasks, of, *engines.place(), settings.at_once)


def _step(
    turn: Turn, clips: Iterator[list], of: list[Lesson], course: int, pupil: Pupil, engine: Engine, task: Training
) -> Told:
    """Take a step; returns its mean loss in nats a token, rate, positions, and what was left out."""
    settings, info = task.settings, task.dataset.info
    number, epoch, tasks = turn
    rows = Rows(pupil.inputs, info.score_range, info.language, settings.mllm.hints, settings.hint_noise, settings.seed)
    tokens = sum(len(rows.answer(of[one.lesson].label)) for one in tasks)
    batches = _own(tasks, of, settings)
    torch.manual_seed(settings.seed * 1_000_003 + number * 1_009 + engines.place()[0])  # dropout
    nats: list[torch.Tensor] = []
    counts, notes = np.zeros(3), list[str]()  # tokens, positions with padding, positions without
    with pupil.learning(), _memory():
        for k, batch in enumerate(batches):
            made = _rows(batch, next(clips), of, epoch, rows, notes)
            if not made and not engine.lockstep:
                continue
            loss = engine.loss(made or [rows.filler()], tokens, len(tasks))
            engine.backward(loss if made else loss * 0.0, last=k + 1 == len(batches))
            if made:
                lengths = [row.turn.length for row in made]
                nats.append(pupil.nats)
                counts += sum(row.tokens for row in made), max(lengths) * len(lengths), sum(lengths)
    sums = [float(sum(nats)), *counts.tolist()]
    total, learnt, padded, full = engines.summed(sums, settings.mllm.device)
    if not learnt:  # then there is no way to go
        engine.step([0.0] * len(pupil.rates))
        return {"loss": None, "lr": 0.0, "positions": 0, "padding": 0.0, "notes": notes}
    if not math.isfinite(total):
        raise Diverged(f"step {number + 1}: the loss is {total:g}; lower lr")
    by = lr_share(number, course, math.ceil(settings.warmup * course), 0.0)
    engine.step([rate * by for rate in pupil.rates])
    return {
        "loss": total / learnt,
        "lr": settings.lr * by,
        "positions": int(full),
        "padding": 1 - full / padded,
        "notes": notes,
    }


@contextmanager
def _memory() -> Iterator[None]:
    """Say of a device that is too small what helps."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        mend = "lower at_once or mllm.frames, or take mllm.load_in_4bit=true; --dry-run says what a step takes"
        raise UacsError(f"a step does not fit on the device ({reason(error)}); {mend}") from None


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


def _begin(unfinished: Path, identity: dict) -> None:
    unfinished.mkdir(parents=True, exist_ok=True)
    aside = unfinished / f"{IDENTITY}.partial"
    aside.write_text(json.dumps(identity))
    aside.replace(unfinished / IDENTITY)


def _drop_others(task: Training, told: Told) -> None:
    """Remove adapters that were the best once, now that a state that knows the best is left."""
    kept = kept_in(task, told) if told["validations"] else None
    for other in (task.out / "unfinished").glob("best-*"):
        if other != kept:
            shutil.rmtree(other)


def _finish(task: Training, pupil: Pupil, told: Told, record: dict) -> None:
    """Copy the best adapter into place, its manifest last, and remove the state."""
    out, info, asked = task.out, task.dataset.info, task.settings.mllm
    for path in kept_in(task, told).iterdir():
        shutil.copy(path, out / path.name)
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    begun = json.loads((out / "unfinished" / IDENTITY).read_text())
    manifest = Manifest(
        base=mllm.absolute(task.base),
        base_fingerprint=begun["mllm"],
        dataset=info.name,
        like=info.like,
        language=info.language,
        score_range=info.score_range,
        readout=asked.readout,
        prompts=prompts.version(info.language, asked.hints),
        hints=asked.hints,
        aspect=asked.aspect,
        verify_prefill=asked.verify_prefill,
        second_looks=task.second_looks is not None,
        frames=pupil.inputs.frames,
        data=_checksums(task.dataset),
    )
    (out / adapters.MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    engines.drop(out / "unfinished")  # first: by it a training counts as unfinished
    shutil.rmtree(out / "unfinished")
