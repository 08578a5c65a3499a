"""Looks at split valid on the way of a training, and the best adapter so far."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from uacs import metrics
from uacs.mllm import engines, lora
from uacs.mllm.engines import Engine
from uacs.mllm.finetuning_settings import Training
from uacs.mllm.lessons import Lesson
from uacs.mllm.pupil import Pupil
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


def _answers(pupil: Pupil, engine: Engine, valid: list[Lesson]) -> np.ndarray:
    """Scores (N,) of split valid, NaN where there is none; each process answers its part.

    Where weights lie in parts, all processes answer everything, since each has to be there when they are gathered.
    """
    rank, size = (0, 1) if engine.partitioned else engines.place()
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
