"""What every source of samples gives, and the checks that all of them share.

A source is read once, from front to end, and holds no more than a few hundred samples at a time.
"""

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from uacs.data.prepared import FeatureInfo
from uacs.errors import BadInput, shown
from uacs.records import Sample

LONGEST_ID = 500


class Source(Protocol):
    """Samples in the order of the file. What the other attributes say is complete once they are read.

    count is how many there are, None where only reading tells. provides names the modalities that come as
    numbers, features says size and extractor of each; notes, one line each, what was passed over or mended.
    """

    count: int | None
    provides: set[str]
    features: dict[str, FeatureInfo]
    notes: list[str]

    def __iter__(self) -> Iterator[Sample]:
        """Raises `BadInput`, naming file and sample, for what is not as it must be."""


def identifier(text: str, where: str) -> str:
    """An id as every message, file name and table after this may hold it; raises `BadInput` for any other."""
    if not text or not text.isprintable() or len(text) > LONGEST_ID:
        raise BadInput(f"{where}: id '{shown(text)}' is empty, too long or has control characters; give it a plain one")
    return text


def score(value: object, score_range: tuple[float, float], where: str) -> float | None:
    """A label as a float; None where there is none. A float32 is taken as the decimal number it stands for.

    >>> score(np.float32(0.2), (-1, 1), "sample 'a'")
    0.2
    """
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if value is None or value == "" or (isinstance(value, float | np.floating) and math.isnan(value)):
        return None
    low, high = score_range
    try:
        label = float(str(value)) if isinstance(value, str | int | float | np.number) else math.nan
    except ValueError:
        label = math.nan
    if math.isnan(label):
        raise BadInput(f"{where}: label '{shown(value)}' is not a number; write a score or leave it empty")
    if not low <= label <= high:
        raise BadInput(f"{where}: label {shown(value)} lies outside [{low:g}, {high:g}]; is --dataset right?")
    return label


def sequence(values: np.ndarray, sample_id: str, modality: str) -> tuple[np.ndarray | None, str | None]:
    """Features as float32 (T, size), or None and a note where they cannot be used."""
    values = np.asarray(values, np.float32)
    if not len(values):
        return None, f"sample '{sample_id}': {modality} has 0 steps; kept without {modality}"
    if bad := int((~np.isfinite(values)).sum()):
        return None, f"sample '{sample_id}': {bad} numbers of {modality} are NaN or infinite; kept without {modality}"
    return values, None
