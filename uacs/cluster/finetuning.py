"""Adapt a large model on several Ray Train workers, by PyTorch alone or by DeepSpeed.

Every worker runs `uacs.mllm.finetuning` with its share of each step, and goes on from the training's own state in
OUT/unfinished.
"""

import json
from collections.abc import Callable
from dataclasses import replace

from uacs import mllm
from uacs.cluster import workers as group
from uacs.data import places
from uacs.data.prepared import PreparedDataset
from uacs.mllm import Towers, adapters, engines, finetuning
from uacs.mllm.finetuning_settings import Training
from uacs.mllm.validation import Told


def train(task: Training, workers: int, progress: Callable[[Told], None] | None = None) -> dict:
    """As `uacs.mllm.finetuning.train`, by several workers; with device `cuda` each has a GPU of its own.

    `out`, the data and the base have to lie on a path that every node sees. Raises `Refused` as well if this Ray has
    too few CPUs or GPUs for the workers.
    """
    task = _absolute(task)
    finetuning.begun_in(task, workers)
    less = "a smaller at_once, fewer mllm.frames"
    group.run(_work, {"task": task}, task.out, workers, task.settings.mllm.device, progress, less)
    return json.loads((task.out / "training.json").read_text())


def _absolute(task: Training) -> Training:
    """The same with paths that hold in any working directory."""
    own = task.settings.mllm
    towers = Towers(**{kind: mllm.absolute(tower) if tower else None for kind, tower in own.towers})
    return replace(
        task,
        dataset=PreparedDataset(places.absolute(task.dataset.folder)),
        base=mllm.absolute(task.base),
        out=task.out.absolute(),
        settings=task.settings.model_copy(update={"mllm": own.model_copy(update={"towers": towers})}),
        second_looks=task.second_looks.absolute() if task.second_looks else None,
    )


def _work(told: dict) -> None:
    """What each worker does, at first and after a death; one that comes after the end has nothing left to do."""
    task: Training = told["task"]
    if not (task.out / adapters.MANIFEST).exists() or engines.left(task.out / "unfinished"):
        finetuning.train(task, told["progress"])
