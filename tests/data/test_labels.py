"""label.csv: what is read, and what is said of what cannot be."""

import pytest

from uacs.data.labels import read_labels
from uacs.errors import BadInput

HEAD = "video_id,clip_id,text,label,mode\n"


def read(tmp_path, text, **options):
    path = tmp_path / "label.csv"
    path.write_text(text, encoding="utf-8")
    return read_labels(path, (-3.0, 3.0), **options)


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
    assert samples[0].clip == str(tmp_path / "Raw" / "v" / "1.mp4")
    assert samples[1].clip is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("video_id,clip_id,text,label\nv,1,a,1\n", "no column mode; it has video_id, clip_id, text, label"),
        (HEAD + "v,1,a,good,test\n", "line 2, sample 'v_1': label 'good' is not a number"),
        (HEAD + "v,1,a,3.2,test\n", "line 2, sample 'v_1': label 3.2 lies outside"),
        (HEAD + "v,1,a,nan,test\n", "label nan lies outside"),
        (HEAD + "v,1,a,1,dev\n", "mode 'dev' is not one of train, valid, test"),
        (HEAD + "v,1,a,1,test\nv,1,b,1,test\n", "line 3, sample 'v_1': stands in line 2 already"),
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
        read_labels(tmp_path / "label.csv", (-3, 3))
