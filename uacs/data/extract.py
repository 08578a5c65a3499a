"""The small model's features, computed from footage: named, so that a UBM knows whose features it reads.

    basic                 audio, vision     loudness; brightness and movement: nothing to install
    egemaps, compare      audio             openSMILE's low-level descriptors (`smile.py`)
    face:FILE, pose:FILE  vision            MediaPipe's blendshapes or landmarks, by that model (`landmarks.py`)

A UBM trained on one extractor's features must never meet another's, so the extractor's name travels with them:
change what it computes and its name changes too. Frames are looked at as they are decoded, one at a time,
so that a clip may be an hour long; of those that the large model is to see, `find` keeps some on the way.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from uacs.data.media import Limits, decode
from uacs.errors import WrongUse, shown
from uacs.records import Footage

BASIC = "basic"
BUILT_IN = (BASIC, "egemaps", "compare")
"""Extractors that need no file."""

WINDOW = 0.05  # seconds of sound a step
QUIET = 1e-6  # energy below which all is silence: -60 dB

Features = dict[str, np.ndarray | None]
"""By modality float32 and finite (T, size), None where it is missing."""


class Extraction(Protocol):
    """Features of one clip in the making."""

    def see(self, picture: np.ndarray, seconds: float) -> None:
        """Look at the next frame, (H, W, 3) uint8 RGB, and when it is shown; only if the extractor looks."""

    def features(self, waveform: np.ndarray | None, sample_rate: int) -> Features:
        """Of what was seen, and of the sound."""


@dataclass(frozen=True)
class Extractor:
    """One way to compute features; `begin` does it for a clip, the rest is what a dataset says about them."""

    name: str
    sizes: Mapping[str, int]
    begin: Callable[[], Extraction]
    looks: bool = True

    def extract(self, footage: Footage) -> Features:
        """The features of a decoded clip."""
        extraction = self.begin()
        if footage.frames is not None and self.looks:
            for picture, seconds in zip(footage.frames, footage.times, strict=True):
                extraction.see(picture, float(seconds))
        return extraction.features(footage.waveform, footage.sample_rate)


@cache
def extractor(spec: str) -> Extractor:
    """The extractor that a SPEC names; raises `WrongUse` for none, `BadInput` where its file is missing.

    Whether its package is there is seen when it begins, which raises `BadInput` where it is not.
    """
    kind, _, file = spec.partition(":")
    if spec == BASIC:
        return Extractor("uacs-basic-2", {"audio": 1, "vision": 3}, Basic)
    if spec in BUILT_IN:
        from uacs.data import smile

        sizes = {"audio": smile.SETS[spec][1]}
        return Extractor(f"opensmile-{spec}-lld-1", sizes, lambda: smile.Smile(spec), looks=False)
    if kind in ("face", "pose") and file:
        from uacs.data import landmarks

        name = f"mediapipe-{kind}-1-{landmarks.fingerprint(file)}"
        return Extractor(name, {"vision": landmarks.SIZES[kind]}, lambda: landmarks.Landmarks(kind, file))
    raise WrongUse(f"extractor '{shown(spec)}' is none of {', '.join(BUILT_IN)}, face:FILE, pose:FILE")


def specs_of(names: Mapping[str, str], given: Iterable[str] = ()) -> dict[str, str]:
    """By modality the SPEC of the extractor that has such a name, of the built-in ones and those given.

    Modalities whose features no program of ours computes, or one that was not given, are left out. Raises `WrongUse`
    for one that was given and has none of these names.

    >>> specs_of({"audio": "uacs-basic-2", "vision": "openface"})
    {'audio': 'basic'}
    """
    known = {extractor(spec).name: spec for spec in BUILT_IN}
    for spec in given:
        name = extractor(spec).name
        if name not in names.values():
            raise WrongUse(f"extractor {spec}: it makes {name}, and the UBM reads {', '.join(names.values())}")
        known[name] = spec
    return {modality: known[name] for modality, name in names.items() if name in known}


def absolute_spec(spec: str) -> str:
    """The same for a process with another working directory."""
    kind, mark, file = spec.partition(":")
    return f"{kind}:{Path(file).absolute()}" if mark else spec


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a clip: features by modality, each of an extractor's SPEC, and so many frames and the sound.

    Without either, no more than to know that it is a clip. `listened` says that the sound is wanted for a transcript,
    even where no frames are.
    """

    extract: Mapping[str, str] = field(default_factory=dict)
    frames: int | None = None
    listened: bool = False

    @property
    def kept(self) -> int | None:
        """Frames of the footage; None where there is to be none."""
        return 0 if self.listened and self.frames is None else self.frames


@dataclass(frozen=True)
class Found:
    """What was wanted of a clip; the footage is None where none was."""

    features: Features
    footage: Footage | None


def find(clip: str, wanted: Wanted, limits: Limits | None = None) -> Found:
    """Decode a clip, once, into all that is wanted of it; raises `BadInput` as `decode` does."""
    extractions = {spec: extractor(spec).begin() for spec in dict.fromkeys(wanted.extract.values())}
    looking = [extraction for spec, extraction in extractions.items() if extractor(spec).looks]

    def see(picture: np.ndarray, seconds: float) -> None:
        for extraction in looking:
            extraction.see(picture, seconds)

    kept = (0 if extractions else 1) if wanted.kept is None else wanted.kept
    footage = decode(clip, kept, limits=limits, see=see if looking else None)
    computed = {spec: made.features(footage.waveform, footage.sample_rate) for spec, made in extractions.items()}
    features = {modality: computed[spec][modality] for modality, spec in wanted.extract.items()}
    return Found(features, None if wanted.kept is None else footage)


class Basic:
    """Loudness; brightness and movement: cheap on purpose, so that a large model has something to add.

    audio (T, 1): log energy of each 50 ms. vision (T, 3): per frame mean brightness in [0, 1], and how
    far the brightness' centroid moved since the frame before, down or up, left or right, as fractions
    of the picture.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[float, float, float]] = []

    def see(self, picture: np.ndarray, seconds: float) -> None:
        """Its brightness, and where that is."""
        self.seen.append(_brightness_and_centroid(picture))

    def features(self, waveform: np.ndarray | None, sample_rate: int) -> Features:
        """audio (T, 1) and vision (T, 3)."""
        audio = None if waveform is None else _log_energy(waveform, sample_rate)
        return {"audio": audio, "vision": _brightness_and_movement(self.seen) if self.seen else None}


def _log_energy(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """(T, 1): a clip shorter than one window is one step, otherwise an unfinished last window is dropped."""
    window = min(round(WINDOW * sample_rate), len(waveform))
    steps = len(waveform) // window
    energy = np.square(waveform[: steps * window].reshape(steps, window)).mean(axis=1)
    return np.log(energy + QUIET).astype(np.float32)[:, None]


def _brightness_and_movement(frames: list[tuple[float, float, float]]) -> np.ndarray:
    """(T, 3); the first frame has not moved, and the centroid of a black one is its middle."""
    seen = np.array(frames)  # (T, 3): brightness, down, right
    seen[:, 1:] = np.abs(np.diff(seen[:, 1:], axis=0, prepend=seen[:1, 1:]))
    return seen.astype(np.float32)


def _brightness_and_centroid(frame: np.ndarray) -> tuple[float, float, float]:
    """Sums by matrix product, which is several times faster; of whole numbers below 2^24 float32 loses nothing."""
    height, width, channels = frame.shape
    exact: Any = np.float32 if 255 * max(height, width * channels) < 2**24 else np.float64
    values = frame.reshape(height, -1).astype(exact)
    rows = (values @ np.ones(width * channels, exact)).astype(np.float64)
    columns = (np.ones(height, exact) @ values).astype(np.float64).reshape(width, channels).sum(axis=1)
    total = rows.sum()
    return total / (frame.size * 255), _centroid(rows, total), _centroid(columns, total)


def _centroid(mass: np.ndarray, total: int) -> float:
    """Where the mass lies between 0 and 1."""
    places = (np.arange(len(mass)) + 0.5) / len(mass)
    return float(mass @ places / total) if total else 0.5
