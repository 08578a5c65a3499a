"""Tables with a row a sample, CSV or Parquet, on any filesystem that pyarrow reaches.

MMSA's label.csv is one of them: `video_id, clip_id, text, label, mode`, clips under
Raw/video_id/clip_id.mp4, and for CH-SIMS `label_T, label_A, label_V`. Any other has a column
`sample_id`, and of the rest what it has; columns of other names are named by `columns`.

    sample_id            or id, or video_id and clip_id, which are joined by an underscore
    text                 or raw_text
    label                a score; empty is none
    split                or mode: train, valid or test; without it every sample is test
    clip                 path or URI of the footage, relative to the table
    audio, vision        Parquet: the numbers (T, size), nested or flat with `audio_steps`;
                         either: path or URI of a .npy file, relative to the table
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from uacs.data import places
from uacs.data.places import Place
from uacs.data.prepared import MODALITIES, SPLITS, UNIMODAL, FeatureInfo
from uacs.data.source import score, sequence
from uacs.errors import BadInput, WrongUse
from uacs.records import Sample

SPELLINGS = {
    "sample_id": ("sample_id", "id"),
    "video_id": ("video_id",),
    "clip_id": ("clip_id",),
    "text": ("text", "raw_text"),
    "label": ("label",),
    "label_text": ("label_text", "label_T"),
    "label_audio": ("label_audio", "label_A"),
    "label_vision": ("label_vision", "label_V"),
    "split": ("split", "mode"),
    "clip": ("clip",),
    "audio": ("audio",),
    "audio_steps": ("audio_steps",),
    "vision": ("vision",),
    "vision_steps": ("vision_steps",),
}
"""What we call a column, and the names that it may have in a file."""

BATCH = 256
Row = dict[str, Any]


class Table:
    """The samples of a table; `clips` is the folder of VIDEO_ID/CLIP_ID.mp4, by default Raw beside the table."""

    def __init__(
        self,
        place: Place,
        score_range: tuple[float, float],
        clips: Path | None = None,
        columns: dict[str, str] | None = None,
    ):
        self.place, self.score_range = place, score_range
        self.count, names, self._read = (_parquet if _is_parquet(place) else _csv)(place)
        self.column = _columns(place, names, columns or {})
        self.features: dict[str, FeatureInfo] = {}
        self.provides = {m for m in MODALITIES if m in self.column}
        self.notes = [
            f"{place}: no column {what}; {then}"
            for name, what, then in (
                ("label", "label", "nothing can be learned or scored"),
                ("split", "split or mode", "every sample is of split test"),
            )
            if name not in self.column
        ]
        self._clips = str(clips) if clips else places.beside(place, "Raw")
        footage = "clip" not in self.column and "video_id" in self.column
        self._footage = places.files_under(self._clips, ".mp4") if footage else set()

    def __iter__(self) -> Iterator[Sample]:
        seen: dict[str, str] = {}
        for line, row in self._read(self.column):
            sample_id = self._id(row, line)
            if sample_id in seen:
                raise BadInput(
                    f"{self.place}, {line}, sample '{sample_id}': stands in {seen[sample_id]} already; "
                    "keep one row for each clip"
                )
            seen[sample_id] = line
            yield self._sample(sample_id, row, f"{self.place}, {line}, sample '{sample_id}'")
        if not seen:
            raise BadInput(f"{self.place}: no rows; nothing to prepare")

    def _id(self, row: Row, line: str) -> str:
        names = ("sample_id",) if "sample_id" in self.column else ("video_id", "clip_id")
        if any(row[name] is None for name in names):
            raise BadInput(f"{self.place}, {line}: no {' and '.join(names)}; every sample needs an id of its own")
        return "_".join(str(row[name]) for name in names)

    def _sample(self, sample_id: str, row: Row, where: str) -> Sample:
        split = row.get("split", "test")
        if split not in SPLITS:
            raise BadInput(f"{where}: {self.column['split']} '{split}' is not one of {', '.join(SPLITS)}")
        unimodal = {m: score(row.get(column), self.score_range, where) for m, column in UNIMODAL.items()}
        return Sample(
            sample_id=sample_id,
            text=str(row.get("text") or "").strip() or None,
            clip=self._clip(row),
            label=score(row.get("label"), self.score_range, where),
            split=split,
            unimodal={m: value for m, value in unimodal.items() if value is not None},
            **{m: self._features(m, row, sample_id, where) for m in MODALITIES},
        )

    def _clip(self, row: Row) -> str | None:
        if row.get("clip"):
            return places.beside(self.place, str(row["clip"]))
        name = f"{row.get('video_id')}/{row.get('clip_id')}.mp4"
        return places.within(self._clips, name) if name in self._footage else None

    def _features(self, modality: str, row: Row, sample_id: str, where: str) -> np.ndarray | None:
        values = row.get(modality)
        if values is None:
            return None
        if isinstance(values, str):
            values = _npy(places.beside(self.place, values), where, modality)
        elif row.get(f"{modality}_steps"):
            values = values.reshape(row[f"{modality}_steps"], -1)
        if values.ndim == 1:
            values = values.reshape(1, -1)
        if values.ndim != 2 or values.dtype.kind not in "fiu":
            raise BadInput(f"{where}: {modality} is not a sequence of steps with equally many numbers each")
        if not len(values):
            self.notes.append(f"sample '{sample_id}': {modality} has 0 steps; kept without {modality}")
            return None
        known = self.features.setdefault(
            modality, FeatureInfo(size=values.shape[1], extractor=Path(str(self.place)).name.split(".")[0])
        )
        if values.shape[1] != known.size:
            raise BadInput(f"{where}: {modality} has {values.shape[1]} numbers a step, those before {known.size}")
        values, note = sequence(values, sample_id, modality)
        self.notes += [note] if note else []
        return values


def _columns(place: Place, there: list[str], named: dict[str, str]) -> dict[str, str]:
    """Our name to the file's, for the columns that are there."""
    if unknown := [name for name in named if name not in SPELLINGS]:
        raise WrongUse(f"--column {unknown[0]}={named[unknown[0]]}: the names are {', '.join(SPELLINGS)}")
    if absent := [theirs for theirs in named.values() if theirs not in there]:
        raise BadInput(f"{place}: no column {absent[0]}; it has {', '.join(there)}")
    column = {
        ours: spelling for ours, spellings in SPELLINGS.items() for spelling in spellings[::-1] if spelling in there
    } | named
    has = f"it has {', '.join(there)}; --column NAME=THEIRS says what a column is called"
    if "sample_id" not in column and not {"video_id", "clip_id"} <= column.keys():
        raise BadInput(f"{place}: no column sample_id, nor video_id and clip_id; {has}")
    if not column.keys() & {"text", "audio", "vision", "clip"}:
        raise BadInput(f"{place}: no column text, audio, vision or clip; {has}")
    return column


def _is_parquet(place: Place) -> bool:
    return str(place).endswith((".parquet", ".pq")) or places.is_folder(place)


def _csv(place: Place):
    """Row count (unknown), column names, and a reader of rows whose values are strings, None where empty."""

    def frames(**options) -> Iterator[pd.DataFrame]:
        try:
            with places.open_stream(place) as file:
                table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig", **options)
                yield from [table] if isinstance(table, pd.DataFrame) else table
        except FileNotFoundError:
            raise BadInput(f"{place}: no such file; name a label.csv or the folder that holds it") from None
        except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise BadInput(f"{place}: not a CSV file in UTF-8 ({str(error).splitlines()[0]})") from None
        except OSError as error:
            raise BadInput(f"{place}: cannot be read ({str(error).splitlines()[0]})") from None

    def read(column: dict[str, str]) -> Iterator[tuple[str, Row]]:
        line = 1
        for frame in frames(chunksize=4096):
            for values in frame[list(column.values())].itertuples(index=False, name=None):
                line += 1
                yield f"line {line}", dict(zip(column, (value or None for value in values), strict=True))

    (header,) = frames(nrows=0)
    return None, list(header.columns), read


def _parquet(place: Place):
    """Row count, column names, and a reader of rows whose features are float arrays."""
    try:
        filesystem, path = places.resolve(place)
        table = ds.dataset(path, filesystem=filesystem, format="parquet")
        count, names = table.count_rows(), table.schema.names
    except FileNotFoundError:
        raise BadInput(f"{place}: no such file; name a Parquet file or a folder of them") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise BadInput(f"{place}: not a Parquet file or a folder of them ({str(error).splitlines()[0]})") from None

    def read(column: dict[str, str]) -> Iterator[tuple[str, Row]]:
        number = 0
        for fragment in table.get_fragments():
            with filesystem.open_input_file(fragment.path) as file:
                for batch in pq.ParquetFile(file).iter_batches(BATCH, columns=list(column.values())):
                    values = {ours: _values(batch.column(theirs)) for ours, theirs in column.items()}
                    for i in range(batch.num_rows):
                        number += 1
                        yield f"row {number}", {name: rows[i] for name, rows in values.items()}

    return count, names, read


def _values(array: pa.Array) -> list:
    """A column as Python values; lists of numbers as float arrays, lists of such lists as (T, size)."""
    if not _is_list(array.type):
        return array.to_pylist()
    return [_numbers(array[i].values) if array[i].is_valid else None for i in range(len(array))]


def _numbers(values: pa.Array) -> np.ndarray:
    if not _is_list(values.type):
        return values.to_numpy(zero_copy_only=False)
    sizes = set(values.value_lengths().to_pylist()) or {0}
    if len(sizes) > 1 or None in sizes:
        return np.empty((0, 0, 0), np.float32)  # ragged: no sequence of steps, and said to be none
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), sizes.pop())


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _npy(place: str, where: str, modality: str) -> np.ndarray:
    try:
        with places.open_file(place) as file:
            return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"{where}: {modality} {place} is not a .npy file ({str(error).splitlines()[0]})") from None
