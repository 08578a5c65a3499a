"""Tables: label.csv and any other CSV or Parquet, what is read of them, and what is said of what cannot be."""

import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
        (HEAD + "v,1,a,nan,test\n", "label nan lies outside"),
        (HEAD + "v,1,a,1,dev\n", "mode 'dev' is not one of train, valid, test"),
        (HEAD + "v,1,a,1,test\nv,1,b,1,test\n", "line 3, sample 'v_1': stands in line 2 already"),
        (HEAD + "v,,a,1,test\n", "line 2: no video_id and clip_id"),
        (HEAD, "no rows"),
        ("", "not a CSV file"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path, text, said):
    with pytest.raises(BadInput) as error:
        read(tmp_path, text)
    assert said in str(error.value)
    assert str(tmp_path / "label.csv") in str(error.value)
    assert "\n" not in str(error.value)


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
    (tmp_path / "features" / "b.npy").write_bytes(b"x")
    with pytest.raises(BadInput, match="line 3, sample 'b': audio .*b.npy is not a .npy file"):
        list(Table(tmp_path / "t.csv", RANGE))


def test_features_that_cannot_be_used_are_left_out_with_a_note_and_other_sizes_refused(tmp_path):
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
    with pytest.raises(BadInput, match="row 2, sample 'b': audio has 2 numbers a step, those before 1"):
        list(Table(tmp_path / "t.parquet", RANGE))
    pq.write_table(table.set_column(2, "audio", pa.array([[[1.0], [1.0, 2.0]], [[1.0]], None])), tmp_path / "t.parquet")
    with pytest.raises(BadInput, match="row 1, sample 'a': audio is not a sequence of steps"):
        list(Table(tmp_path / "t.parquet", RANGE))
