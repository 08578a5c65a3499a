"""What every source of samples gives, and the checks that all of them share.

A source is read once, from front to end, and holds no more than a few hundred samples at a time. What is wrong with
one sample is noted and costs that sample (`faults.py`); what is wrong with the file is refused.
"""

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from uacs.data.faults import Faults, SampleNotes, Unusable
from uacs.data.prepared import FeatureInfo
from uacs.errors import BadInput, shown
from uacs.records import LONGEST_TEXT, Sample, readable

LONGEST_ID = 500
UNSCORED = "kept without a label, so it is answered and not scored"


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


def label(
    value: object, column: str, score_range: tuple[float, float], sample_id: str, where: str, faults: Faults
) -> float | None:
    """A label as a float; None, with a note, where it is no number in the range.

    Raises `BadInput`, in the end, if no label is a number (the wrong column), or more than half of the numbers lie
    outside the range (another dataset's rules).
    """
    then = UNSCORED if column == "label" else f"kept without {column}"
    try:
        number = score(value)
    except Unusable as error:
        faults.lost(column, sample_id, where, error, then)
        return None
    if number is None:
        return None
    faults.used(column)
    low, high = score_range
    if not low <= number <= high:
        fault = Unusable(f"label {shown(value)} lies outside [{low:g}, {high:g}]", "is --dataset right?")
        faults.lost(column, sample_id, where, fault, then, enough=0.5)
        return None
    faults.used(column, enough=0.5)
    return number


def score(value: object) -> float | None:
    """A score as a float; None where there is none. A float32 is taken as the decimal number it stands for.

    Raises `Unusable` for what is no number.

    >>> score(np.float32(0.2))
    0.2
    """
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if value is None or value == "" or (isinstance(value, float | np.floating) and math.isnan(value)):
        return None
    try:
        number = float(str(value)) if isinstance(value, str | int | float | np.number) else math.nan
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise Unusable(f"label '{shown(value)}' is not a number", "write a score or leave it empty")
    return number


def words(text: str, sample_id: str, notes: SampleNotes) -> str | None:
    """A sample's text without halves of characters; None where it says nothing. Notes name what is not as it was."""
    text = whole(text, "text", sample_id, notes).strip()
    if not text:
        notes.add(sample_id, "text is empty", "taken as missing", minor=True)  # any modality may be missing
    if len(text) > LONGEST_TEXT:
        notes.add(sample_id, f"text has {len(text)} characters", f"the models read at most the first {LONGEST_TEXT}")
    return text or None


def whole(text: str, column: str, sample_id: str, notes: SampleNotes) -> str:
    """Text without halves of characters, with a note where there are some."""
    mended = readable(text)
    if mended != text:
        notes.add(sample_id, f"{column} has halves of characters", "joined, or U+FFFD stands there")
    return mended


def sequence(values: np.ndarray, sample_id: str, modality: str, notes: SampleNotes) -> np.ndarray | None:
    """Features as float32 (T, size), or None and a note where they hold nothing or what is no number."""
    try:
        return finite(values, modality)
    except Unusable as error:
        notes.add(sample_id, error.fault, f"kept without {modality}")
        return None


def finite(values: np.ndarray, modality: str) -> np.ndarray:
    """Features as float32 (T, size); raises `Unusable` for none, and for NaN or infinity in float32."""
    with np.errstate(over="ignore"):
        values = np.asarray(values, np.float32)
    if not len(values):
        raise Unusable(f"{modality} has 0 steps", f"leave the sample out to run it without {modality}")
    if bad := int((~np.isfinite(values)).sum()):
        fault = f"{bad} of {values.size} numbers of {modality} are NaN or infinite"
        raise Unusable(fault, "mend or leave out the sample")
    return values
