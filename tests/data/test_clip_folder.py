"""A folder of clips is a dataset: the words that lie beside them, and an id of its own for each."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.test_media import GREYS, write
from uacs.data import places
from uacs.data.apart import Absent
from uacs.data.clip_folder import ClipFolder
from uacs.data.prepare import PrepareSettings, open_dataset, prepare
from uacs.errors import BadInput, WrongUse

SRT = """1
00:00:00,000 --> 00:00:01,500
<i>Hello</i> there,
you & me

2
00:00:02,000 --> 00:00:03,000
{up} again
"""
VTT = """WEBVTT

00:00.000 --> 00:01.500 align:start
<v Bob>Good</v> &amp; bad

00:02.000 --> 00:03.000
Good & bad
so so
"""
TOLD = PrepareSettings(dataset="mosi")


@pytest.fixture
def folder(tmp_path):
    for name in ("v1/b.mp4", "v1/a.mp4", "v2/a.MP4", "v3.mov", "v4.mp4", "v5.mp4"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / name).write_bytes(b"clip")
    return tmp_path / "clips"


def texts(folder):
    source = ClipFolder(folder)
    return {sample.sample_id: sample.text for sample in source}, source.notes


def test_each_clip_is_a_sample_with_the_words_beside_it(folder):
    (folder / "v1" / "a.srt").write_text(SRT)
    (folder / "v2" / "a.vtt").write_text(VTT)
    (folder / "v3.txt").write_text("just\nwords\n")
    (folder / "v4.srt").write_bytes("\ufeff1\r\n00:00:00,000 --> 00:00:01,500\r\nBOM\r\n".encode())
    (folder / "v5.txt").write_text("caf\xe9", encoding="utf-16")
    found, notes = texts(folder)
    assert found == {
        "v1/a": "Hello there, you & me {up} again",
        "v1/b": None,
        "v2/a": "Good & bad so so",
        "v3": "just\nwords",
        "v4": "BOM",
        "v5": "café",
    }
    assert len(notes) == 1 and "clips alone" in notes[0]


def test_words_that_cannot_be_read_cost_themselves(folder):
    (folder / "v3.srt").write_text("no subtitles")
    (folder / "v4.vtt").write_bytes(bytes(2**20 + 1))
    (folder / "v5.srt").write_bytes(b"")
    (folder / "v1" / "a.srt").write_bytes(b"1\n00:00:00,000 --> 00:00:01,500\ncaf\xe9\n")
    found, notes = texts(folder)
    assert found["v3"] is None and found["v4"] is None and found["v5"] is None
    assert any("sample 'v3': " in note and "v3.srt is no file of subtitles" in note for note in notes)
    assert any("sample 'v1/a': " in note and "a.srt is not UTF-8; taken without" in note for note in notes)
    assert any("v4.vtt has over 1048576 bytes; taken without a transcript" in note for note in notes)


def test_two_clips_of_one_name_keep_their_endings(folder):
    (folder / "v3.wav").write_bytes(b"clip")
    assert {"v3.mov", "v3.wav", "v4"} <= texts(folder)[0].keys()


def test_a_folder_is_prepared_and_what_is_for_tables_is_refused(tmp_path):
    (tmp_path / "clips").mkdir()
    clip = write(tmp_path / "clips" / "a.mp4", GREYS)
    (tmp_path / "clips" / "a.vtt").write_text(VTT)
    data = prepare(tmp_path / "clips", tmp_path / "data", TOLD)
    (sample,) = data.samples("test")
    assert (sample.sample_id, sample.text, sample.clip) == ("a", "Good & bad so so", clip)
    assert sample.vision.shape == (len(GREYS), 3) and sample.audio is None and sample.label is None
    with pytest.raises(WrongUse, match="--column: for tables"):
        prepare(tmp_path / "clips", tmp_path / "other", TOLD.model_copy(update={"columns": {"text": "words"}}))
    (tmp_path / "none").mkdir()
    with pytest.raises(BadInput, match="nor clips lie there"):
        prepare(tmp_path / "none", tmp_path / "other", TOLD)


def test_data_whose_clips_are_yet_to_be_looked_at_are_not_taken_for_prepared_ones(tmp_path):
    (tmp_path / "clips").mkdir()
    write(tmp_path / "clips" / "a.mp4", GREYS)
    later = open_dataset(tmp_path / "clips", tmp_path / "run", PrepareSettings(dataset="mosi"), later=True)
    assert open_dataset(later.folder, tmp_path, later=True).info == later.info
    with pytest.raises(BadInput, match="a run's own, without audio and vision of its clips; `uacs prepare` the clips"):
        open_dataset(later.folder, tmp_path)


def test_prepare_is_told_what_a_clip_may_cost(uacs, tmp_path):
    (tmp_path / "clips").mkdir()
    write(tmp_path / "clips" / "a.mp4", GREYS)
    words = ["prepare", tmp_path / "clips", tmp_path / "data", "--dataset", "mosi"]
    code, _, err = uacs(*words, "--set", "seconds=0.1")
    assert code == 0 and "lasts over 0.1 s; give a shorter clip" in err
    code, _, err = uacs(*words, "--set", "length=0.1")
    assert code == 2 and "length: Extra inputs are not permitted; there is seconds, mib, clock" in err


def test_a_table_takes_what_it_does_not_say_from_beside_the_clip(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.mp4", GREYS)
        (tmp_path / f"{name}.srt").write_text(SRT)
    (tmp_path / "t.csv").write_text("sample_id,text,clip,label\na,,a.mp4,1\nb,its own,b.mp4,1\n")
    data = prepare(tmp_path / "t.csv", tmp_path / "data", TOLD)
    assert [s.text for s in data.samples("test")] == ["Hello there, you & me {up} again", "its own"]


def test_a_clip_that_cannot_be_reached_costs_no_more_than_itself(tmp_path):
    names = ["http://nowhere/a.mp4", "x" * 300 + ".mp4", "gone.mp4", "s3://b/a.mp4?endpoint_override=127.0.0.1:9"]
    rows = [f"s{i},,{name},1" for i, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["sample_id,text,clip,label", *rows, "ok,words,,1"]) + "\n")
    data = prepare(tmp_path / "t.csv", tmp_path / "data", TOLD)
    assert [s.sample_id for s in data.samples("test")] == ["s0", "s1", "s2", "s3", "ok"]
    assert sum("kept without" in note for note in data.info.notes) == 4


@pytest.mark.parametrize(
    ("clip", "beside"), [("s3://b/a.mp4?region=x.y", "s3://b/a.srt?region=x.y"), ("d.e/f", "d.e/f.srt")]
)
def test_what_lies_beside_a_clip_has_its_name(clip, beside):
    assert places.instead(clip, ".srt") == beside


def test_capitals_hidden_files_and_odd_names_are_taken_as_they_are_meant(tmp_path):
    for name in ("GX01.MP4", "._GX01.MP4", ".hidden/a.mp4", "at\u202fnoon.mov"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / name).write_bytes(b"clip")
    assert list(texts(tmp_path / "clips")[0]) == ["GX01", "at_noon"]
    for name in ("a.mp4", "a.wav", "a.mp4.mp4"):
        (tmp_path / "clips" / name).write_bytes(b"clip")
    with pytest.raises(BadInput, match="two clips come to the id 'a.mp4'"):
        list(ClipFolder(tmp_path / "clips"))


def test_an_extractor_that_is_not_used_is_refused(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"")
    table = pa.table({"sample_id": ["a"], "text": ["so"], "audio": [[[1.0, 2.0]]], "label": [1.0]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(WrongUse, match="--extract audio=egemaps: .* leave it away"):
        prepare(tmp_path / "t.parquet", tmp_path / "data", TOLD.model_copy(update={"extract": {"audio": "egemaps"}}))


def test_what_an_extractor_lacks_is_said_before_anything_is_written(tmp_path):
    (tmp_path / "clips").mkdir()
    write(tmp_path / "clips" / "a.mp4", GREYS)
    (tmp_path / "model.task").write_bytes(b"no model")
    told = TOLD.model_copy(update={"extract": {"vision": f"face:{tmp_path / 'model.task'}"}})
    with pytest.raises(Absent, match="MediaPipe is not installed|is no face model"):
        prepare(tmp_path / "clips", tmp_path / "data", told)
    assert not (tmp_path / "data").exists()
