"""What flows through the cascade: a sample in, two models' answers, one row of the outcome table out."""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import pyarrow as pa

from uacs.errors import BadInput


class Polarity(IntEnum):
    """The three classes by the paper's ids (Eq. 6); MMSA's own files number them otherwise."""

    NEUTRAL = 0
    NEGATIVE = 1
    POSITIVE = 2


STAGES = ("small", "large", "average", "verify")
"""The paper's ŷ1..ŷ4 (Eq. 13-16) by name; code that routes uses their positions."""

ANSWERED = ("ok", "clipped")
"""Statuses of a large model's answer that carry a score."""


@dataclass(frozen=True)
class Footage:
    """A decoded clip.

    frames (T, H, W, 3) uint8 RGB, or None where the clip shows nothing; times (T,) float64, when each
    frame is shown, in seconds; waveform (N,) float32 mono in [-1, 1] at sample_rate Hz, or None where
    the clip has no sound track. Of a clip that does not decode, fault says why, with the mend.
    """

    frames: np.ndarray | None
    times: np.ndarray
    waveform: np.ndarray | None
    sample_rate: int
    fault: str | None = None


def size_of(footage: Footage | None) -> int:
    """Bytes of its frames and sound."""
    arrays = (footage.frames, footage.waveform) if footage else ()
    return sum(array.nbytes for array in arrays if array is not None)


@dataclass(frozen=True)
class Sample:
    """One clip of one person speaking; any modality may be missing (None), but not all.

    text is the transcript; audio (T, d_a) and vision (T, d_v) are float32 feature sequences for the
    small model; clip is the path or URI of the footage for the large one, footage what has been decoded of it;
    label is in the dataset's range; unimodal holds what text, audio or vision alone were labelled, where a
    dataset says so (CH-SIMS).
    """

    sample_id: str
    text: str | None = None
    audio: np.ndarray | None = None
    vision: np.ndarray | None = None
    clip: str | None = None
    label: float | None = None
    split: str | None = None
    unimodal: dict[str, float] = field(default_factory=dict)
    footage: Footage | None = field(default=None, repr=False)


LONGEST_TEXT = 10_000
"""Characters of a transcript that a model reads at most: some ten minutes of speech."""


def transcript(sample: Sample) -> str | None:
    """What a model reads of a sample's text: whole characters, the first 10,000; None where it says nothing.

    Raises `BadInput`, naming the sample, for what is no text.
    """
    text = sample.text
    if text is None:
        return None
    if not isinstance(text, str):
        raise BadInput(f"sample '{sample.sample_id}': text is of type {type(text).__name__}; give it words, or None")
    return readable(text[:LONGEST_TEXT]) if text.strip() else None


def readable(text: str) -> str:
    r"""Text that any tokenizer and table takes: halves of a character (surrogates) joined, a lone one as U+FFFD.

    >>> readable("\ud83d\ude00 and \ud800") == "\U0001f600 and \ufffd"
    True
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


@dataclass(frozen=True)
class SmallOutput:
    """The UBM's answer: score y, uncertainty u (nats for CBE), probabilities p (3,) by `Polarity`.

    told is u as a large model is told of it, in nats; where it is None, u is that. A sample that could not be read has
    `error` set and NaN elsewhere.
    """

    y: float
    u: float
    p: tuple[float, float, float]
    seconds: float = 0.0
    error: str | None = None
    signals: dict[str, float] = field(default_factory=dict)
    told: float | None = None


TOLD = "told"
"""Among an outcome's signals: u_small as stage 3 was told of it, where it is another number."""


@dataclass(frozen=True)
class LargeOutput:
    """A large model's answer in stage 2 or 3: score y, uncertainty u in nats, and how it came about.

    status is not_asked, ok, clipped (the score lay outside the range and was set to its end),
    unparsable, timeout or unavailable; y and u are NaN unless it is ok or clipped.
    """

    y: float = float("nan")
    u: float = float("nan")
    status: str = "not_asked"
    seconds: float = float("nan")
    error: str | None = None
    signals: dict[str, float] = field(default_factory=dict)


NOT_ASKED = LargeOutput()


@dataclass(frozen=True)
class Decision:
    """Who settles each sample, as arrays of one shape, usually (N,).

    stage and answer_from are positions in `STAGES`, -1 where the small model failed; prediction is
    NaN there; degraded marks samples that were due for the large model and got no score from it.
    """

    stage: np.ndarray
    answer_from: np.ndarray
    prediction: np.ndarray
    degraded: np.ndarray


OUTCOME_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("label", pa.float64()),
        pa.field("y_small", pa.float64()),
        pa.field("u_small", pa.float64()),
        pa.field("p_small", pa.list_(pa.float64())),
        pa.field("y_large", pa.float64()),
        pa.field("u_large", pa.float64()),
        pa.field("large_status", pa.string(), nullable=False),
        pa.field("y_verify", pa.float64()),
        pa.field("u_verify", pa.float64()),
        pa.field("verify_status", pa.string(), nullable=False),
        pa.field("signals", pa.map_(pa.string(), pa.float64())),
        pa.field("stage", pa.string()),
        pa.field("answer_from", pa.string()),
        pa.field("prediction", pa.float64()),
        pa.field("seconds_small", pa.float64()),
        pa.field("seconds_large", pa.float64()),
        pa.field("seconds_verify", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)
"""The outcome table: one row a sample, all that an evaluation learns about it."""
