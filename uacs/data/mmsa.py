"""The field's own files: the pickles of MOSI, MOSEI, SIMS and SIMS v2 as MMSA and MMSA-FET write them.

    {"train", "valid", "test"} -> id, raw_text, text_bert, audio, audio_lengths, vision, vision_lengths,
                                  regression_labels, and for SIMS regression_labels_T, _A, _V

Shapes are those of the arrays, lengths those of the file. Aligned files have none: there a sequence is as
long as the sentence's tokens (`text_bert`), as MMSA's models have it. Token ids and BERT features are not
taken over, since the UBM tokenises `raw_text` itself. Arrays are read a few hundred rows at a time.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from uacs.data import places, unpickle
from uacs.data.faults import Faults, Unusable
from uacs.data.prepared import MODALITIES, UNIMODAL, FeatureInfo
from uacs.data.source import identifier, label, sequence, words
from uacs.data.unpickle import Array
from uacs.errors import BadInput, shown
from uacs.records import Sample

SPLIT_NAMES = {"train": ("train",), "valid": ("valid", "dev"), "test": ("test",)}
LABELS = "regression_labels"
UNIMODAL_LABELS = {"text": f"{LABELS}_T", "audio": f"{LABELS}_A", "vision": f"{LABELS}_V"}
JOINT = "$_$"  # between video and clip in an id
BATCH = 256
MOST_ID_WORDS = 8

Column = list | tuple | np.ndarray


class MmsaPickle:
    """The samples of a pickle; clips are `clips`/VIDEO_ID/CLIP_ID.mp4, by default in Raw beside or above the file."""

    def __init__(
        self,
        path: Path,
        dataset: str,
        score_range: tuple[float, float],
        clips: Path | None = None,
        extractor: str | None = None,
    ):
        self.path, self.score_range = path, score_range
        content = unpickle.load(path)
        self.splits = {name: _Split(path, name, values) for name, values in _splits(path, content).items()}
        self.count: int | None = sum(split.rows for split in self.splits.values())
        self.features = self._sizes(dataset, extractor)
        self.provides = set(self.features)
        self.notes: list[str] = []
        self._faults = Faults()
        self._unheard = dict.fromkeys(self.features, 0)  # samples with -inf, the logarithm of silence
        self._named, self._found = clips is not None, 0
        folders = [clips] if clips else [path.parent / "Raw", path.parent.parent / "Raw"]
        self.clips = next((folder for folder in folders if folder.is_dir()), None)
        self._footage = places.files_under(self.clips, ".mp4") if self.clips else set()

    def __iter__(self) -> Iterator[Sample]:
        seen: dict[str, str] = {}
        for name, split in self.splits.items():
            if split.labels is None:
                self.notes.append(f"{self.path}, split '{name}': no {LABELS}; nothing can be learned or scored")
            for start in range(0, split.rows, BATCH):
                for sample in self._batch(split, start, min(start + BATCH, split.rows)):
                    if sample.sample_id in seen:
                        raise BadInput(
                            f"{self.path}, split '{name}', sample '{sample.sample_id}': stands in split "
                            f"'{seen[sample.sample_id]}' already; keep one of them"
                        )
                    seen[sample.sample_id] = name
                    yield sample
        self.notes += self._faults.settle()
        self.notes += [
            f"{modality} of {count} samples has -inf; 0 stands there, as in MMSA"
            for modality, count in self._unheard.items()
            if count
        ]
        self.notes += [split.note for split in self.splits.values() if split.note]
        if self._named and not self._found:
            self.notes.append(f"0 of {self.count} samples have a clip in {self.clips}")

    def _batch(self, split: "_Split", start: int, stop: int) -> Iterator[Sample]:
        arrays = {modality: array.rows(start, stop) for modality, array in split.arrays.items()}
        for i in range(start, stop):
            sample_id, clip = _names(split.ids[i], f"{split.where}, row {i}")
            self._found += clip in self._footage
            where = f"{split.where}, sample '{sample_id}'"
            features = {
                modality: self._sequence(modality, rows[i - start], split, i, sample_id)
                for modality, rows in arrays.items()
            }
            unimodal = {m: self._label(v[i], UNIMODAL[m], sample_id, where) for m, v in split.unimodal.items()}
            yield Sample(
                sample_id=sample_id,
                text=self._text(split.texts[i], sample_id, where) if split.texts is not None else None,
                clip=places.within(self.clips, clip) if self.clips and clip in self._footage else None,
                label=None if split.labels is None else self._label(split.labels[i], "label", sample_id, where),
                split=split.name,
                unimodal={m: value for m, value in unimodal.items() if value is not None},
                audio=features.get("audio"),
                vision=features.get("vision"),
            )

    def _label(self, value: Any, column: str, sample_id: str, where: str) -> float | None:
        return label(value, column, self.score_range, sample_id, where, self._faults)

    def _text(self, value: Any, sample_id: str, where: str) -> str | None:
        if value is not None and not isinstance(value, str | bytes):
            error = Unusable(f"raw_text is a {type(value).__name__}", "expected words")
            self._faults.lost("raw_text", sample_id, where, error, "kept without text")
            return None
        self._faults.used("raw_text")
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""
        if isinstance(value, bytes) and text.encode() != value:
            self._faults.notes.add(sample_id, "raw_text has bytes that are not UTF-8", "U+FFFD stands there")
        return words(text, sample_id, self._faults.notes)

    def _sequence(
        self, modality: str, steps: np.ndarray, split: "_Split", row: int, sample_id: str
    ) -> np.ndarray | None:
        try:
            length = split.length(modality, row)
        except Unusable as error:
            where = f"{split.where}, sample '{sample_id}'"
            self._faults.lost(modality, sample_id, where, error, f"kept without {modality}")
            return None
        self._faults.used(modality)
        steps = steps.reshape(-1, steps.shape[-1])[:length]
        if (unheard := steps == -np.inf).any():
            self._unheard[modality] += 1
            steps = np.where(unheard, 0, steps)
        return sequence(steps, sample_id, modality, self._faults.notes)

    def _sizes(self, dataset: str, extractor: str | None) -> dict[str, FeatureInfo]:
        """Features that nobody names are known by dataset and alignment: MMSA has one way to make each."""
        features: dict[str, FeatureInfo] = {}
        for split in self.splits.values():
            way = "aligned" if split.aligned else "unaligned"
            for modality, array in split.arrays.items():
                info = FeatureInfo(size=array.shape[-1], extractor=extractor or f"mmsa-{dataset}-{way}")
                if features.setdefault(modality, info) != info:
                    was = features[modality]
                    raise BadInput(
                        f"{self.path}, split '{split.name}': {modality} is {info.extractor} of size {info.size}, in "
                        f"another split {was.extractor} of size {was.size}; a file holds features of one kind"
                    )
        return features


class _Split:
    """One split's columns, their lengths checked against its ids."""

    def __init__(self, path: Path, name: str, content: Any):
        self.name, self.where, self.note = name, f"{path}, split '{name}'", ""
        if not isinstance(content, dict):
            raise BadInput(f"{self.where}: not a dictionary of arrays, so not MMSA's layout")
        if "id" not in content:
            raise BadInput(f"{self.where}: no id; it has {shown(', '.join(map(str, content)), 200)}")
        self.ids = _column(content["id"])
        self.rows = len(self.ids)
        if "raw_text" not in content and "text_bert" in content:
            raise BadInput(
                f"{self.where}: text_bert without raw_text; the UBM tokenises the words itself and needs them"
            )
        self.texts = self._listed(content, "raw_text")
        self.labels = self._listed(content, LABELS)
        self.unimodal = {
            m: values for m, key in UNIMODAL_LABELS.items() if (values := self._listed(content, key)) is not None
        }
        self.arrays = {m: self._features(content[m], m) for m in MODALITIES if content.get(m) is not None}
        self.lengths = {m: self._listed(content, f"{m}_lengths") for m in self.arrays}
        self.tokens = self._tokens(content.get("text_bert"))
        if self.texts is None and not self.arrays:
            raise BadInput(
                f"{self.where}: no raw_text, audio or vision; it has {shown(', '.join(map(str, content)), 200)}"
            )

    @property
    def aligned(self) -> bool:
        """Whether no modality says its lengths: such files have a step a token, padded as the tokens are."""
        return all(lengths is None for lengths in self.lengths.values())

    def length(self, modality: str, row: int) -> int:
        """The steps of a row that are not padding; raises `Unusable` for a length that cannot be."""
        shape, lengths = self.arrays[modality].shape, self.lengths[modality]
        most = shape[1] if len(shape) == 3 else 1
        steps = self.tokens if lengths is None else lengths
        if steps is None or len(shape) == 2:
            return most
        length = steps[row]
        whole = isinstance(length, int | np.integer) or (
            isinstance(length, float | np.floating) and length == length // 1
        )
        if not whole or not 0 <= length <= most:
            raise Unusable(f"{modality} has a length of {shown(length)}, of {most} steps", "give the steps it has")
        return int(length)

    def _listed(self, content: dict, key: str) -> Column | None:
        if content.get(key) is None:
            return None
        values = _column(content[key])
        if len(values) != self.rows:
            raise BadInput(f"{self.where}: {key} has {len(values)} entries for {self.rows} ids")
        return values

    def _features(self, array: Any, modality: str) -> Array:
        good = isinstance(array, Array) and len(array.shape) in (2, 3) and array.dtype.kind in "fiu"
        if not good or array.shape[0] != self.rows or 0 in array.shape[1:]:
            what = f"{array.dtype} {array.shape}" if isinstance(array, Array) else type(array).__name__
            raise BadInput(f"{self.where}: {modality} is {what}; expected numbers ({self.rows}, steps, size)")
        return array

    def _tokens(self, text_bert: Any) -> np.ndarray | None:
        """Tokens of each sentence, where they stand for the lengths: the sum of text_bert's mask, its second row."""
        without = [m for m, lengths in self.lengths.items() if lengths is None and len(self.arrays[m].shape) == 3]
        if not without:
            return None
        if not self.aligned:
            raise BadInput(f"{self.where}: no {without[0]}_lengths, though another modality has its own; add them")
        steps = {self.arrays[m].shape[1] for m in without}
        masked = isinstance(text_bert, Array) and text_bert.dtype.kind in "fiu" and len(text_bert.shape) == 3
        if masked and steps == {text_bert.shape[2]} and text_bert.shape[:2] == (self.rows, 3):
            return text_bert.read()[:, 1].sum(axis=-1)
        self.note = f"{self.where}: neither lengths nor a text_bert of as many tokens; all steps are read, padding too"
        return None


def _splits(path: Path, content: Any) -> dict[str, Any]:
    """The splits that are there, by our names."""
    names = list(content) if isinstance(content, dict) else []
    found = {ours: theirs for ours, spellings in SPLIT_NAMES.items() for theirs in spellings if theirs in names}
    if not found:
        has = f"it has {shown(', '.join(map(str, names)), 200)}" if names else f"it is a {type(content).__name__}"
        raise BadInput(f"{path}: no split train, valid or test, so not MMSA's layout; {has}")
    if {"valid", "dev"} <= set(names):
        raise BadInput(f"{path}: both valid and dev are there; keep one of them")
    return {ours: content[theirs] for ours, theirs in found.items()}


def _column(values: Any) -> Column:
    """A list, tuple or array as something to index by row."""
    if isinstance(values, Array):
        return values.read() if values.shape else []
    return values if isinstance(values, list | tuple) else []


def _names(value: Any, where: str) -> tuple[str, str]:
    """A sample's id as label.csv would have it, and where its clip lies in Raw."""
    value = value.read() if isinstance(value, Array) else value
    words = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
    if len(words) > MOST_ID_WORDS or not all(isinstance(word, str | bytes | int | np.integer) for word in words):
        raise BadInput(f"{where}: id is {shown(value)}; expected text, as video{JOINT}clip")
    name = identifier("_".join(_str(word) for word in words), where)
    video, _, clip = name.rpartition(JOINT)
    return name.replace(JOINT, "_"), f"{video}/{clip}.mp4"


def _str(value: Any) -> str:
    """An id's text that a table can hold: of bytes and of halves of characters what can be read."""
    return (
        value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value).encode(errors="replace").decode()
    )


def video_of(sample_id: str) -> str:
    """The video that a sample was cut from: VIDEO of VIDEO_NUMBER, as data are prepared, or of MMSA's VIDEO$_$CLIP.

    Of any other id all of it.

    >>> video_of("2iD-tVS8NPw_12"), video_of("video_0001_0004"), video_of("a_b$_$c_1"), video_of("by_itself")
    ('2iD-tVS8NPw', 'video_0001', 'a_b', 'by_itself')
    """
    video, joint, _ = sample_id.partition(JOINT)
    if joint:
        return video
    video, _, clip = sample_id.rpartition("_")
    return video if video and clip.isdecimal() else sample_id
