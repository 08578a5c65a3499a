"""Tables with a row a sample, CSV or Parquet, on any filesystem that pyarrow reaches.

MMSA's label.csv is one of them: `video_id, clip_id, text, label, mode`, clips under
Raw/video_id/clip_id.mp4, and for CH-SIMS `label_T, label_A, label_V`. Any other has a column
`sample_id`, and of the rest what it has; columns of other names are named by `columns`.

    sample_id            or id, or video_id and clip_id, which are joined by an underscore
    text                 or raw_text; where it is empty, what lies beside the clip as .srt, .vtt or .txt
    label                a score; empty is none
    split                or mode: train, valid or test; without it every sample is test
    clip                 path or URI of the footage
    audio, vision        Parquet: the numbers (T, size), nested or flat with `audio_steps`;
                         either: path or URI of a .npy file

Paths are relative to the table's folder, which a folder of Parquet files is itself. A cell that cannot be used
costs its sample that cell, and a note says so; ids, splits and the table's own form must be right.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from uacs.data import places
from uacs.data.faults import Faults, Unusable, Widths
from uacs.data.features import read_npy
from uacs.data.places import Place
from uacs.data.prepared import MODALITIES, SPLITS, UNIMODAL, FeatureInfo
from uacs.data.rows import MOST_NUMBERS, Row, open_rows
from uacs.data.source import identifier, label, sequence, whole, words
from uacs.data.subtitles import transcript
from uacs.errors import BadInput, WrongUse, shown
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


class Table:
    """The samples of a table; `clips` is the folder of VIDEO_ID/CLIP_ID.mp4, by default Raw beside the table.

    `extractor` names what computed its features, by default the table's own name without its ending.
    """

    def __init__(
        self,
        place: Place,
        score_range: tuple[float, float],
        clips: Path | None = None,
        columns: dict[str, str] | None = None,
        extractor: str | None = None,
    ):
        self.place, self.score_range = place, score_range
        self.features: dict[str, FeatureInfo] = {}
        self._extractor = extractor or places.stem(place)
        self._home = places.within(place, "") if places.is_folder(place) else place  # what names are relative to
        self._file = open_rows(place)
        self.count = self._file.count
        self.column = _columns(place, self._file.names, columns or {})
        self._file.check(self.column)
        self.provides = {m for m in MODALITIES if m in self.column}
        self.notes = [
            f"{place}: no column {what}, it has {shown(', '.join(self._file.names), most=200)}; {then} (see --column)"
            for name, what, then in (
                ("label", "label", "nothing can be learned or scored"),
                ("split", "split or mode", "every sample is of split test"),
            )
            if name not in self.column
        ]
        self._clips_named = clips is not None
        self._clips = str(clips or places.beside(self._home, "Raw"))
        self._footage = self._found()
        self._faults = Faults()
        self._widths = {m: Widths(m, str(place)) for m in MODALITIES}

    def __iter__(self) -> Iterator[Sample]:
        seen: dict[str, str] = {}
        filmed = 0
        for line, row in self._file.rows(self.column):
            sample_id = self._id(row, line)
            where = f"{self.place}, {line}, sample '{shown(sample_id)}'"
            if sample_id in seen:
                raise BadInput(f"{where}: stands in {seen[sample_id]} already; keep one row for each clip")
            seen[sample_id] = line
            filmed += self._name(row) in self._footage
            yield self._sample(sample_id, row, where)
        if not seen:
            raise BadInput(f"{self.place}: no rows; nothing to prepare")
        self._settle()
        if self._clips_named and not filmed:
            self.notes.append(f"0 of {len(seen)} samples have a clip in {self._clips}")

    def _settle(self) -> None:
        """What all rows together say: each modality's size, and the notes on samples."""
        for modality, widths in self._widths.items():
            if widths.known:
                size = widths.settle(self._faults.notes)
                self.features[modality] = FeatureInfo(size=size, extractor=self._extractor)
        self.notes += self._faults.settle()

    def _found(self) -> set[str]:
        """The clips that samples may have by their ids: no other file is ever looked for, whatever an id says."""
        by_id = {"video_id", "clip_id"} <= self.column.keys()
        if self._clips_named and not by_id:
            mend = "name clips in a column clip, or leave out --clips"
            raise BadInput(f"{self.place}: no columns video_id and clip_id to find its clips in {self._clips}; {mend}")
        wanted = by_id and (self._clips_named or "clip" not in self.column)
        return places.files_under(self._clips, ".mp4") if wanted else set()

    def _id(self, row: Row, line: str) -> str:
        names = ("sample_id",) if "sample_id" in self.column else ("video_id", "clip_id")
        if any(row[name] is None for name in names):
            raise BadInput(f"{self.place}, {line}: no {' and '.join(names)}; every sample needs an id of its own")
        return identifier("_".join(str(row[name]) for name in names), f"{self.place}, {line}")

    def _sample(self, sample_id: str, row: Row, where: str) -> Sample:
        split = row.get("split", "test")
        if split not in SPLITS:
            raise BadInput(f"{where}: {shown(self.column['split'])} '{shown(split)}' is not one of {', '.join(SPLITS)}")
        unimodal = {m: self._label(column, row, sample_id, where) for m, column in UNIMODAL.items()}
        clip = self._clip(row, sample_id)
        return Sample(
            sample_id=sample_id,
            text=self._text(row, clip, sample_id),
            clip=clip,
            label=self._label("label", row, sample_id, where),
            split=split,
            unimodal={m: value for m, value in unimodal.items() if value is not None},
            audio=self._features("audio", row, sample_id, where),
            vision=self._features("vision", row, sample_id, where),
        )

    def _text(self, row: Row, clip: str | None, sample_id: str) -> str | None:
        """What the table says, else what lies beside the clip."""
        notes = self._faults.notes
        if row.get("text"):
            return words(str(row["text"]), sample_id, notes)
        try:
            text = transcript(clip) if clip else None
        except Unusable as error:
            notes.add(sample_id, error.fault, "taken without a transcript")
            text = None
        return words(text or "", sample_id, notes) if text is not None or "text" in row else None

    def _label(self, column: str, row: Row, sample_id: str, where: str) -> float | None:
        return label(row.get(column), column, self.score_range, sample_id, where, self._faults)

    def _clip(self, row: Row, sample_id: str) -> str | None:
        if row.get("clip"):
            return places.beside(self._home, whole(str(row["clip"]), "clip", sample_id, self._faults.notes))
        name = self._name(row)
        return places.within(self._clips, name) if name in self._footage else None

    def _name(self, row: Row) -> str:
        return f"{row.get('video_id')}/{row.get('clip_id')}.mp4"

    def _features(self, modality: str, row: Row, sample_id: str, where: str) -> np.ndarray | None:
        if row.get(modality) is None:
            return None
        try:
            values = self._read(modality, row[modality], row.get(f"{modality}_steps"))
        except Unusable as error:
            self._faults.lost(modality, sample_id, where, error, f"kept without {modality}")
            return None
        self._faults.used(modality)
        if len(values):
            self._widths[modality].add(values.shape[1], sample_id)
        return sequence(values, sample_id, modality, self._faults.notes)

    def _read(self, modality: str, values: np.ndarray | str, steps: float | None) -> np.ndarray:
        """A cell as (steps, size); raises `Unusable` for what is no such thing."""
        if isinstance(values, str):
            values = self._npy(modality, values)
        elif steps is not None:
            values = _stepped(modality, values, steps)
        if values.ndim not in (1, 2) or values.dtype.kind not in "fiu":
            fault = f"{modality} is not a sequence of steps with equally many numbers each"
            raise Unusable(fault, "give it one, or leave it empty")
        if values.size > MOST_NUMBERS:
            raise Unusable(f"{modality} has {values.size} numbers, more than {MOST_NUMBERS}", "cut it in pieces")
        values = values if values.ndim == 2 or not len(values) else values[None]
        if len(values) and not values.shape[1]:
            raise Unusable(f"{modality} has 0 numbers a step", "give it numbers, or leave it empty")
        return values

    def _npy(self, modality: str, name: str) -> np.ndarray:
        try:
            return read_npy(places.beside(self._home, name), MOST_NUMBERS)
        except (OSError, ValueError) as error:
            fault = f"{modality} {shown(name)} is not a .npy file of numbers ({places.reason(error)})"
            raise Unusable(fault, "write it with numpy.save") from None


def _columns(place: Place, there: list[str], named: dict[str, str]) -> dict[str, str]:
    """Our name to the file's, for the columns that are there."""
    has = f"it has {shown(', '.join(there), most=500)}"
    if unknown := [name for name in named if name not in SPELLINGS]:
        raise WrongUse(f"--column {unknown[0]}={named[unknown[0]]}: the names are {', '.join(SPELLINGS)}")
    if absent := [theirs for theirs in named.values() if theirs not in there]:
        raise BadInput(f"{place}: no column {absent[0]}; {has}")
    if twice := [name for name in there if name and there.count(name) > 1]:
        raise BadInput(f"{place}: two columns are called '{shown(twice[0])}'; give each a name of its own")
    column = {
        ours: spelling for ours, spellings in SPELLINGS.items() for spelling in spellings[::-1] if spelling in there
    } | named
    has = f"{has}; --column NAME=THEIRS says what a column is called"
    if "sample_id" not in column and not {"video_id", "clip_id"} <= column.keys():
        raise BadInput(f"{place}: no column sample_id, nor video_id and clip_id; {has}")
    if not column.keys() & {"text", "audio", "vision", "clip"}:
        raise BadInput(f"{place}: no column text, audio, vision or clip; {has}")
    return column


def _stepped(modality: str, values: np.ndarray, steps: float) -> np.ndarray:
    """Flat numbers as (steps, size); nested ones have their steps already."""
    if steps == 0:
        return np.empty((0, 0), np.float32)
    fits = 0 < steps <= values.size and steps % 1 == 0
    if not fits or values.size % steps or (values.ndim > 1 and len(values) != steps):
        fault = f"{modality}_steps {steps} does not divide its {values.size} numbers"
        raise Unusable(fault, "give how many steps it has")
    return values.reshape(int(steps), -1)
