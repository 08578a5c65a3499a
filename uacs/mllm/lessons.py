"""What a large model is trained on: each labelled sample as a question of stage 2, some as one of stage 3.

Order, hints and which samples are asked twice depend on seed and epoch alone: not on how many processes share a
step, and not on whether the training was interrupted.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq
from pyarrow import ArrowException

from uacs.data.prepared import PreparedDataset
from uacs.errors import BadInput, reason
from uacs.mllm import prompts
from uacs.mllm.reading import spell
from uacs.mllm.training import draw_hints
from uacs.records import TOLD, Sample, transcript

HINTS = ("y_small", "u_small", "y_large", "u_large")

WANTED = {"train": "learn from", "valid": "choose the best by"}
"""The splits of a training, and what for."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Lesson:
    """A labelled sample without its features, and what is known of earlier answers to it, by `HINTS`."""

    sample: Sample
    label: float
    hints: dict[str, float]


@dataclass(frozen=True)
class Task:
    """A lesson by its place, and whether it is asked stage 3's way."""

    lesson: int
    twice: bool


@dataclass(frozen=True)
class Row:
    """A turn with its answer, of which the last `tokens` ids are the answer."""

    turn: Any
    tokens: int
    label: float


def check(dataset: PreparedDataset) -> None:
    """Raise `BadInput` for a dataset without the splits that a training needs."""
    for split, what in WANTED.items():
        if not any(name.startswith(f"{split}-") for name in dataset.info.parts):
            raise BadInput(f"{dataset.folder}: split '{split}' is empty: nothing to {what}; prepare the data with one")


def lessons(dataset: PreparedDataset, split: str, second_looks: Path | None = None) -> list[Lesson]:
    """The labelled samples of a split; raises `BadInput` where there are none, or a label is out of range."""
    low, high = dataset.info.score_range
    known = _earlier_answers(second_looks) if second_looks else {}
    found = []
    for sample in dataset.samples(split):
        if sample.label is None:
            continue
        if not low <= sample.label <= high:
            told = f"sample '{sample.sample_id}': label {sample.label:g} is outside [{low:g}, {high:g}]"
            raise BadInput(f"{dataset.folder}: {told}; mend or remove it, and prepare the data anew")
        bare = replace(sample, audio=None, vision=None)
        found.append(Lesson(bare, sample.label, known.get(sample.sample_id, {})))
    if not found:
        told = f"no sample of split '{split}' has a label to {WANTED[split]}"
        raise BadInput(f"{dataset.folder}: {told}; prepare the data with some")
    if second_looks and not any(lesson.hints for lesson in found):
        raise BadInput(f"{second_looks}: answers to none of {dataset.folder}'s samples; name the file of this dataset")
    return found


def steps(of: list[Lesson], batch_size: int, twice: float, seed: int, epoch: int) -> list[list[Task]]:
    """An epoch's steps: each lesson once, in random batches; of those with earlier answers a share is asked twice."""
    rng = np.random.default_rng([seed, epoch])
    order, drawn = rng.permutation(len(of)).tolist(), rng.random(len(of)) < twice
    tasks = [Task(i, bool(drawn[i]) and bool(of[i].hints)) for i in order]
    return [tasks[start : start + batch_size] for start in range(0, len(tasks), batch_size)]


def share(step: list[Task], of: list[Lesson], rank: int, size: int, at_once: int) -> list[list[Task]]:
    """A process's part of a step, in batches of texts of like length; as many for each process, the last may be empty.

    >>> from uacs.mllm.lessons import Lesson, Task, share
    >>> of = [Lesson(Sample(str(n), text="x" * n), 0.0, {}) for n in range(5)]
    >>> [[task.lesson for task in batch] for batch in share([Task(i, False) for i in (4, 0, 3, 1, 2)], of, 1, 2, 1)]
    [[1], [3], []]
    """
    by_length = sorted(step, key=lambda task: (task.twice, len(of[task.lesson].sample.text or ""), task.lesson))
    own, batches = by_length[rank::size], math.ceil(math.ceil(len(step) / size) / at_once)
    return [own[k * at_once : (k + 1) * at_once] for k in range(batches)]


class Rows:
    """Makes rows of tasks. What it draws depends on seed, epoch and lesson alone."""

    def __init__(
        self,
        inputs: Any,
        score_range: tuple[float, float],
        language: str,
        hints: prompts.Hints,
        noise: float,
        seed: int,
    ):
        self.inputs, self.score_range, self.language = inputs, score_range, language
        self.hints, self.noise, self.seed = hints, noise, seed

    def row(self, lesson: Lesson, media: Any, task: Task, epoch: int) -> Row:
        """A task's row; raises `BadInput` for a sample of which there is nothing to read, or too much."""
        text = transcript(lesson.sample)
        if task.twice:
            # the small model's answers are its own; where the large one's are not known, they are drawn about the label
            drawn = draw_hints(
                lesson.label, self.noise, self.score_range, np.random.default_rng([self.seed, epoch, task.lesson])
            )
            told = drawn | lesson.hints
            prompt = prompts.second_question(text, self.score_range, self.language, **told, hints=self.hints)
        else:
            prompt = prompts.question(text, self.score_range, self.language)
        turn = self.inputs.encode(lesson.sample, media, prompt)
        answer = self.answer(lesson.label)
        return Row(replace(turn, ids=turn.ids + answer), len(answer), lesson.label)

    def answer(self, label: float) -> list[int]:
        """A label as its answer's tokens."""
        return self.inputs.answer_ids(spell(label))

    def filler(self) -> Row:
        """A row of words alone, for a process that has nothing to do in a step that all have to take."""
        sample = Sample("filler", text="nothing")
        turn = self.inputs.encode(
            sample, self.inputs.media(sample), prompts.question("nothing", self.score_range, self.language)
        )
        answer = self.answer(0.0)
        return Row(replace(turn, ids=turn.ids + answer), len(answer), 0.0)


def ahead(make: Callable[[T], R], of: Iterable[T], threads: int, most: int) -> Generator[R, None, None]:
    """`map` in threads, at most so many results ahead of who takes them: clips are decoded while the model learns."""
    tasks = iter(of)
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(make, task) for task in islice(tasks, most))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(make, task) for task in islice(tasks, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def doubts(second_looks: Path | None) -> list[str]:
    """What is worth a note about a file of earlier answers."""
    if second_looks is None or "fold" in pq.read_schema(_one_of(second_looks)).names:
        return []
    return [f"{second_looks}: no column fold; of a small model that learnt from these samples hints are too good"]


def _one_of(path: Path) -> Path:
    return next(path.rglob("*.parquet")) if path.is_dir() else path


def _earlier_answers(path: Path) -> dict[str, dict[str, float]]:
    """Earlier answers by sample: a table of `uacs train ubm --folds`, or a run's outcomes."""
    try:
        if not path.exists():
            raise ValueError("there is no such file")
        table = pq.read_table(path)
        names = [name for name in HINTS if name in table.column_names]
        if not {"sample_id", "y_small", "u_small"} <= set(table.column_names):
            raise ValueError("it lacks sample_id, y_small or u_small")
        signals = [name for name in ("signals",) if name in table.column_names]
        rows = table.select(["sample_id", *names, *signals]).to_pylist()
    except (OSError, ArrowException, ValueError) as error:
        mend = "name the out_of_fold.parquet of `uacs train ubm --folds`"
        raise BadInput(f"{path}: no earlier answers ({reason(error)}); {mend}") from None
    known = {}
    for row in rows:
        told = {name: row[name] for name in names if row[name] is not None and math.isfinite(row[name])}
        in_nats = dict(row.get("signals") or []).get(TOLD)
        if in_nats is not None and "u_small" in told:
            told["u_small"] = in_nats
        if {"y_small", "u_small"} <= told.keys():
            if not {"y_large", "u_large"} <= told.keys():
                told = {name: told[name] for name in ("y_small", "u_small")}
            known[row["sample_id"]] = told
    return known
