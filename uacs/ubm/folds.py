"""What a UBM answers about training samples that it has not seen: hints that are as wrong as those in use.

About the samples that it learned from a UBM is too often right. A large model that is fine-tuned on second
looks with such hints would learn to repeat them. So the training split is cut into folds, and each fold is
answered by a UBM that was trained on the others.

    out/                          the UBM of the whole split, as ever
    out/folds/identity.json       whose folds these are
    out/folds/2/                  the UBM without fold 2, until its answers are there
    out/folds/2.parquet           its answers about fold 2
    out/out_of_fold.parquet       all of them; written last, and folds/ goes
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from uacs.data.mmsa import video_of
from uacs.data.prepared import FeatureInfo, PreparedDataset
from uacs.errors import BadInput, Refused
from uacs.records import Sample, SmallOutput
from uacs.ubm import training
from uacs.ubm.batches import check
from uacs.ubm.predictor import SmallPredictor
from uacs.ubm.settings import TrainingSettings
from uacs.ubm.training import Epoch

OUT_OF_FOLD = "out_of_fold.parquet"

OUT_OF_FOLD_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("fold", pa.int32(), nullable=False),
        pa.field("y_small", pa.float64()),
        pa.field("u_small", pa.float64()),
    ]
)
"""A row a training sample: its fold, from 1, and what the UBM without that fold answers; u_small in nats, as a large
model is told of it."""


@dataclass(frozen=True)
class Folded:
    """The UBM's own epochs; the table of answers, how many it holds, and why any sample is not in it."""

    epochs: list[Epoch]
    answers: Path
    answered: int
    notes: list[str]


def train(
    dataset: PreparedDataset,
    text_encoder: str,
    settings: TrainingSettings,
    out: Path,
    folds: int,
    progress: Callable[[Epoch], None] | None = None,
    begins: Callable[[int], None] | None = None,
) -> Folded:
    """Train the UBM in `out` as `training.train` does, then one without each fold, which answers that fold.

    Cut off, it goes on where it was; a UBM of the same training that is finished in `out` is taken as it is.
    `begins` hears of each fold, from 1, before its training. Raises `Refused` if everything is there already,
    and `BadInput` if the split has fewer videos than `folds`.
    """
    dealt = deal_split(dataset, folds, settings.seed)
    epochs = _whole(dataset, text_encoder, settings, out, progress)
    place = out / "folds"
    hints = {} if settings.estimator == "cbe" else {"estimator": settings.estimator}
    _begin(place, training.identity(dataset, text_encoder, settings) | {"folds": folds} | hints)
    for fold, held_out in enumerate(dealt, 1):
        if not _answers(place, fold).exists():
            if begins:
                begins(fold)
            unseeing = _without(held_out, dataset, text_encoder, settings, place / str(fold), progress)
            _write(_table(fold, unseeing, dataset, held_out), _answers(place, fold))
        shutil.rmtree(place / str(fold), ignore_errors=True)
    table = pa.concat_tables(pq.read_table(_answers(place, fold)) for fold in range(1, folds + 1))
    return _finish(table.sort_by("sample_id"), epochs, out)


def deal(sample_ids: list[str], folds: int, seed: int) -> list[frozenset[str]]:
    """Cut samples into folds of like size that part no video; the same for equal ids in any order.

    The largest videos are dealt first, each to the smallest fold; those of equal size in an order drawn by the seed.
    Empty folds are left if there are fewer videos than folds.

    >>> [sorted(fold) for fold in deal(["a_1", "b_1", "a_2", "c_1"], 2, seed=0)]
    [['a_1', 'a_2'], ['b_1', 'c_1']]
    """
    videos: dict[str, list[str]] = {}
    for sample_id in sorted(sample_ids):
        videos.setdefault(video_of(sample_id), []).append(sample_id)
    names = sorted(videos)
    drawn = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    dealt: list[set[str]] = [set() for _ in range(folds)]
    for name in sorted(drawn, key=lambda video: len(videos[video]), reverse=True):
        min(dealt, key=len).update(videos[name])
    return [frozenset(fold) for fold in dealt]


def deal_split(dataset: PreparedDataset, folds: int, seed: int, option: str = "--folds") -> list[frozenset[str]]:
    """The folds of what a UBM can learn from: labelled samples that it can read; `option` is how many are asked for."""
    features = dataset.info.features
    learned = [s.sample_id for s in dataset.samples("train") if s.label is not None and _readable(s, features)]
    if (videos := len({video_of(sample_id) for sample_id in learned})) < folds:
        raise BadInput(
            f"{dataset.folder}: split 'train' has labelled samples of {videos} videos, too few for {folds} folds; "
            f"lower {option}, or name samples VIDEO_CLIP with a number for the clip"
        )
    return deal(learned, folds, seed)


def _readable(sample: Sample, features: dict[str, FeatureInfo]) -> bool:
    try:
        check(sample, features)
    except BadInput:
        return False
    return True


def _whole(
    dataset: PreparedDataset,
    text_encoder: str,
    settings: TrainingSettings,
    out: Path,
    progress: Callable[[Epoch], None] | None,
) -> list[Epoch]:
    """The epochs of the UBM of the whole split, which is trained unless it is there and its folds are not."""
    epochs = training.finished_in(out, dataset, text_encoder, settings)
    if epochs and not (out / OUT_OF_FOLD).exists():
        return epochs
    if epochs:
        shutil.rmtree(out / "folds", ignore_errors=True)  # done with, and yet there if the end was cut off
    else:
        (out / OUT_OF_FOLD).unlink(missing_ok=True)  # of a UBM that is no longer there
    return training.train(dataset, text_encoder, settings, out, progress)


def _begin(place: Path, identity: dict) -> None:
    """Say whose folds are trained in a place; raises `Refused` if others were begun there."""
    told = place / "identity.json"
    if told.exists():
        if different := training.differing(json.loads(told.read_text()), identity):
            raise Refused(f"{place}: begun with other {different}; go on with those, or remove it to begin anew")
        return
    place.mkdir(parents=True, exist_ok=True)
    aside = place / ".identity.json.partial"
    aside.write_text(json.dumps(identity))
    aside.replace(told)


def _without(
    held_out: frozenset[str],
    dataset: PreparedDataset,
    text_encoder: str,
    settings: TrainingSettings,
    ubm: Path,
    progress: Callable[[Epoch], None] | None,
) -> SmallPredictor:
    """The UBM that learns from all but what is held out, trained in `ubm` unless it is there."""
    if not training.finished_in(ubm, dataset, text_encoder, settings, held_out):
        training.train(dataset, text_encoder, settings, ubm, progress, without=held_out)
    return SmallPredictor(ubm, device=settings.device, threads=settings.threads, estimator=settings.estimator)


def _table(fold: int, predictor: SmallPredictor, dataset: PreparedDataset, held_out: frozenset[str]) -> pa.Table:
    """The answers about a fold; NaN where one is no number."""
    answers: dict[str, SmallOutput] = {}
    for part in dataset.parts("train"):
        samples = [s for s in dataset.read(part) if s.sample_id in held_out]
        answers |= zip((s.sample_id for s in samples), predictor.predict(samples), strict=True)
    columns = {
        "sample_id": list(answers),
        "fold": [fold] * len(answers),
        "y_small": [output.y for output in answers.values()],
        "u_small": [output.u if output.told is None else output.told for output in answers.values()],
    }
    return pa.table(columns, schema=OUT_OF_FOLD_SCHEMA)


def _finish(table: pa.Table, epochs: list[Epoch], out: Path) -> Folded:
    """Write the answers that are numbers, and clear away what they were made in."""
    number = pc.is_finite(table["y_small"])
    lost = table.filter(pc.invert(number))["sample_id"].to_pylist()
    _write(table.filter(number), out / OUT_OF_FOLD)
    shutil.rmtree(out / "folds")
    notes = [f"sample '{sample_id}': the UBM without it gave no number; not in {OUT_OF_FOLD}" for sample_id in lost]
    return Folded(epochs, out / OUT_OF_FOLD, table.num_rows - len(lost), notes)


def _answers(place: Path, fold: int) -> Path:
    return place / f"{fold}.parquet"


def _write(table: pa.Table, path: Path) -> None:
    """Write a table whole or not at all."""
    aside = path.with_name(f".{path.name}.partial")
    pq.write_table(table, aside, compression="zstd")
    aside.replace(path)
