"""One fault of each kind among good samples: prepare goes on, and names the sample and what becomes of it."""

import csv
import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uacs.data import faults, rows
from uacs.data.faults import Faults, SampleNotes, Unusable, Widths
from uacs.data.prepare import PrepareSettings, prepare
from uacs.data.tables import Table
from uacs.errors import BadInput
from uacs.records import readable

RANGE = (-3.0, 3.0)
UNSCORED = "kept without a label, so it is answered and not scored"
GOOD = {"text": b"a fine film", "label": b"2.5", "audio": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]}
FAULTS = [
    ("nan", {"audio": [[1.0, np.nan, 3.0]]}, "1 of 3 numbers of audio are NaN or infinite; kept without audio"),
    ("inf", {"audio": [[1.0, np.inf, 3.0]]}, "1 of 3 numbers of audio are NaN or infinite; kept without audio"),
    (
        "wide",
        {"audio": [[1.0] * 5]},
        "audio has 5 numbers a step where most samples have 3; kept as it is, for a UBM that reads audio an error",
    ),
    ("nosteps", {"audio": []}, "audio has 0 steps; kept without audio"),
    ("notext", {"text": b""}, "text is empty; taken as missing"),
    ("long", {"text": b"dull " * 10_000}, "text has 49999 characters; the models read at most the first 10000"),
    ("half", {"text": b"a \xed\xa0\x80 film"}, "text has halves of characters; joined, or U+FFFD stands there"),
    ("words", {"label": b"positive"}, f"label 'positive' is not a number; {UNSCORED}"),
    ("beyond", {"label": b"9.5"}, f"label 9.5 lies outside [-3, 3]; {UNSCORED}"),
]


def write_csv(folder, samples):
    """id, text and label as bytes, audio in .npy files."""
    lines = [b"id,text,label,audio"]
    for sample_id, s in samples.items():
        audio = np.array(s["audio"] or np.empty((0, 3)), np.float32)
        np.save(folder / f"{sample_id}.npy", audio)
        lines.append(b",".join([sample_id.encode(), s["text"], s["label"], f"{sample_id}.npy".encode()]))
    (folder / "t.csv").write_bytes(b"\n".join(lines))
    return folder / "t.csv"


def write_parquet(folder, samples):
    columns = {name: [s[name] for s in samples.values()] for name in GOOD}
    table = {"id": list(samples)} | {name: pa.array(columns[name]).view(pa.string()) for name in ("text", "label")}
    table["audio"] = pa.array(columns["audio"], pa.list_(pa.list_(pa.float32())))
    pq.write_table(pa.table(table), folder / "t.parquet")
    return folder / "t.parquet"


@pytest.mark.parametrize("write", [write_csv, write_parquet])
@pytest.mark.parametrize("last", [False, True])
def test_each_fault_is_noted_by_its_samples_name_and_costs_no_other(tmp_path, write, last):
    good = {f"good{i}": GOOD for i in range(20)}
    bad = {name: GOOD | change for name, change, _ in FAULTS}
    samples = good | bad if last else bad | good
    data = prepare(write(tmp_path, samples), tmp_path / "data", PrepareSettings(dataset="mosi", processes=1))

    found = {s.sample_id: s for s in data.samples("test")}
    assert list(found) == list(samples)
    for name in good:
        assert (found[name].text, found[name].label) == ("a fine film", 2.5)
        assert np.array_equal(found[name].audio, GOOD["audio"])
    assert data.info.features["audio"].size == 3
    assert found["wide"].audio.tolist() == [[1.0] * 5]
    assert [found[name].audio for name in ("nan", "inf", "nosteps")] == [None] * 3
    assert [found[name].label for name in ("words", "beyond")] == [None] * 2
    assert (found["notext"].text, found["half"].text) == (None, "a \ufffd film")
    assert found["long"].text == ("dull " * 10_000).strip()
    named = [note for note in data.info.notes if note.startswith("sample '")]
    assert sorted(named) == sorted(f"sample '{name}': {said}" for name, _, said in FAULTS)


def test_what_cannot_be_read_of_a_file_or_a_clip_costs_its_sample_that_alone(tmp_path):
    lines = ["id,text,audio,clip", "a,x,a.npy,", "b,x,gone.npy,", "c,x,a.npy,gone.mp4", "d,x,text.npy,"]
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    (tmp_path / "text.npy").write_text("text")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    data = prepare(tmp_path / "t.csv", tmp_path / "data", PrepareSettings(dataset="mosi", processes=1))
    assert [s.audio is None for s in data.samples("test")] == [False, True, False, True]
    b, d, c = (note for note in data.info.notes if note.startswith("sample"))
    assert b.startswith("sample 'b': audio gone.npy is not a .npy file") and b.endswith("kept without audio")
    assert d.startswith("sample 'd': audio text.npy is not a .npy file") and d.endswith("kept without audio")
    assert c.startswith("sample 'c'") and f"{tmp_path}/gone.mp4" in c and c.endswith("kept without vision")


def read(tmp_path, *lines):
    (tmp_path / "t.csv").write_text("\n".join(["id,text,label", *lines]))
    source = Table(tmp_path / "t.csv", RANGE)
    return list(source), source.notes


def test_one_number_makes_a_column_of_labels_and_none_makes_the_wrong_column(tmp_path):
    samples, notes = read(tmp_path, "a,x,good", "b,x,1.5", "c,x,bad", "d,x,")
    assert [s.label for s in samples] == [None, 1.5, None, None] and len(notes) == 3
    with pytest.raises(BadInput, match=r"line 2, sample 'a': label 'good' is not a number \(2 of 2 cannot be"):
        read(tmp_path, "a,x,good", "b,x,", "c,x,bad")


def test_labels_of_which_most_lie_outside_the_range_are_another_datasets(tmp_path):
    samples, _ = read(tmp_path, "a,x,7", "b,x,1.5", "c,x,-4", "d,x,2", "e,x,none")
    assert [s.label for s in samples] == [None, 1.5, None, 2.0, None]
    with pytest.raises(BadInput, match=r"label 7 lies outside \[-3, 3\] \(2 of 3 cannot be used\); is --dataset"):
        read(tmp_path, "a,x,7", "b,x,1.5", "c,x,-4")


def test_a_wrong_column_is_refused_before_all_of_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "FIRST_LOOK", 3)
    source = Table(write_csv(tmp_path, {f"s{i}": GOOD | {"label": b"good"} for i in range(9)}), RANGE)
    seen = []
    with pytest.raises(BadInput, match="3 of 3 cannot be used"):
        seen.extend(sample.sample_id for sample in source)
    assert len(seen) < 3


def test_a_million_bad_samples_make_a_hundred_notes_and_a_number():
    notes = SampleNotes()
    for i in range(1000):
        notes.add(f"s{i}", "audio has 0 steps", "kept without audio")
        notes.add(f"s{i}", "text is empty", "taken as missing", minor=True)
    lines = notes.lines()
    assert len(lines) == 202
    assert (lines[99][:11], lines[100][:10]) == ("sample 's99", "sample 's0")
    assert lines[-2:] == ["900 more samples: kept without audio", "900 more samples: taken as missing"]


def test_the_size_is_what_more_than_half_of_the_samples_have_wherever_they_stand():
    widths, notes = Widths("audio", "t.parquet"), SampleNotes()
    for i, size in enumerate([5] * 150 + [3] * 200 + [4] * 20):
        widths.add(size, f"s{i}")
    assert widths.settle(notes) == 3
    assert len(notes.lines()) == 101 and notes.lines()[-1].startswith("70 more samples: kept as it is")
    widths.add(6, "s")
    for _ in range(29):
        widths.add(6, "s")
    with pytest.raises(BadInput, match=r"t.parquet: audio has 3 in sample 's150', 5 in sample 's0', and no size"):
        widths.size()


def test_a_column_needs_one_cell_that_can_be_used_or_the_share_that_is_asked():
    some = Faults()
    some.lost("audio", "a", "t.csv, line 2, sample 'a'", Unusable("audio is odd", "mend it"), "kept without audio")
    with pytest.raises(BadInput, match="^t.csv, line 2, sample 'a': audio is odd; mend it$"):
        some.settle()
    some.used("audio")
    assert some.settle() == ["sample 'a': audio is odd; kept without audio"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 8192])
def test_halves_of_characters_are_read_wherever_a_read_of_the_file_ends(chunk):
    content = "\ufeffid,text\n".encode() + b"a,\xed\xa0\xbd\xed\xb8\x80 \xed\xa0\x80\xed\x9f\xbf,\n"

    class Slow(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(chunk, size) if size > 0 else chunk)

    expected = [["id", "text"], ["a", "\ud83d\ude00 \ud800\ud7ff", ""]]
    assert list(csv.reader(rows._text(Slow(content)))) == expected


@pytest.mark.parametrize("broken", [b"\xed\xa0", b"\xed", b"\xed\xa0a", b"\xff"])
def test_what_is_neither_utf_8_nor_half_a_character_is_refused(tmp_path, broken):
    (tmp_path / "t.csv").write_bytes(b"id,text\na," + broken)
    with pytest.raises(BadInput, match="not a CSV file in UTF-8"):
        list(Table(tmp_path / "t.csv", RANGE))


def test_halves_of_characters_in_an_id_are_refused_and_in_a_clips_name_noted(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"id,text,clip\na,x,\xed\xa0\x80.mp4\n")
    data = prepare(tmp_path / "t.csv", tmp_path / "data", PrepareSettings(dataset="mosi", processes=1))
    (sample,) = data.samples("test")
    assert sample.clip == str(tmp_path / "\ufffd.mp4")
    assert "sample 'a': clip has halves of characters; joined, or U+FFFD stands there" in data.info.notes
    (tmp_path / "t.csv").write_bytes(b"id,text\na\xed\xa0\x80,x\n")
    with pytest.raises(BadInput, match=r"line 2: id 'a\\ud800' is empty, too long or has control characters"):
        list(Table(tmp_path / "t.csv", RANGE))


@given(st.text(st.characters() | st.sampled_from("\ud800\udbff\udc00\udfff\ufffd😀"), max_size=12))
def test_readable_text_has_whole_characters_and_keeps_those_that_were(text):
    mended = readable(text)
    assert mended.encode().decode() == readable(mended) == mended
    # pairs joined, what is left alone replaced, and nothing else changed
    joined = re.sub("[\ud800-\udbff][\udc00-\udfff]", "😀", text)
    assert re.sub("[\U00010000-\U0010ffff]", "😀", mended) == re.sub(
        "[\U00010000-\U0010ffff]", "😀", re.sub("[\ud800-\udfff]", "\ufffd", joined)
    )
