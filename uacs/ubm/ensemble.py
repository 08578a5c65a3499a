"""Estimator EV (Section III-C4): UBMs that have each seen another part of the training split, and how they differ.

Each member learns from all but a share of the videos, 1 / members of them, and begins from a seed of its own. The
score stays the whole split's UBM's, so that a cascade with EV differs from one with another estimator by what it does
with its doubt, and by no answer. The paper says neither how many members there are nor how their subsets are drawn.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from uacs.cascade import estimators
from uacs.cascade.estimators import SmallAnswers
from uacs.data.prepared import PreparedDataset
from uacs.errors import Refused
from uacs.records import SmallOutput
from uacs.ubm import training
from uacs.ubm.estimating import MEMBERS, load_fitted, members, save_fitted
from uacs.ubm.folds import deal_split
from uacs.ubm.predictor import SmallPredictor
from uacs.ubm.settings import TrainingSettings, load_config
from uacs.ubm.training import Epoch


class Train(Protocol):
    """Trains one UBM, as `training.train` does: by this process, or by several."""

    def __call__(self, settings: TrainingSettings, out: Path, without: frozenset[str] = frozenset()) -> list[Epoch]: ...


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
    held_out = deal_split(dataset, settings.members, settings.seed, "--set members=")
    epochs = training.finished_in(out, dataset, text_encoder, settings)
    fitted = load_fitted(out) if epochs else None
    if fitted and "ev" in fitted.quantiles and len(members(out)) == settings.members:
        raise Refused(f"{out}: a trained model lies there, and its ensemble; name another --out or remove it")
    epochs = epochs or train_one(settings, out)
    for k, without in enumerate(held_out, 1):
        own = settings.model_copy(update={"estimator": "cbe", "seed": settings.seed + k})
        place = out / MEMBERS / str(k)
        if not training.finished_in(place, dataset, text_encoder, own, without):
            if begins:
                begins(k)
            train_one(own, place, without)
    _learn(dataset, out, settings)
    return epochs


def _learn(dataset: PreparedDataset, ubm: Path, settings: TrainingSettings) -> None:
    """Let the estimators learn from split valid once more, now that there is an ensemble."""
    labelled = [sample for sample in dataset.samples("valid") if sample.label is not None]

    def said(place: Path) -> list[SmallOutput]:
        return SmallPredictor(place, 64, settings.device, settings.threads, "cbe").predict(labelled)

    whole, ensemble = said(ubm), [said(place) for place in members(ubm)]
    known = [i for i, output in enumerate(whole) if output.error is None]
    y, p = np.array([whole[i].y for i in known]), np.array([whole[i].p for i in known])
    ptd = np.array([whole[i].signals["ptd"] for i in known])
    ev = np.var([[outputs[i].y for i in known] for outputs in ensemble], axis=0)
    config, label = load_config(ubm), np.array([labelled[i].label for i in known], float)
    save_fitted(estimators.fit(SmallAnswers(y, p, config.top, ptd, ev), label, config.like), ubm)
