"""Looks at split valid on the way of a training, and the best adapter so far."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from uacs import metrics
from uacs.errors import BadInput
from uacs.mllm import engines, lora
from uacs.mllm.engines import Engine
from uacs.mllm.finetuning_settings import Training
from uacs.mllm.lessons import Lesson
from uacs.mllm.pupil import Pupil
from uacs.mllm.readouts import Decode
from uacs.records import ANSWERED

Told = dict[str, Any]


def look(pupil: Pupil, engine: Engine, valid: list[Lesson], task: Training, told: Told) -> None:
    """Answer split valid, and keep the adapter if it is the best so far."""
    started = time.perf_counter()
    answers = _answers(pupil, engine, valid)
    info, labels, known = task.dataset.info, np.array([lesson.label for lesson in valid]), np.isfinite(answers)
    named = metrics.score(answers[known], labels[known], info.like) if known.any() else {}
    seen = {
        "step": told["step"],
        "mae": named.get("mae"),
        "acc2": named.get("acc2"),
        "unanswered": int(np.isnan(answers).sum()),
        "judged": judged(answers, labels, info.score_range, info.like)[task.settings.best_by],
        "seconds": time.perf_counter() - started,
    }
    told["validations"].append(seen)
    if best(told["validations"], task.settings.best_by) == len(told["validations"]) - 1:
        _save_best(kept_in(task, told), pupil, engine, task)


def kept_in(task: Training, told: Told) -> Path:
    """Where the best adapter so far lies; by its step, so that a state that was left finds its own."""
    kept = told["validations"][best(told["validations"], task.settings.best_by)]
    return task.out / "unfinished" / f"best-{kept['step']}"


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


def _answers(pupil: Pupil, engine: Engine, valid: list[Lesson]) -> np.ndarray:
    """Scores (N,) of split valid, NaN where there is none; each process answers its part.

    Where weights lie in parts, all processes answer everything, in as many forward passes, since each has to be there
    when they are gathered.
    """
    if engine.partitioned:
        return _answers_of_all(pupil, valid)
    rank, size = engines.place()
    answers = np.empty(len(valid))
    for k, part in enumerate(engines.gathered(_scores(pupil, valid[rank::size]))):
        answers[k::size] = part
    return answers


def _answers_of_all(pupil: Pupil, valid: list[Lesson]) -> np.ndarray:
    if isinstance(pupil.examined.reads, Decode):
        pupil.examined.reads.early = False
    rank, size = engines.place()
    lost = [k for k in range(rank, len(valid), size) if not _readable(pupil, valid[k])]
    unread = {k for some in engines.gathered(lost) for k in some}
    there = [k for k in range(len(valid)) if k not in unread]
    answers = np.full(len(valid), np.nan)
    answers[there] = _scores(pupil, [valid[k] for k in there])
    return answers


def _scores(pupil: Pupil, of: list[Lesson]) -> list[float]:
    outputs = pupil.examined.answer([lesson.sample for lesson in of])
    return [output.y if output.status in ANSWERED else math.nan for output in outputs]


def _readable(pupil: Pupil, lesson: Lesson) -> bool:
    try:
        pupil.inputs.media(lesson.sample)
    except BadInput:
        return False
    return True


def _save_best(place: Path, pupil: Pupil, engine: Engine, task: Training) -> None:
    with engine.whole():
        trained = engine.weights(pupil.model)
        head = engine.weights(pupil.head) if pupil.head else {}
        if engines.place()[0] == 0:
            place.mkdir(exist_ok=True)
            lora.save(place, lora.weights(pupil.model, trained), pupil.model, task.base)
            if pupil.head:
                pupil.head.save(place, head)
