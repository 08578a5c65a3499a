"""Samples into parts: 256 of a split at a time, their features joined or computed, written aside and renamed."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from uacs.data import places
from uacs.data.clips import ClipPool
from uacs.data.extract import Wanted, extractor
from uacs.data.faults import SampleNotes
from uacs.data.features import FeatureFile
from uacs.data.prepared import PART_ROWS, FeatureInfo, PartInfo, write_part
from uacs.data.speech import Recogniser
from uacs.errors import BadInput, Refused
from uacs.records import Sample

LATER_ROWS = 32
"""Samples of a part whose clips are looked at later: eight frames of 720p of each are 700 MB."""


class PartWriter:
    """Writes SPLIT-NNNNN.parquet, in the order in which samples are added; a context.

    `files` are features to join by sample id; `computed` names by modality the extractor
    that makes them of the clips, or is to make them `later`: then parts are small, since what is made of them is held
    at once, and say of each clip how it was found. The new folder `out` appears when the context is left, whole; not
    by an exception. A recogniser writes down what is said in clips that come without a transcript.
    """

    def __init__(
        self,
        out: Path,
        files: dict[str, FeatureFile],
        computed: dict[str, str],
        pool: ClipPool,
        later: bool,
        recogniser: Recogniser | None = None,
    ):
        self.out, self.files, self.computed, self.later = out, files, computed, later
        self.parts: dict[str, PartInfo] = {}
        self.notes: list[str] = []
        self._samples = SampleNotes()
        self.written, self.largest_label = 0, 0.0
        self.unlabelled: dict[str, int] = {}
        self._waiting: dict[str, list[Sample]] = {}
        self._joined = dict.fromkeys(files, 0)
        self._first: str | None = None
        self._clips_seen = False
        self._pool, self._recogniser, self._heard = pool, recogniser, 0
        self._aside = out.absolute().with_name(f".{out.absolute().name}.partial")

    def __enter__(self) -> "PartWriter":
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            there = "not empty" if self.out.is_dir() else "a file lies there"
            raise Refused(f"{self.out}: {there}; name a new folder")
        shutil.rmtree(self._aside, ignore_errors=True)  # of a preparation that was killed
        self._aside.mkdir(parents=True)
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind:
            shutil.rmtree(self._aside, ignore_errors=True)
        else:
            os.replace(self._aside, self.out)

    def add(self, sample: Sample) -> bool:
        """Take one sample; returns whether that completed a part."""
        split = sample.split or "test"
        self._first = self._first or sample.sample_id
        self.largest_label = max(self.largest_label, abs(sample.label or 0.0))
        self._waiting.setdefault(split, []).append(self._with_files(sample))
        self._clips_seen |= bool(self.computed and sample.clip)
        full = len(self._waiting[split]) >= (LATER_ROWS if self.later and self._clips_seen else PART_ROWS)
        if full:
            self._write(split)
        return full

    def describe(self, description: str) -> None:
        """Write dataset.json."""
        (self._aside / "dataset.json").write_text(description + "\n")

    def finish(self) -> None:
        """Write what is left; raises `BadInput` for a feature file of which no id was ever met."""
        for split in sorted(self._waiting):
            self._write(split)
        self.notes += self._samples.lines()
        if self._heard:
            self.notes.append(f"{self._heard} transcripts are what a speech recogniser heard")
        some = {split: count for split, count in self.unlabelled.items() if count}
        self.notes += [f"{count} samples of split {split} have no label" for split, count in some.items()]
        for modality, file in self.files.items():
            without = self.written - self._joined[modality]
            if without == self.written:
                example = next(iter(file.by_id), "nothing")
                raise BadInput(f"{file.path}: no id matches; it has '{example}', the samples have '{self._first}'")
            if without:
                self.notes.append(f"{without} of {self.written} samples have no {modality} in {file.path}")

    def features(self) -> dict[str, FeatureInfo]:
        """What was joined and computed here."""
        joined = {m: FeatureInfo(size=f.size, extractor=f.extractor) for m, f in self.files.items()}
        made = {m: extractor(spec) for m, spec in self.made.items()}
        return joined | {m: FeatureInfo(size=of.sizes[m], extractor=of.name) for m, of in made.items()}

    @property
    def made(self) -> dict[str, str]:
        """What is computed of clips, here or later: by modality the extractor's SPEC."""
        return self.computed if self._clips_seen else {}

    def _with_files(self, sample: Sample) -> Sample:
        found: dict[str, Any] = {m: file.by_id.get(sample.sample_id) for m, file in self.files.items()}
        for modality, values in found.items():
            self._joined[modality] += values is not None
            if fault := self.files[modality].faults.get(sample.sample_id):
                self._samples.add(sample.sample_id, fault, f"kept without {modality}")
        return replace(sample, **found)

    def _write(self, split: str) -> None:
        samples = self._with_computed(self._waiting.pop(split))
        for s in samples:
            self.unlabelled[split] = self.unlabelled.get(split, 0) + (s.label is None)
            if s.text is None and s.audio is None and s.vision is None and s.clip is None:
                self._samples.add(s.sample_id, "no text, features or clip", "nobody can answer it")
        name = f"{split}-{sum(part.startswith(f'{split}-') for part in self.parts):05d}.parquet"
        stamps = [s.clip and places.stamp(s.clip) for s in samples] if self.later else None
        self.parts[name] = write_part(self._aside, name, samples, stamps)
        self.written += len(samples)

    def _with_computed(self, samples: list[Sample]) -> list[Sample]:
        if self.later or not (self.computed or self._recogniser) or not any(s.clip for s in samples):
            return samples
        looked = self._pool.look_at(samples, Wanted(self.computed, listened=self._recogniser is not None))
        for sample in looked:
            if sample.footage and sample.footage.fault:
                then = f"kept without {' and '.join(self.computed) or 'a transcript'}"
                self._samples.add(sample.sample_id, sample.footage.fault, then)
        return self._written_down(looked)

    def _written_down(self, samples: list[Sample]) -> list[Sample]:
        if self._recogniser is None:
            return samples
        heard = self._recogniser.written_down(samples)
        self._heard += sum(after.text != before.text for before, after in zip(samples, heard, strict=True))
        return [
            sample if sample.footage and sample.footage.fault else replace(sample, footage=None) for sample in heard
        ]
