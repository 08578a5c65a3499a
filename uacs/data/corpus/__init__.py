"""A corpus that needs no download: short clips of cartoon people who speak, labelled by construction.

Every clip has a sentiment, its label. Words, voice, face and head each show it with a noise of their
own; in some clips one of the first three says the opposite, and each may be missing. So no modality is
enough, and disagreement is real. The amounts are chosen for the cascade: a small model gets the words,
and coarse traces of voice and face, and has the head's movement to itself; a large model sees and
hears exactly, but two frames show no movement. Each is right where the other errs.

`generate` writes what a user would have: label.csv and Raw/VIDEO_ID/CLIP_ID.mp4, as MMSA has them. The
English corpus is laid out and scored as CMU-MOSI is, the Chinese one as CH-SIMS: a language is one entry
of `LAYOUTS`.
"""

import csv
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from uacs.data.corpus import clips
from uacs.data.corpus.chinese import CHINESE
from uacs.data.corpus.english import ENGLISH
from uacs.data.corpus.words import Grammar, sentence
from uacs.data.prepared import SPLITS
from uacs.errors import Refused, WrongUse

DEFAULT_SIZES = {"train": 2000, "valid": 400, "test": 1000}
CLIPS_A_VIDEO = 10

GRID = 5  # scores are multiples of a fifth
NOISE = {"words": 1.1, "voice": 0.5, "face": 0.5, "head": 0.9}  # sd, in units of the label
FLIPPED = ("words", "voice", "face")
FLIP_SHARE = 0.15
MISSING = {"words": 0.08, "voice": 0.15, "face": 0.15, "head": 0.3}


@dataclass(frozen=True)
class Layout:
    """What the corpus of one language has of its own: the scores, the files' names, the words.

    Scores lie in [-full, full]; `labels` are the sizes that those other than zero take. Videos are
    numbered within `videos`, a range a split, so that a larger corpus begins with the smaller one's clips.
    """

    full: float
    labels: np.ndarray
    neutral_share: float
    columns: tuple[str, ...]
    video_id: str
    videos: dict[str, range]
    clip_id: str
    first_clip: int
    grammar: Grammar

    def score(self, cue: float) -> float:
        """A sentiment in [-3, 3] as a score of this layout, rounded to the grid."""
        return round(cue * self.full / clips.FULL * GRID) / GRID


LAYOUTS = {
    "en": Layout(
        full=3.0,
        labels=np.arange(2, 16) / GRID,  # 0.4 to 3.0
        neutral_share=0.03,
        columns=("video_id", "clip_id", "text", "label", "mode"),
        video_id="{split}{number:03d}",
        videos=dict.fromkeys(SPLITS, range(1_000_000)),
        clip_id="{number}",
        first_clip=0,
        grammar=ENGLISH,
    ),
    "zh": Layout(
        full=1.0,
        labels=np.arange(1, 6) / GRID,  # 0.2 to 1.0
        neutral_share=0.1,
        columns=("video_id", "clip_id", "text", "label", "label_T", "label_A", "label_V", "annotation", "mode"),
        video_id="video_{number:04d}",
        videos={"train": range(1, 6001), "valid": range(6001, 8001), "test": range(8001, 10000)},
        clip_id="{number:04d}",
        first_clip=1,
        grammar=CHINESE,
    ),
}


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
    language: str = "en",
) -> None:
    """Write a corpus of `sizes` clips a split into `folder`: label.csv, last, and the clips under Raw.

    Equal seeds give equal bytes, whatever `processes`; a larger corpus begins with the smaller one's
    clips. `progress` is called with the clips done and to do. Raises `Refused` where a label.csv lies.
    """
    _check(sizes, language)
    if (folder / "label.csv").exists():
        raise Refused(f"{folder}: a label.csv lies there; name another folder or remove it")
    todo = [(split, index) for split in SPLITS for index in range(sizes.get(split, 0))]
    for split, index in todo:
        _clip_path(folder, *_ids(LAYOUTS[language], split, index)).parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with _mapper(processes) as mapped:
        for row in mapped(partial(_write_sample, folder, seed, language), todo):
            rows.append(row)
            if progress:
                progress(len(rows), len(todo))
    _write_labels(folder, LAYOUTS[language].columns, rows)


def draw_cues(layout: Layout, rng: np.random.Generator) -> Cues:
    """A label, and what a clip shows of it: noisy, sometimes contradictory, never nothing at all."""
    score = 0.0 if rng.random() < layout.neutral_share else float(rng.choice(layout.labels) * rng.choice([-1, 1]))
    label = score * (clips.FULL / layout.full)
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


def _check(sizes: dict[str, int], language: str) -> None:
    if language not in LAYOUTS:
        raise WrongUse(f"no corpus in the language '{language}'; there is {', '.join(LAYOUTS)}")
    if unknown := sorted(set(sizes) - set(SPLITS)):
        raise WrongUse(f"a corpus has no split '{unknown[0]}'; give sizes for {', '.join(SPLITS)}")
    for split, size in sizes.items():
        most = len(LAYOUTS[language].videos[split]) * CLIPS_A_VIDEO
        if size > most:
            raise WrongUse(f"the split '{split}' has numbers for {most} clips, not for {size}; ask for fewer")


def _write_sample(folder: Path, seed: int, language: str, place: tuple[str, int]) -> dict[str, str]:
    """Write one clip; returns its row of label.csv."""
    layout = LAYOUTS[language]
    split, index = place
    video, clip = divmod(index, CLIPS_A_VIDEO)
    speaker = clips.draw_speaker(np.random.default_rng([seed, SPLITS.index(split), video]))
    rng = np.random.default_rng([seed, SPLITS.index(split), video, clip])
    cues = draw_cues(layout, rng)
    frames = int(rng.integers(*clips.FRAMES, endpoint=True))
    text = "" if cues.words is None else sentence(layout.grammar, cues.words, rng)
    pictures = clips.picture(cues.face, cues.head, frames, speaker, rng)
    waveform = None if cues.voice is None else clips.sound(cues.voice, frames, speaker, rng)
    video_id, clip_id = _ids(layout, split, index)
    clips.write_clip(_clip_path(folder, video_id, clip_id), pictures, waveform)
    known = {"video_id": video_id, "clip_id": clip_id, "text": text, "mode": split} | _scores(layout, cues)
    return {column: known[column] for column in layout.columns}


def _ids(layout: Layout, split: str, index: int) -> tuple[str, str]:
    """video_id and clip_id of a split's clip."""
    video, clip = divmod(index, CLIPS_A_VIDEO)
    video_id = layout.video_id.format(split=split, number=layout.videos[split][video])
    return video_id, layout.clip_id.format(number=layout.first_clip + clip)


def _clip_path(folder: Path, video_id: str, clip_id: str) -> Path:
    return folder / "Raw" / video_id / f"{clip_id}.mp4"


def _scores(layout: Layout, cues: Cues) -> dict[str, str]:
    """The label and all that may be said beside it; a modality that shows nothing has no label of its own."""
    shown = {"label": cues.label, "label_T": cues.words, "label_A": cues.voice, "label_V": cues.face}
    columns = {name: "" if cue is None else f"{layout.score(cue):.1f}" for name, cue in shown.items()}
    sign = (cues.label > 0) - (cues.label < 0)
    return columns | {"annotation": ("Negative", "Neutral", "Positive")[sign + 1]}


@contextmanager
def _mapper(processes: int) -> Iterator[Callable[..., Iterable]]:
    """`map` in this process or in several; spawned, since Ray or torch may live in the caller."""
    if processes == 1:
        yield map
        return
    # the caller alone answers Ctrl-C
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        yield partial(pool.map, chunksize=16)


def _write_labels(folder: Path, columns: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    aside = folder / ".label.csv.partial"
    with aside.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    os.replace(aside, folder / "label.csv")
