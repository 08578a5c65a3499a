"""Tables: label.csv and any other CSV or Parquet, what is read of them, and what is said of what cannot be."""

import csv
import gzip
import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uacs.data import rows, tables
from uacs.data.tables import Table
from uacs.errors import BadInput, WrongUse

HEAD = "video_id,clip_id,text,label,mode\n"
RANGE = (-3.0, 3.0)


def read(tmp_path, text, **options):
    path = tmp_path / "label.csv"
    path.write_text(text, encoding="utf-8")
    return list(Table(path, RANGE, **options))


def test_a_row_becomes_a_sample(tmp_path):
    (sample,) = read(tmp_path, HEAD + 'v_1,7,"well, it was fine",-0.8,train\n')
    assert (sample.sample_id, sample.text, sample.label, sample.split) == ("v_1_7", "well, it was fine", -0.8, "train")
    assert sample.clip is None


def test_further_columns_are_passed_over_and_na_is_a_word(tmp_path):
    (sample,) = read(tmp_path, "annotation,video_id,clip_id,text,label,mode\nx,v,1,NA,1,test\n")
    assert sample.text == "NA"


def test_an_empty_label_or_text_is_none(tmp_path):
    samples = read(tmp_path, HEAD + "v,1,words,,test\nv,2,,1.0,test\n")
    assert [(s.text, s.label) for s in samples] == [("words", None), (None, 1.0)]


def test_clips_are_found_where_they_are(tmp_path):
    (tmp_path / "Raw" / "v").mkdir(parents=True)
    (tmp_path / "Raw" / "v" / "1.mp4").touch()
    samples = read(tmp_path, HEAD + "v,1,a,1,test\nv,2,b,1,test\n", clips=tmp_path / "Raw")
    assert samples == read(tmp_path, HEAD + "v,1,a,1,test\nv,2,b,1,test\n")
    assert samples[0].clip == str(tmp_path / "Raw" / "v" / "1.mp4")
    assert samples[1].clip is None


def test_no_id_leads_out_of_the_folder_of_clips(tmp_path):
    for folder in ("clips/v", "other"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.mp4").touch()
    ids = ("v", "../other", "v/../../other", str(tmp_path / "other"), "clips/v")
    samples = read(tmp_path, HEAD + "".join(f"{v},1,a,1,test\n" for v in ids), clips=tmp_path / "clips")
    assert [s.clip for s in samples] == [str(tmp_path / "clips" / "v" / "1.mp4"), None, None, None, None]


def test_a_folder_of_clips_that_serves_nothing_is_refused_or_noted(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "x.mp4").touch()
    with pytest.raises(BadInput, match="no columns video_id and clip_id to find its clips in .*clips; name clips in"):
        read(tmp_path, "id,text\nx,fine\n", clips=tmp_path / "clips")
    source = Table(tmp_path / "label.csv", RANGE)
    assert len(list(source)) == 1 and len(source.notes) == 2
    (tmp_path / "label.csv").write_text(HEAD + "x,1,a,1,test\nx,2,b,1,test\n")
    source = Table(tmp_path / "label.csv", RANGE, clips=tmp_path / "clips")
    assert len(list(source)) == 2
    assert source.notes == [f"0 of 2 samples have a clip in {tmp_path / 'clips'}"]


def test_clips_of_a_column_and_of_a_folder_complete_each_other(tmp_path):
    (tmp_path / "clips" / "v").mkdir(parents=True)
    (tmp_path / "clips" / "v" / "1.mp4").touch()
    samples = read(tmp_path, "video_id,clip_id,clip\nv,1,\nv,2,near.mp4\n", clips=tmp_path / "clips")
    assert [s.clip for s in samples] == [str(tmp_path / "clips" / "v" / "1.mp4"), str(tmp_path / "near.mp4")]


def test_simss_unimodal_labels_are_kept(tmp_path):
    head = "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"
    (sample,) = read(tmp_path, head + "video_0001,0001,好,-0.6,-0.4,,0.0,Negative,train\n")
    assert sample.sample_id == "video_0001_0001"
    assert sample.unimodal == {"text": -0.4, "vision": 0.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("video_id,text,label\nv,a,1\n", "no column sample_id, nor video_id and clip_id; it has video_id, text, label"),
        ("sample_id,words,label\nv,a,1\n", "no column text, audio, vision or clip"),
        (HEAD + "v,1,a,good,test\n", "line 2, sample 'v_1': label 'good' is not a number"),
        (HEAD + "v,1,a,3.2,test\n", "line 2, sample 'v_1': label 3.2 lies outside"),
        (HEAD + "v,1,a,nan,test\n", "label 'nan' is not a number"),
        (HEAD + "v,1,a,1,dev\n", "mode 'dev' is not one of train, valid, test"),
        (HEAD + "v,1,a,1,test\nv,1,b,1,test\n", "line 3, sample 'v_1': stands in line 2 already"),
        (HEAD + "v,,a,1,test\n", "line 2: no video_id and clip_id"),
        (
            HEAD + "v,1,a,b,1,test\nv,2,a,1,test\n",
            "line 2: 6 fields where the header has 5; put text with commas in quotes",
        ),
        (HEAD + "v,1,a\n", "line 2: 3 fields where the header has 5"),
        (HEAD + '\nv,1,"a\nb",1,test\n\n  \nv,2,a,1,dev\n', "line 7, sample 'v_2'"),
        (HEAD + 'v,1,"a\n\nb,1,test\n', "line 2: not a CSV file (unexpected end of data)"),
        (HEAD + f"v,1,{'a' * 2**24}b,1,test\n", "line 2: not a CSV file (field larger than field limit"),
        ("video_id,clip_id,text,text,mode\n", "two columns are called 'text'"),
        (HEAD + "v,1,a,1,\x1b[2J\n", "mode '\\x1b[2J' is not one of"),
        (HEAD + f"v,1,a,1,{'é' * 99}\n", f"mode '{'é' * 60}...' is not one of"),
        (HEAD + 'v,"1\n",a,1,test\n', "line 2: id 'v_1\\n' is empty, too long or has control characters"),
        ("id,text,audio\nx,a,no\x1b.npy\n", "line 2, sample 'x': audio no\\x1b.npy is not a .npy file"),
        (HEAD, "no rows"),
        ("", "not a CSV file"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path, text, said):
    with pytest.raises(BadInput) as error:
        read(tmp_path, text)
    assert said in str(error.value)
    assert str(tmp_path / "label.csv") in str(error.value)
    assert str(error.value).isprintable()


def test_a_long_text_is_read_whole_and_the_line_ends_of_any_system(tmp_path):
    limit = csv.field_size_limit()
    text = "so " * 100_000
    read_ = read(tmp_path, f"\ufeff{HEAD}v,1,{text},1,test\r\nv,2,b,1,test\r")
    assert [s.text for s in read_] == [text.strip(), "b"]
    assert csv.field_size_limit() == limit


def test_a_csv_of_another_encoding_or_packed_wrongly_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,text\nx,\xe9t\xe9\n")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"id,text\nx,fine\n")[:-12])
    with pytest.raises(BadInput, match="not a CSV file in UTF-8"):
        list(Table(tmp_path / "a.csv", RANGE))
    with pytest.raises(BadInput, match="cannot be read"):
        list(Table(tmp_path / "a.csv.gz", RANGE))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        Table(tmp_path / "label.csv", RANGE)
    with pytest.raises(BadInput, match="no such file"):
        Table(tmp_path / "label.parquet", RANGE)


def test_columns_of_other_names_are_named(tmp_path):
    rows = "key,transcript,score\na,so so,0.5\n"
    (sample,) = read(tmp_path, rows, columns={"sample_id": "key", "text": "transcript", "label": "score"})
    assert (sample.sample_id, sample.text, sample.label, sample.split) == ("a", "so so", 0.5, "test")
    with pytest.raises(BadInput, match="no column words; it has key, transcript, score"):
        read(tmp_path, rows, columns={"sample_id": "key", "text": "words"})
    with pytest.raises(WrongUse, match="--column txt=transcript: the names are sample_id"):
        read(tmp_path, rows, columns={"txt": "transcript"})


def test_what_a_table_does_not_say_is_noted(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\nx,fine\n")
    notes = Table(tmp_path / "a.csv", RANGE).notes
    assert ["no column label" in notes[0], "every sample is of split test" in notes[1]] == [True, True]


def test_a_table_may_be_packed_and_lie_behind_a_uri(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"id,text,clip\nx,fine,clips/x.mp4\ny,bad,s3://bucket/y.mp4\n"))
    near, far = (list(Table(place, RANGE)) for place in (tmp_path / "a.csv.gz", f"file://{tmp_path}/a.csv.gz"))
    assert [s.text for s in near] == [s.text for s in far] == ["fine", "bad"]
    assert [near[0].clip, far[0].clip] == [f"{tmp_path}/clips/x.mp4", f"file://{tmp_path}/clips/x.mp4"]
    assert near[1].clip == far[1].clip == "s3://bucket/y.mp4"
    with pytest.raises(BadInput, match="pyarrow cannot reach it"):
        Table("nowhere://bucket/a.csv", RANGE)


@pytest.fixture
def sequences():
    draw = np.random.default_rng(0)
    return [draw.normal(size=(steps, 3)).astype(np.float32) for steps in (2, 5, 1)]


def as_nested(sequences):
    return pa.array([s.tolist() for s in sequences], pa.list_(pa.list_(pa.float32())))


def as_fixed(sequences):
    return pa.array([s.tolist() for s in sequences], pa.list_(pa.list_(pa.float64(), 3)))


@pytest.mark.parametrize("shaped", [as_nested, as_fixed])
def test_parquet_brings_features_along(tmp_path, sequences, shaped):
    table = pa.table({"sample_id": ["a", "b", "c"], "audio": shaped(sequences), "label": [1.0, None, -0.5]})
    pq.write_table(table, tmp_path / "mine.parquet", row_group_size=2)
    source = Table(tmp_path / "mine.parquet", RANGE)
    samples = list(source)
    assert source.count == 3 and source.provides == {"audio"}
    for sample, expected in zip(samples, sequences, strict=True):
        assert np.array_equal(sample.audio, expected)
    assert [s.label for s in samples] == [1.0, None, -0.5]
    assert source.features["audio"].model_dump() == {"size": 3, "extractor": "mine"}


def test_flat_features_come_with_their_steps_and_a_folder_is_read_in_order(tmp_path, sequences):
    flat = pa.array([s.ravel() for s in sequences], pa.list_(pa.float32()))
    table = pa.table({"id": [7, 8, 9], "vision": flat, "vision_steps": [len(s) for s in sequences]})
    for i in range(3):
        pq.write_table(table.slice(i, 1), tmp_path / f"{i}.parquet")
    samples = list(Table(tmp_path, RANGE))
    assert [s.sample_id for s in samples] == ["7", "8", "9"]
    assert all(np.array_equal(s.vision, v) for s, v in zip(samples, sequences, strict=True))


def test_features_may_lie_in_npy_files_beside_a_csv(tmp_path, sequences):
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "a.npy", sequences[0])
    np.save(tmp_path / "features" / "b.npy", sequences[1][0])
    pd.DataFrame({"id": ["a", "b", "c"], "text": "x", "audio": ["features/a.npy", "features/b.npy", ""]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    a, b, c = Table(tmp_path / "t.csv", RANGE)
    assert np.array_equal(a.audio, sequences[0])
    assert np.array_equal(b.audio, sequences[1][:1])
    assert c.audio is None
    for name in ("a", "b"):
        (tmp_path / "features" / f"{name}.npy").write_bytes(b"x")
    with pytest.raises(
        BadInput, match=r"line 2, sample 'a': audio features/a.npy is not a .npy file .*\(2 of 2 cannot"
    ):
        list(Table(tmp_path / "t.csv", RANGE))


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def headed(shape, dtype="<f4"):
    """A .npy file with that header and 64 bytes of numbers."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(64)


def packed(array):
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (headed((2, 10)), "it ends before its shape"),
        (headed((2**20, 100)), "it ends before its shape"),
        (headed((2**40, 2**40)), "and a sample at most 134217728 numbers"),
        (headed((-1, 4)), "it has shape"),
        (headed((4, 0)), "audio has 0 numbers a step"),
        (headed((2**70, 0)), "at most"),
        (headed((2, 4), "|O"), "type object"),
        (npy(np.array(1.0)), "it has shape"),
        (npy(np.ones((1, 2, 3))), "it has shape"),
        (npy(np.array([{}, []], dtype=object)), "type object"),
        (packed(np.ones((2, 2))), "magic string"),
        (npy(np.ones((2, 2))).replace(b"'fortran_order'", b"('fortran_order"), "audio a.npy is not a .npy file"),
    ],
)
def test_a_npy_file_that_is_not_what_it_says_is_refused_before_it_is_read(tmp_path, content, said):
    (tmp_path / "a.npy").write_bytes(content)
    (tmp_path / "t.csv").write_text("id,text,audio\nx,fine,a.npy\n")
    with pytest.raises(BadInput, match="line 2, sample 'x': audio") as error:
        list(Table(tmp_path / "t.csv", RANGE))
    assert said in str(error.value) and str(error.value).isprintable()


def test_features_that_cannot_be_used_are_left_out_with_a_note_and_refused_where_none_fits(tmp_path):
    values = [[[1.0, np.nan]], [[1.0, 0.0]], []]
    table = pa.table(
        {"id": ["a", "b", "c"], "text": ["x"] * 3, "audio": pa.array(values, pa.list_(pa.list_(pa.float32())))}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    source = Table(tmp_path / "t.parquet", RANGE)
    a, b, c = source
    assert a.audio is None and c.audio is None
    assert b.audio.tolist() == [[1.0, 0.0]]
    assert [note.partition(":")[0] for note in source.notes[2:]] == ["sample 'a'", "sample 'c'"]
    pq.write_table(table.set_column(2, "audio", pa.array([[[1.0]], [[1.0, 2.0]], None])), tmp_path / "t.parquet")
    with pytest.raises(BadInput, match="audio has 1 in sample 'a', 2 in sample 'b', and no size more than half"):
        list(Table(tmp_path / "t.parquet", RANGE))
    pq.write_table(table.set_column(2, "audio", pa.array([[[1.0], [1.0, 2.0]], None, None])), tmp_path / "t.parquet")
    with pytest.raises(BadInput, match="row 1, sample 'a': audio is not a sequence of steps"):
        list(Table(tmp_path / "t.parquet", RANGE))


def write(path, **columns):
    rows = max(len(values) for values in columns.values())
    pq.write_table(pa.table({"id": [f"s{i}" for i in range(rows)], "text": ["x"] * rows} | columns), path)
    return path


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([b"RIFF"], "binary"),
        ([{"bytes": b"RIFF", "path": "a.wav"}], "struct<"),
        ([0.5], "double"),
        ([["a", "b"]], "list<"),
        ([[[[1.0]]]], "list<"),
        ([[True]], "list<"),
    ],
)
def test_a_column_of_another_type_is_refused_when_the_table_is_opened(tmp_path, values, kind):
    with pytest.raises(BadInput, match=f"column audio is of type {kind}.*; audio takes lists of numbers, or paths of"):
        Table(write(tmp_path / "t.parquet", audio=values), RANGE)
    with pytest.raises(BadInput, match="column text is of type binary; text takes numbers, or text"):
        Table(write(tmp_path / "t.parquet", text=[b"x"]), RANGE)


def test_columns_of_nothing_are_columns_without_features(tmp_path):
    source = Table(write(tmp_path / "t.parquet", audio=pa.nulls(2), vision=[[], None]), RANGE)
    assert [(s.audio, s.vision) for s in source] == [(None, None)] * 2
    assert source.notes[2:] == ["sample 's0': vision has 0 steps; kept without vision"]


@pytest.mark.parametrize("steps", [4, 3.0, -2, -6, 1.5, float("nan"), float("inf"), 2**60])
def test_steps_that_do_not_divide_the_numbers_are_refused(tmp_path, steps):
    path = write(tmp_path / "t.parquet", audio=[[1.0] * 10], audio_steps=[steps])
    with pytest.raises(BadInput, match="row 1, sample 's0': audio_steps .* does not divide its 10 numbers"):
        list(Table(path, RANGE))


def test_steps_of_zero_are_no_features_and_those_of_nested_ones_must_be_theirs(tmp_path):
    path = write(tmp_path / "t.parquet", audio=[[], [1.0], [1.0, 2.0]], audio_steps=[0, 0, None])
    source = Table(path, RANGE)
    assert [s.audio is None for s in source] == [True, True, False]
    assert [note.partition(": ")[2] for note in source.notes[2:]] == ["audio has 0 steps; kept without audio"] * 2
    path = write(tmp_path / "t.parquet", audio=[[[1.0, 2.0]] * 3], audio_steps=[2.0])
    with pytest.raises(BadInput, match="audio_steps 2.0 does not divide"):
        list(Table(path, RANGE))
    path = write(tmp_path / "t.parquet", audio=[[[], []]])
    with pytest.raises(BadInput, match="row 1, sample 's0': audio has 0 numbers a step"):
        list(Table(path, RANGE))
    path = write(tmp_path / "t.parquet", audio=pa.array([[[1.0], None]], pa.list_(pa.list_(pa.float32(), 1))))
    with pytest.raises(BadInput, match="row 1, sample 's0': audio is not a sequence of steps"):
        list(Table(path, RANGE))


@pytest.mark.parametrize("column", ["id", "text"])
def test_text_that_is_not_utf_8_is_named(tmp_path, column):
    broken = pa.array([b"x", b"\xe9t\xe9"]).view(pa.string())
    with pytest.raises(BadInput, match=f"row 2: column {column} holds text that is not UTF-8"):
        list(Table(write(tmp_path / "t.parquet", **{column: broken}), RANGE))


def test_damage_within_a_parquet_file_is_named(tmp_path):
    path = write(tmp_path / "t.parquet", audio=[[float(i)] for i in range(1000)])
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = b"\xff" * (len(data) // 2 - 4)
    path.write_bytes(data)
    with pytest.raises(BadInput, match="t.parquet, after row 0: damaged") as error:
        list(Table(path, RANGE))
    assert str(error.value).isprintable()


def test_rows_that_hold_much_are_read_one_at_a_time_and_too_much_is_refused(tmp_path, monkeypatch):
    path = write(
        tmp_path / "t.parquet", audio=[np.arange(n, dtype=np.float32) for n in (4, 10, 1)], audio_steps=[1] * 3
    )
    monkeypatch.setattr(rows, "NUMBERS_AT_ONCE", 14)
    column = {"audio": "audio", "sample_id": "id"}
    assert [b.num_rows for b in rows._batches(pq.ParquetFile(path), column, "t")] == [1, 1, 1]
    monkeypatch.setattr(rows, "NUMBERS_AT_ONCE", 15)
    assert [b.num_rows for b in rows._batches(pq.ParquetFile(path), column, "t")] == [3]
    monkeypatch.setattr(rows, "MOST_NUMBERS", 5)
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(BadInput, match="t.parquet: row group 1 with 11 numbers in 2 rows, and a sample may have 5"):
        list(Table(path, RANGE))
    for module in (rows, tables):
        monkeypatch.setattr(module, "MOST_NUMBERS", 9)
    source = Table(path, RANGE)
    assert [s.audio is None for s in source] == [True, False]
    assert source.notes[2:] == ["sample 's1': audio has 10 numbers, more than 9; kept without audio"]


@pytest.mark.parametrize("written", ["f2", "f2/", "./f2"])
def test_a_folder_of_parquet_is_where_its_names_start_and_may_hold_other_files(tmp_path, monkeypatch, written):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f2" / "sub").mkdir(parents=True)
    np.save(tmp_path / "f2" / "a.npy", np.ones((2, 3)))
    for name in ("f2/sub/1.parquet", "f2/0.parquet", "f2/_old.parquet", "f2/.cache.parquet"):
        write(tmp_path / name, id=[name], audio=["a.npy"], clip=["a.mp4"])
    (tmp_path / "f2" / "readme.txt").write_text("not Parquet")
    source = Table(written, RANGE)
    samples = list(source)
    assert [s.sample_id for s in samples] == ["f2/0.parquet", "f2/sub/1.parquet"] and source.count == 2
    assert samples[0].audio.shape == (2, 3)
    assert {s.clip for s in samples} == {f"{written.rstrip('/')}/a.mp4"}
    assert [s.clip for s in Table(f"file://{tmp_path}/f2", RANGE)] == [f"file://{tmp_path}/f2/a.mp4"] * 2


def test_a_file_of_a_folder_that_lacks_a_column_is_named(tmp_path):
    write(tmp_path / "0.parquet", audio=[[1.0]])
    write(tmp_path / "1\n.parquet", vision=[[1.0]])
    with pytest.raises(BadInput, match=r"1\\n.parquet: no column audio; every file of a table needs the same columns"):
        list(Table(tmp_path, RANGE))
    write(tmp_path / "1\n.parquet", audio=[b"x"])
    with pytest.raises(BadInput, match=r"1\\n.parquet: column audio is of type binary"):
        list(Table(tmp_path, RANGE))


def test_the_extractor_may_be_named(tmp_path):
    path = write(tmp_path / "mine.parquet", audio=[[1.0]])
    source = Table(path, RANGE, extractor="COVAREP")
    assert len(list(source)) == 1 and source.features["audio"].extractor == "COVAREP"
