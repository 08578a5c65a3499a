"""The generated corpus: the same for the same seed, in MMSA's layout, with cues where they should be."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from uacs.data import corpus
from uacs.data.extract import BASIC, EXTRACTORS
from uacs.data.labels import read_labels
from uacs.data.media import decode
from uacs.errors import Refused, WrongUse


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "made"
    corpus.generate(folder, 0, {"train": 60, "valid": 4, "test": 6}, processes=1)
    return folder


@pytest.fixture(scope="module")
def clips(made):
    """Label and footage of the training clips."""
    samples = [s for s in read_labels(made / "label.csv", (-3, 3), made / "Raw") if s.split == "train"]
    return [(s.label, decode(s.clip)) for s in samples]


def test_the_layout_is_mmsas(made):
    rows = list(csv.DictReader((made / "label.csv").open()))
    assert list(rows[0]) == ["video_id", "clip_id", "text", "label", "mode"]
    assert [sum(r["mode"] == m for r in rows) for m in ("train", "valid", "test")] == [60, 4, 6]
    assert all((made / "Raw" / r["video_id"] / f"{r['clip_id']}.mp4").is_file() for r in rows)
    assert len({(r["video_id"], r["clip_id"]) for r in rows}) == 70
    assert all(-3 <= float(r["label"]) <= 3 for r in rows)


def test_the_same_seed_gives_the_same_bytes_whatever_the_processes(made, tmp_path):
    corpus.generate(tmp_path / "again", 0, {"train": 60, "valid": 4, "test": 6}, processes=2)
    assert digest(tmp_path / "again") == digest(made)


def test_another_seed_gives_others_and_a_larger_corpus_begins_with_the_smaller(made, tmp_path):
    corpus.generate(tmp_path / "other", 1, {"test": 6}, processes=1)
    corpus.generate(tmp_path / "small", 0, {"test": 3}, processes=1)
    same = {name for name, d in digest(tmp_path / "small").items() if digest(made).get(name) == d}
    assert len(same) == 3
    assert not set(digest(tmp_path / "other").values()) & set(digest(made).values())


def test_nothing_is_written_over(made):
    with pytest.raises(Refused, match="lies there"):
        corpus.generate(made, 0, {"test": 1})
    with pytest.raises(WrongUse, match="no split 'dev'"):
        corpus.generate(made / "x", 0, {"dev": 1})


def test_cues_are_as_noisy_as_said_and_something_always_shows():
    cues = [corpus.draw_cues(np.random.default_rng(i)) for i in range(4000)]
    for name, sd in corpus.NOISE.items():
        shown = np.array([(c.label, getattr(c, name)) for c in cues if getattr(c, name) is not None])
        agree = np.sign(shown[:, 0]) == np.sign(shown[:, 1])
        inside = agree & (np.abs(shown[:, 0]) < 1.5)
        assert (shown[inside, 1] - shown[inside, 0]).std() == pytest.approx(sd, abs=0.35)
    for name in corpus.FLIPPED:
        share = np.mean([getattr(c, name) is None for c in cues])
        assert share == pytest.approx(corpus.MISSING[name], abs=0.02)
    assert all(any(getattr(c, name) is not None for name in corpus.FLIPPED) for c in cues)
    assert np.mean([c.label == 0 for c in cues]) == pytest.approx(corpus.NEUTRAL_SHARE, abs=0.01)


def glide(waveform):
    """Log ratio of the strongest low frequency in the last quarter to that in the first."""

    def pitch(part):
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 16000))[60:500]
        return 60 + np.argmax(spectrum)

    quarter = len(waveform) // 4
    return np.log2(pitch(waveform[-quarter:]) / pitch(waveform[:quarter]))


def test_the_voice_glides_with_the_sentiment(clips):
    heard = np.array([(label, glide(f.waveform)) for label, f in clips if f.waveform is not None])
    assert np.corrcoef(heard.T)[0, 1] > 0.5


def test_a_smile_shows_more_mouth_below_than_above(clips):
    def smile(frame):
        red = (frame[..., 0] > 70) & (frame[..., 1] < 0.6 * frame[..., 0]) & (frame[..., 2] < 0.6 * frame[..., 0])
        rows, columns = np.nonzero(red)
        if len(rows) < 8:
            return None
        middle = np.abs(columns - columns.mean()) < 4
        return rows[middle].mean() - rows[~middle].mean()

    seen = np.array(
        [(label, s) for label, f in clips if f.frames is not None and (s := smile(f.frames[0])) is not None]
    )
    assert len(seen) > 25
    assert np.corrcoef(seen.T)[0, 1] > 0.5


def test_light_and_movement_reach_the_extractor_and_two_frames_show_no_movement(clips):
    nods = []
    for label, footage in clips:
        _, vision = EXTRACTORS[BASIC].extract(footage)
        nods.append((label, vision[:, 1].sum() - vision[:, 2].sum(), vision[:, 0].mean()))
    label, nod, light = np.array(nods).T
    assert np.corrcoef(label, nod)[0, 1] > 0.3
    assert np.corrcoef(label, light)[0, 1] > 0.1
    moved = max(clips, key=lambda clip: EXTRACTORS[BASIC].extract(clip[1])[1][:, 1:].sum())[1].frames
    first, last = moved[round((len(moved) - 1) / 4 + 1e-6)], moved[round(3 * (len(moved) - 1) / 4 + 1e-6)]
    assert np.abs(first.astype(int) - last.astype(int)).mean() < 1.5
