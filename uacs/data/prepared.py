"""The prepared dataset: a folder of Parquet parts in a fixed order, and dataset.json, written last.

A part holds at most 256 samples of one split and is the unit of everything later: the cascade answers
part by part, and a run's outcomes are one file a part. Part files are named `SPLIT-NNNNN.parquet`.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from uacs import datasets, fingerprints
from uacs.data import places
from uacs.data.media import undecodable
from uacs.data.places import Place
from uacs.errors import BadInput, WrongUse
from uacs.records import Sample

PART_ROWS = 256
SPLITS = ("train", "valid", "test")
MODALITIES = ("audio", "vision")
UNIMODAL = {"text": "label_text", "audio": "label_audio", "vision": "label_vision"}
"""The columns of unimodal labels, which CH-SIMS has."""


class FeatureInfo(BaseModel):
    """One modality's features: numbers a step, and the name of what computed them."""

    model_config = ConfigDict(extra="forbid")

    size: int
    extractor: str


class PartInfo(BaseModel):
    """One part file: rows and SHA-256 of its bytes."""

    model_config = ConfigDict(extra="forbid")

    rows: int
    sha256: str


class DatasetInfo(BaseModel):
    """dataset.json. `like` is the dataset whose rules hold (`uacs.datasets`): itself, if U-ACS knows it.

    `later` are modalities that its clips are yet to be looked at for, with the extractors' SPECs.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    name: str
    like: str = ""
    score_range: tuple[float, float]
    language: str
    features: dict[str, FeatureInfo]
    parts: dict[str, PartInfo]
    notes: list[str] = []
    later: dict[str, str] = {}

    @model_validator(mode="after")
    def _like_itself(self) -> "DatasetInfo":
        self.like = self.like or self.name
        return self

    @property
    def kind(self) -> datasets.DatasetKind:
        """The rules that hold for it."""
        return datasets.kind(self.like)


class PreparedDataset:
    """A prepared folder, a path or URI, opened for reading."""

    def __init__(self, folder: Place):
        self.folder: Place = folder if places.is_uri(folder) else Path(folder)
        path = places.within(folder, "dataset.json")
        try:
            self.info = DatasetInfo.model_validate(json.loads(places.read(path)))
            datasets.kind(self.info.like)
        except OSError:
            raise BadInput(f"{folder}: no dataset.json there; make one with `uacs prepare SOURCE {folder}`") from None
        except (ValidationError, json.JSONDecodeError, WrongUse) as error:
            raise BadInput(
                f"{path}: not a dataset description ({_first_line(error)}); prepare the data again"
            ) from None

    def parts(self, split: str) -> list[str]:
        """The names of a split's parts, in order; raises `BadInput` if the split is empty."""
        names = sorted(name for name in self.info.parts if name.startswith(f"{split}-"))
        if not names:
            there = sorted({name.rpartition("-")[0] for name in self.info.parts})
            raise BadInput(f"{self.folder}: split '{split}' is empty; there is {', '.join(there) or 'nothing'}")
        return names

    def rows(self, split: str) -> int:
        """Samples in a split."""
        return sum(self.info.parts[name].rows for name in self.parts(split))

    def read(self, part: str) -> list[Sample]:
        """The samples of one part, in order."""
        path = places.within(self.folder, part)
        try:
            with places.open_file(path) as file:
                table = pq.read_table(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise BadInput(f"{path}: cannot be read ({_first_line(error)}); prepare again") from None
        if table.num_rows != self.info.parts[part].rows:
            expected = self.info.parts[part].rows
            raise BadInput(f"{path}: {table.num_rows} rows where dataset.json says {expected}")
        return _samples(table, self.folder)

    def samples(self, split: str) -> Iterator[Sample]:
        """All samples of a split, part by part."""
        for part in self.parts(split):
            yield from self.read(part)

    def checksum(self, split: str) -> str:
        """One SHA-256 over the checksums of a split's parts: what a run's identity holds."""
        parts = [f"{name} {self.info.parts[name].sha256}" for name in self.parts(split)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def write_part(folder: Path, name: str, samples: list[Sample], stamps: list[str | None] | None = None) -> PartInfo:
    """Write one part aside and rename it; returns what dataset.json says of it.

    `stamps` say how each clip was found, where others than these samples may come to depend on that.
    """
    columns: dict[str, pa.Array] = {
        "sample_id": pa.array([s.sample_id for s in samples], pa.string()),
        "split": pa.array([s.split for s in samples], pa.string()),
        "text": pa.array([s.text for s in samples], pa.string()),
        "label": pa.array([s.label for s in samples], pa.float64()),
    }
    for modality, column in UNIMODAL.items():
        if any(modality in s.unimodal for s in samples):
            columns[column] = pa.array([s.unimodal.get(modality) for s in samples], pa.float64())
    plain = list(columns)
    for modality in MODALITIES:
        features = [getattr(s, modality) for s in samples]
        if any(f is not None for f in features):
            flat = [None if f is None else f.ravel() for f in features]
            columns[modality] = pa.array(flat, pa.list_(pa.float32()))
            columns[f"{modality}_steps"] = pa.array([None if f is None else len(f) for f in features], pa.int32())
    if any(s.clip for s in samples):
        columns["clip"] = pa.array([_relative(s.clip, folder) for s in samples], pa.string())
    faults = [s.footage and s.footage.fault for s in samples]
    for column, texts in (("clip_fault", faults), ("clip_stamp", stamps or [])):
        if any(texts):
            columns[column] = pa.array(texts, pa.string())
    aside = folder / f".{name}.partial"
    # a dictionary of MOSEI's floats is built for nothing: hardly one repeats
    pq.write_table(pa.table(columns), aside, compression="zstd", use_dictionary=plain)
    checksum = fingerprints.whole(aside)
    os.replace(aside, folder / name)
    return PartInfo(rows=len(samples), sha256=checksum)


def _samples(table: pa.Table, folder: Place) -> list[Sample]:
    columns = {name: table[name].to_pylist() for name in ("sample_id", "split", "text", "label")}
    columns |= {modality: _sequences(table, modality) for modality in MODALITIES}
    clips = table["clip"].to_pylist() if "clip" in table.column_names else [None] * table.num_rows
    columns["clip"] = [_absolute(clip, folder) for clip in clips]
    columns["unimodal"] = _unimodal(table)
    faults = table["clip_fault"].to_pylist() if "clip_fault" in table.column_names else [None] * table.num_rows
    columns["footage"] = [fault and undecodable(fault) for fault in faults]
    return [Sample(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _unimodal(table: pa.Table) -> list[dict[str, float]]:
    labels = {m: table[name].to_pylist() for m, name in UNIMODAL.items() if name in table.column_names}
    return [{m: values[i] for m, values in labels.items() if values[i] is not None} for i in range(table.num_rows)]


def _sequences(table: pa.Table, modality: str) -> list[np.ndarray | None]:
    if modality not in table.column_names:
        return [None] * table.num_rows
    # slices of one flat buffer: a Python list of MOSEI's numbers would take longer than the UBM
    lists = table[modality].combine_chunks()
    flat, offsets, steps = lists.values.to_numpy(), lists.offsets.to_numpy(), table[f"{modality}_steps"].to_pylist()
    return [
        None if n is None else flat[offsets[i] : offsets[i + 1]].reshape(n, -1) if n else np.empty((0, 0), np.float32)
        for i, n in enumerate(steps)
    ]


def _relative(clip: str | None, folder: Path) -> str | None:
    """Relative where dataset and clips would move together: the clip lies under the dataset's parent."""
    if clip is None or "://" in clip:
        return clip
    path, base = Path(clip).resolve(), folder.resolve()
    return os.path.relpath(path, base) if path.is_relative_to(base.parent) else str(path)


def _absolute(clip: str | None, folder: Place) -> str | None:
    if clip is None or "://" in clip or os.path.isabs(clip):
        return clip
    return places.normal(places.within(places.absolute(folder), clip))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
