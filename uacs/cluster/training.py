"""Train a UBM on several Ray Train workers.

Every worker runs `uacs.ubm.training` with its share of each batch, and goes on from the training's own state in
OUT/unfinished.
"""

import json
from collections.abc import Callable
from pathlib import Path

from uacs.cluster import workers as group
from uacs.data import places
from uacs.data.prepared import PreparedDataset
from uacs.ubm import training
from uacs.ubm.settings import TrainingSettings


def train(
    dataset: PreparedDataset,
    text_encoder: str,
    settings: TrainingSettings,
    out: Path,
    workers: int,
    progress: Callable[[training.Epoch], None] | None = None,
    without: frozenset[str] = frozenset(),
) -> list[training.Epoch]:
    """As `uacs.ubm.training.train`, by several workers; with device `cuda` each has a GPU of its own.

    `out`, the data and an encoder's folder have to lie on a path that every node sees. Raises `Refused` as
    well if this Ray has too few CPUs or GPUs for the workers.
    """
    out = out.absolute()
    encoder = str(Path(text_encoder).absolute()) if Path(text_encoder).is_dir() else text_encoder
    dataset = PreparedDataset(places.absolute(dataset.folder))
    training.begun_in(out, dataset, encoder, settings, without)
    task = {"dataset": dataset, "text_encoder": encoder, "settings": settings, "out": out, "without": without}
    group.run(_work, task, out, workers, settings.device, progress, "a smaller batch_size")
    return json.loads((out / "training.json").read_text())["epochs"]


def _work(task: dict) -> None:
    """What each worker does, at first and after a death; one that comes after the end has nothing left to do."""
    out = task["out"]
    if not (out / "training.json").exists() or (out / "unfinished" / "state.pt").exists():
        training.train(**task)
