"""A corpus that needs no download: short clips of cartoon people who speak, labelled by construction.

Every clip has a sentiment, its label. Words, voice, face and head each show it with a noise of their
own; in some clips one of the first three says the opposite, and each may be missing. So no modality is
enough, and disagreement is real. The amounts are chosen for the cascade: a small model gets the words,
and coarse traces of voice and face, and has the head's movement to itself; a large model sees and
hears exactly, but two frames show no movement. Each is right where the other errs.

`generate` writes what a user would have: label.csv and Raw/VIDEO_ID/CLIP_ID.mp4, as MMSA has them.
"""

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from uacs.data import corpus_clips as clips
from uacs.data.corpus_words import sentence
from uacs.data.labels import COLUMNS
from uacs.data.prepared import SPLITS
from uacs.errors import Refused, WrongUse

DEFAULT_SIZES = {"train": 2000, "valid": 400, "test": 1000}
CLIPS_A_VIDEO = 10

NEUTRAL_SHARE = 0.03
LABELS = np.arange(2, 16) / 5  # 0.4 to 3.0 in steps of 0.2, either sign
NOISE = {"words": 1.1, "voice": 0.5, "face": 0.5, "head": 0.9}  # sd, in units of the label
FLIPPED = ("words", "voice", "face")
FLIP_SHARE = 0.15
MISSING = {"words": 0.08, "voice": 0.15, "face": 0.15, "head": 0.3}


@dataclass(frozen=True)
class Cues:
    """A label in [-3, 3] and what each part of the clip shows of it, in the same units; None shows nothing."""

    label: float
    words: float | None
    voice: float | None
    face: float | None
    head: float | None


def generate(
    folder: Path,
    seed: int = 0,
    sizes: dict[str, int] = DEFAULT_SIZES,
    processes: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a corpus of `sizes` clips a split into `folder`: label.csv, last, and the clips under Raw.

    Equal seeds give equal bytes, whatever `processes`; a larger corpus begins with the smaller one's
    clips. `progress` is called with the clips done and to do. Raises `Refused` where a label.csv lies.
    """
    if unknown := sorted(set(sizes) - set(SPLITS)):
        raise WrongUse(f"a corpus has no split '{unknown[0]}'; give sizes for {', '.join(SPLITS)}")
    if (folder / "label.csv").exists():
        raise Refused(f"{folder}: a label.csv lies there; name another folder or remove it")
    todo = [(split, index) for split in SPLITS for index in range(sizes.get(split, 0))]
    for split, index in todo:
        (folder / "Raw" / _video_id(split, index)).mkdir(parents=True, exist_ok=True)
    rows = []
    with _mapper(processes) as mapped:
        for row in mapped(partial(_write_sample, folder, seed), todo):
            rows.append(row)
            if progress:
                progress(len(rows), len(todo))
    _write_labels(folder, rows)


def draw_cues(rng: np.random.Generator) -> Cues:
    """A label, and what a clip shows of it: noisy, sometimes contradictory, never nothing at all."""
    label = 0.0 if rng.random() < NEUTRAL_SHARE else float(rng.choice(LABELS) * rng.choice([-1, 1]))
    shown = {cue: float(np.clip(label + rng.normal(0, sd), -clips.FULL, clips.FULL)) for cue, sd in NOISE.items()}
    if rng.random() < FLIP_SHARE:
        liar = str(rng.choice(FLIPPED))
        shown[liar] = -shown[liar]
    missing = {cue for cue, share in MISSING.items() if rng.random() < share}
    if missing.issuperset(FLIPPED):
        missing.remove("words")
    if "face" in missing:
        missing.add("head")
    return Cues(label, **{cue: None if cue in missing else value for cue, value in shown.items()})


def _write_sample(folder: Path, seed: int, place: tuple[str, int]) -> dict[str, str]:
    """Write one clip; returns its row of label.csv."""
    split, index = place
    video, clip = divmod(index, CLIPS_A_VIDEO)
    speaker = clips.draw_speaker(np.random.default_rng([seed, SPLITS.index(split), video]))
    rng = np.random.default_rng([seed, SPLITS.index(split), video, clip])
    cues = draw_cues(rng)
    frames = int(rng.integers(*clips.FRAMES, endpoint=True))
    text = "" if cues.words is None else sentence(cues.words, rng)
    pictures = clips.picture(cues.face, cues.head, frames, speaker, rng)
    waveform = None if cues.voice is None else clips.sound(cues.voice, frames, speaker, rng)
    video_id = _video_id(split, index)
    clips.write_clip(folder / "Raw" / video_id / f"{clip}.mp4", pictures, waveform)
    return dict(zip(COLUMNS, (video_id, str(clip), text, f"{cues.label:.1f}", split), strict=True))


def _video_id(split: str, index: int) -> str:
    return f"{split}{index // CLIPS_A_VIDEO:03d}"


@contextmanager
def _mapper(processes: int) -> Iterator[Callable[..., Iterable]]:
    """`map` in this process or in several; spawned, since Ray or torch may live in the caller."""
    if processes == 1:
        yield map
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield partial(pool.map, chunksize=16)


def _write_labels(folder: Path, rows: list[dict[str, str]]) -> None:
    aside = folder / ".label.csv.partial"
    with aside.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    os.replace(aside, folder / "label.csv")
