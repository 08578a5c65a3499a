"""The small model's features, computed from footage: named, so that a UBM knows whose features it reads.

A UBM trained on one extractor's features must never meet another's, so the name travels with them:
change what an extractor computes and its name changes too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from uacs.data.media import Footage

Features = tuple[np.ndarray | None, np.ndarray | None]

BASIC = "uacs-basic-1"

WINDOW = 0.05  # seconds of sound a step
QUIET = 1e-6  # energy below which all is silence: -60 dB


@dataclass(frozen=True)
class Extractor:
    """One way to compute features; `function` does it, the rest is what a dataset says about them."""

    name: str
    audio_size: int
    vision_size: int
    function: Callable[[Footage], Features]

    @property
    def sizes(self) -> dict[str, int]:
        """Feature size by modality."""
        return {"audio": self.audio_size, "vision": self.vision_size}

    def extract(self, footage: Footage) -> Features:
        """audio (T, audio_size) and vision (T, vision_size), float32 and finite; None where it is missing."""
        return self.function(footage)


def basic(footage: Footage) -> Features:
    """Loudness; brightness and movement: cheap on purpose, so that a large model has something to add.

    audio (T, 1): log energy of each 50 ms. vision (T, 3): per frame mean brightness in [0, 1], and how
    far the brightness' centroid moved since the frame before, down or up, left or right, as fractions
    of the picture.
    """
    audio = None if footage.waveform is None else _log_energy(footage.waveform, footage.sample_rate)
    vision = None if footage.frames is None else _brightness_and_movement(footage.frames)
    return audio, vision


EXTRACTORS: dict[str, Extractor] = {BASIC: Extractor(BASIC, audio_size=1, vision_size=3, function=basic)}


def _log_energy(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """(T, 1): a clip shorter than one window is one step, otherwise an unfinished last window is dropped."""
    window = min(round(WINDOW * sample_rate), len(waveform))
    steps = len(waveform) // window
    energy = np.square(waveform[: steps * window].reshape(steps, window)).mean(axis=1)
    return np.log(energy + QUIET).astype(np.float32)[:, None]


def _brightness_and_movement(frames: np.ndarray) -> np.ndarray:
    """(T, 3); the first frame has not moved, and the centroid of a black one is its middle."""
    seen = np.array([_brightness_and_centroid(frame) for frame in frames])  # (T, 3): brightness, down, right
    seen[:, 1:] = np.abs(np.diff(seen[:, 1:], axis=0, prepend=seen[:1, 1:]))
    return seen.astype(np.float32)


def _brightness_and_centroid(frame: np.ndarray) -> tuple[float, float, float]:
    rows = frame.sum(axis=(1, 2), dtype=np.int64)
    columns = frame.sum(axis=(0, 2), dtype=np.int64)
    total = rows.sum()
    return total / (frame.size * 255), _centroid(rows, total), _centroid(columns, total)


def _centroid(mass: np.ndarray, total: int) -> float:
    """Where the mass lies between 0 and 1."""
    places = (np.arange(len(mass)) + 0.5) / len(mass)
    return float(mass @ places / total) if total else 0.5
