"""Estimator EV (Section III-C4): UBMs that have each seen another part of the training split, and how they differ.

Each member learns from all but a share of the videos, 1 / members of them, and begins from a seed of its own. The
score stays the whole split's UBM's, so that a cascade with EV differs from one with another estimator by what it does
with its doubt, and by no answer. The paper says neither how many members there are nor how their subsets are drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from uacs.data.prepared import PreparedDataset
from uacs.errors import Refused
from uacs.ubm import training
from uacs.ubm.estimating import MEMBERS, load_fitted, members, save_fitted
from uacs.ubm.folds import deal_split
from uacs.ubm.predictor import SmallPredictor
from uacs.ubm.settings import TrainingSettings
from uacs.ubm.training import Epoch


class Train(Protocol):
    """Trains one UBM, as `training.train` does: by this process, or by several."""

    def __call__(self, settings: TrainingSettings, out: Path, without: frozenset[str] = frozenset()) -> list[Epoch]: ...


@dataclass(frozen=True)
class Training:
    """One UBM to be trained: how, where to, and without whom."""

    settings: TrainingSettings
    out: Path
    without: frozenset[str] = frozenset()


def trainings(dataset: PreparedDataset, settings: TrainingSettings, out: Path) -> list[Training]:
    """The UBM of the whole split in `out`, and the members of its ensemble beneath; each is trained for itself.

    Raises `BadInput` if the split has fewer videos than members.
    """
    held_out = deal_split(dataset, settings.members, settings.seed, "--set members=")
    own = [
        settings.model_copy(update={"estimator": "cbe", "seed": settings.seed + k}) for k in range(1, 1 + len(held_out))
    ]
    beneath = [out / MEMBERS / str(k) for k in range(1, 1 + len(held_out))]
    return [Training(settings, out), *map(Training, own, beneath, held_out)]


def train(
    dataset: PreparedDataset,
    text_encoder: str,
    settings: TrainingSettings,
    out: Path,
    train_one: Train,
    begins: Callable[[int], None] | None = None,
) -> list[Epoch]:
    """The UBM of the whole split in `out` and its ensemble beneath; returns the epochs of the first.

    Cut off, it goes on where it was. `begins` hears of each member, from 1. Raises as `training.train` does, `Refused`
    where all is there, and `BadInput` if the split has fewer videos than members.
    """
    parts = trainings(dataset, settings, out)[1:]
    epochs = training.finished_in(out, dataset, text_encoder, settings)
    if epochs and load_fitted(out) is None:
        raise Refused(f"{out}: trained before there were estimators; train it again in another --out")
    if epochs and is_whole(out):
        raise Refused(f"{out}: a trained model lies there, and its ensemble; name another --out or remove it")
    epochs = epochs or train_one(settings, out)
    for k, part in enumerate(parts, 1):
        if not training.finished_in(part.out, dataset, text_encoder, part.settings, part.without):
            if begins:
                begins(k)
            train_one(part.settings, part.out, part.without)
    learn(dataset, out, settings)
    return epochs


def is_whole(ubm: Path) -> bool:
    """Whether a UBM's ensemble is there, all of it, and what it teaches."""
    fitted = load_fitted(ubm)
    return bool(fitted and fitted.members and fitted.members == len(members(ubm)))


def learn(dataset: PreparedDataset, ubm: Path, settings: TrainingSettings) -> None:
    """Note what the ensemble's variances are on split valid; what other estimators have learned stays."""
    labelled = [sample for sample in dataset.samples("valid") if sample.label is not None]

    def scores(place: Path) -> list[float]:
        predictor = SmallPredictor(place, 64, settings.device, settings.threads, "cbe")
        return [output.y for output in predictor.predict(labelled) if output.error is None]

    there, fitted = members(ubm), load_fitted(ubm)
    assert fitted  # the UBM's own training has left it
    save_fitted(fitted.with_ensemble(np.var([scores(place) for place in there], axis=0), len(there)), ubm)
