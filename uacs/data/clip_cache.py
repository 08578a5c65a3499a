"""Features of clips, kept for the next time: a clip is the same while its place, its size and its time of change are.

What is kept is a file of arrays for each clip and set of extractors, in a folder that pyarrow reaches; whoever finds
one that cannot be read looks at the clip instead. Frames and sound are not kept: they are as large as the footage.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from zipfile import BadZipFile

import numpy as np

from uacs.data import places
from uacs.data.extract import extractor
from uacs.data.places import Place
from uacs.records import Sample


class ClipCache:
    """The features that were kept in a folder."""

    def __init__(self, folder: Place):
        self.folder = folder

    def get(self, sample: Sample, extract: Mapping[str, str]) -> Sample | None:
        """The sample with the features of its clip, by modality of the extractor with that SPEC; None if not kept."""
        place = self._place(sample, extract)
        if place is None:
            return None
        try:
            with np.load(io.BytesIO(places.read(place)), allow_pickle=False) as kept:
                found: dict[str, Any] = {modality: kept[modality] for modality in kept.files}
        except (OSError, ValueError, EOFError, KeyError, BadZipFile):  # there is none, or it is no whole one
            return None
        features: dict[str, Any] = {m: found.get(m) for m in extract if getattr(sample, m) is None}
        return replace(sample, **features)

    def put(self, sample: Sample, extract: Mapping[str, str]) -> None:
        """Keep the features of a sample's clip; a folder that takes nothing is none of the sample's trouble."""
        place = self._place(sample, extract)
        if place is None:
            return
        content = io.BytesIO()
        arrays = {m: getattr(sample, m) for m in extract if getattr(sample, m) is not None}
        np.savez(content, **arrays)
        try:
            places.write(place, content.getvalue())
        except OSError:
            return

    def _place(self, sample: Sample, extract: Mapping[str, str]) -> str | None:
        """Where a clip's features belong; None for one that is not there now."""
        stamp = places.stamp(str(sample.clip))
        if stamp is None:
            return None
        names = {modality: extractor(spec).name for modality, spec in sorted(extract.items())}
        key = hashlib.sha256(json.dumps([str(sample.clip), stamp, names]).encode()).hexdigest()
        return places.within(self.folder, f"{key[:2]}/{key}.npz")
