"""The generated corpus: the same for the same seed, in MMSA's layout, with cues where they should be."""

import csv
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from uacs.data import corpus
from uacs.data.corpus import chinese
from uacs.data.corpus.words import sentence
from uacs.data.extract import BASIC, extractor
from uacs.data.media import decode
from uacs.data.tables import Table
from uacs.errors import Refused, WrongUse
from uacs.ubm import tiny_bert

SIZES = {"en": {"train": 60, "valid": 4, "test": 6}, "zh": {"train": 60, "valid": 11, "test": 6}}
ENGLISH_LABELS = "ad563bb8791bf0ab9fde950adee9b02bd45a734ada773016c601bb147a36a1d5"  # SHA-256 of seed 0's label.csv
UNIMODAL = {"label_T": "words", "label_A": "voice", "label_V": "face"}

in_each_language = pytest.mark.parametrize("language", list(corpus.LAYOUTS))


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "label.csv").open(encoding="utf-8")))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """A corpus in each language."""
    folder = tmp_path_factory.mktemp("corpus")
    for language, sizes in SIZES.items():
        corpus.generate(folder / language, 0, sizes, processes=1, language=language)
    return {language: folder / language for language in SIZES}


@pytest.fixture(scope="module")
def made(corpora):
    return corpora["en"]


@pytest.fixture(scope="module")
def clips(made):
    """Label and footage of the training clips."""
    samples = [s for s in Table(made / "label.csv", (-3, 3)) if s.split == "train"]
    return [(s.label, decode(s.clip)) for s in samples]


def test_the_layout_is_mmsas(made):
    rows = rows_of(made)
    assert list(rows[0]) == ["video_id", "clip_id", "text", "label", "mode"]
    assert [sum(r["mode"] == m for r in rows) for m in ("train", "valid", "test")] == [60, 4, 6]
    assert all((made / "Raw" / r["video_id"] / f"{r['clip_id']}.mp4").is_file() for r in rows)
    assert len({(r["video_id"], r["clip_id"]) for r in rows}) == 70
    assert all(-3 <= float(r["label"]) <= 3 for r in rows)


def test_the_english_corpus_stays_as_documents_have_measured_it(made):
    assert digest(made)["label.csv"] == ENGLISH_LABELS


def test_the_chinese_layout_is_simss(corpora):
    rows = rows_of(corpora["zh"])
    columns = ["video_id", "clip_id", "text", "label", "label_T", "label_A", "label_V", "annotation", "mode"]
    assert list(rows[0]) == columns
    assert [sum(r["mode"] == m for r in rows) for m in ("train", "valid", "test")] == [60, 11, 6]
    assert (rows[0]["video_id"], rows[0]["clip_id"]) == ("video_0001", "0001")
    assert all(re.fullmatch(r"video_\d{4}", r["video_id"]) and re.fullmatch(r"\d{4}", r["clip_id"]) for r in rows)
    assert all((corpora["zh"] / "Raw" / r["video_id"] / f"{r['clip_id']}.mp4").is_file() for r in rows)
    assert len({(r["video_id"], r["clip_id"]) for r in rows}) == 77
    assert len({r["video_id"] for r in rows}) == len({(r["video_id"], r["mode"]) for r in rows}) == 6 + 2 + 1
    read = Table(corpora["zh"] / "label.csv", (-1, 1))
    assert [(s.label, s.text or "") for s in read] == [(float(r["label"]), r["text"]) for r in rows]


def test_chinese_scores_lie_on_simss_grid_and_the_annotation_is_their_sign(corpora):
    grid = [f"{k / 5:.1f}" for k in range(-5, 6)]  # -1.0, -0.8, ... 1.0
    rows = rows_of(corpora["zh"])
    assert {r["label"] for r in rows} == set(grid)
    assert all(r[name] in ["", *grid] for r in rows for name in UNIMODAL)
    signs = {"Negative": -1, "Neutral": 0, "Positive": 1}
    assert [signs[r["annotation"]] for r in rows] == [np.sign(float(r["label"])) for r in rows]


def test_a_unimodal_label_is_what_its_modality_shows_and_empty_where_it_shows_nothing(corpora):
    rows = [r for r in rows_of(corpora["zh"]) if r["mode"] == "train"]
    samples = Table(corpora["zh"] / "label.csv", (-1, 1))
    for k, (row, sample) in enumerate(zip(rows, samples, strict=False)):
        cues = corpus.draw_cues(corpus.LAYOUTS["zh"], np.random.default_rng([0, 0, *divmod(k, 10)]))
        for name, cue in UNIMODAL.items():
            shown = getattr(cues, cue)
            assert (row[name] == "") == (shown is None)
            assert shown is None or float(row[name]) == pytest.approx(shown / 3, abs=0.1 + 1e-9)
        assert (row["label_T"] == "") == (row["text"] == "")
        assert (row["label_A"] == "") == (decode(sample.clip).waveform is None)
    assert all(any(r[name] == "" for r in rows) for name in UNIMODAL)


@in_each_language
def test_the_same_seed_gives_the_same_bytes_whatever_the_processes(corpora, language, tmp_path):
    corpus.generate(tmp_path / "again", 0, SIZES[language], processes=2, language=language)
    assert digest(tmp_path / "again") == digest(corpora[language])


@in_each_language
def test_another_seed_gives_others_and_a_larger_corpus_begins_with_the_smaller(corpora, language, tmp_path):
    made = digest(corpora[language])
    corpus.generate(tmp_path / "other", 1, {"test": 6}, processes=1, language=language)
    corpus.generate(tmp_path / "small", 0, {"valid": 2, "test": 3}, processes=1, language=language)
    assert len({name for name, d in digest(tmp_path / "small").items() if made.get(name) == d}) == 5
    assert not set(digest(tmp_path / "other").values()) & set(made.values())


def test_nothing_is_written_over(made):
    with pytest.raises(Refused, match="lies there"):
        corpus.generate(made, 0, {"test": 1})
    with pytest.raises(WrongUse, match="no split 'dev'"):
        corpus.generate(made / "x", 0, {"dev": 1})
    with pytest.raises(WrongUse, match=r"'fr'; there is en, zh"):
        corpus.generate(made / "x", 0, {"test": 1}, language="fr")
    with pytest.raises(WrongUse, match="'valid' has numbers for 20000 clips, not for 20001"):
        corpus.generate(made / "x", 0, {"valid": 20_001}, language="zh")
    assert not (made / "x").exists()


@in_each_language
def test_cues_are_as_noisy_as_said_and_something_always_shows(language):
    layout = corpus.LAYOUTS[language]
    cues = [corpus.draw_cues(layout, np.random.default_rng(i)) for i in range(4000)]
    for name, sd in corpus.NOISE.items():
        shown = np.array([(c.label, getattr(c, name)) for c in cues if getattr(c, name) is not None])
        agree = np.sign(shown[:, 0]) == np.sign(shown[:, 1])
        inside = agree & (np.abs(shown[:, 0]) < 1.5)
        assert (shown[inside, 1] - shown[inside, 0]).std() == pytest.approx(sd, abs=0.35)
    for name in corpus.FLIPPED:
        share = np.mean([getattr(c, name) is None for c in cues])
        assert share == pytest.approx(corpus.MISSING[name], abs=0.02)
    assert all(any(getattr(c, name) is not None for name in corpus.FLIPPED) for c in cues)
    assert np.mean([c.label == 0 for c in cues]) == pytest.approx(layout.neutral_share, abs=0.01)


def chinese_sentiment(text: str) -> float:
    """What a reader with a dictionary makes of a generated sentence."""
    first, *rest = re.split("，但是|，而且", text)
    if not rest:
        return clause_sentiment(first)
    before, after = clause_sentiment(first), clause_sentiment(rest[0])
    return 0.3 * before + 0.7 * after if "，但是" in text else (before + after) / 2


DEGREES = {"不太": 0.8, "我太": 0.8, "太": 1.3, "非常": 1.3, "真的": 1.2, "挺": 0.8, "还算": 0.5, "有点": 0.5}


def clause_sentiment(clause: str) -> float:
    words = chinese.ADJECTIVES | chinese.LIKINGS | chinese.FEELINGS
    word = max((word for word in words if word in clause), key=len)  # 好看 and not the 好 in it
    degree = next((factor for how, factor in DEGREES.items() if how in clause), 1.0)
    return words[word] * degree * (-0.6 if re.search("不|没", clause) else 1.0)


@pytest.fixture(scope="module")
def said():
    """(wanted sentiment, Chinese sentence) pairs."""
    rng = np.random.default_rng(0)
    return [(s, sentence(chinese.CHINESE, s, rng)) for s in np.linspace(-3, 3, 600)]


def test_a_chinese_sentence_means_what_was_wanted(said):
    wanted, meant = np.array([(sentiment, chinese_sentiment(text)) for sentiment, text in said]).T
    assert np.abs(meant - wanted).mean() < 0.2  # the nearest of 25
    assert np.corrcoef(meant, wanted)[0, 1] > 0.98


def test_chinese_words_speak_for_the_label(corpora):
    label, meant = np.array(
        [(float(r["label"]), chinese_sentiment(r["text"])) for r in rows_of(corpora["zh"]) if r["text"]]
    ).T
    assert np.corrcoef(label, meant)[0, 1] > 0.5


def test_chinese_texts_are_chinese_characters_and_commas(said, corpora):
    texts = [text for _, text in said] + [r["text"] for r in rows_of(corpora["zh"]) if r["text"]]
    assert all(re.fullmatch("[\u4e00-\u9fff]+(，[\u4e00-\u9fff]+)*", text) for text in texts)
    assert any("不" in text for text in texts) and any("没" in text for text in texts)
    assert any("但是" in text for text in texts) and any("而且" in text for text in texts)


def test_the_tiny_berts_tokens_are_chinese_characters(said, tmp_path):
    texts = [text for _, text in said]
    tiny_bert.create(tmp_path, texts, width=8, layers=1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert all(tokenizer.tokenize(text) == list(text) for text in texts)
    assert tokenizer.tokenize("我鑫") == ["我", "[UNK]"]


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
        vision = extractor(BASIC).extract(footage)["vision"]
        nods.append((label, vision[:, 1].sum() - vision[:, 2].sum(), vision[:, 0].mean()))
    label, nod, light = np.array(nods).T
    assert np.corrcoef(label, nod)[0, 1] > 0.3
    assert np.corrcoef(label, light)[0, 1] > 0.1
    moved = max(clips, key=lambda clip: extractor(BASIC).extract(clip[1])["vision"][:, 1:].sum())[1].frames
    first, last = moved[round((len(moved) - 1) / 4 + 1e-6)], moved[round(3 * (len(moved) - 1) / 4 + 1e-6)]
    assert np.abs(first.astype(int) - last.astype(int)).mean() < 1.5
