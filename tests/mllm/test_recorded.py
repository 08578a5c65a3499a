"""Recorded answers as a large model, and what a chunk asks of any model."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from uacs import mllm
from uacs.errors import BadInput
from uacs.mllm import MllmSettings
from uacs.mllm.chunk import Chunk, answer_chunk
from uacs.mllm.recorded import RecordedAnswers
from uacs.records import Sample, SmallOutput

NAN = float("nan")
RANGE = (-3.0, 3.0)
ROWS = {
    "sample_id": ["a", "b", "c", "d"],
    "y_large": [1.0, -4.0, NAN, -1.0],
    "u_large": [0.2, 0.9, NAN, 0.9],
    "y_verify": [0.5, -2.0, 1.0, 3.5],
    "u_verify": [0.1, 0.1, 0.1, 0.2],
    "seconds_large": [2.0, 2.0, 2.0, 2.0],
}
SAMPLES = [Sample(i, "x") for i in "abcde"]


def written(tmp_path, **columns):
    path = tmp_path / "answers.parquet"
    pd.DataFrame(columns or ROWS).to_parquet(path)
    return str(path)


def test_answers_come_back_in_the_order_asked(tmp_path):
    outputs = RecordedAnswers(written(tmp_path), RANGE).answer(SAMPLES[::-1])
    assert [o.y for o in outputs[3:]] == [-3.0, 1.0]
    assert [o.u for o in outputs[3:]] == [0.9, 0.2]
    assert outputs[4].seconds == 2.0


def test_at_a_pace_a_batch_takes_as_long_as_its_answers_did(tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    spec = "recorded:" + written(tmp_path, **ROWS, seconds_verify=[0.5, NAN, 0.5, 0.5])
    paced, at_once = (mllm.build(spec, MllmSettings(pace=pace), RANGE) for pace in (0.1, 0))
    small = [SmallOutput(0.0, 0.0, (1.0, 0.0, 0.0))] * 2
    answered = paced.answer_and_verify(SAMPLES[:2], small, lambda small, large: np.array([True, True]))
    assert slept == pytest.approx([0.1 * 4.0, 0.1 * 0.5, 0.0])  # both of stage 2; of stage 3 one has no seconds
    slept.clear()
    assert repr(answered) == repr(
        at_once.answer_and_verify(SAMPLES[:2], small, lambda small, large: np.array([True, True]))
    )
    assert not slept


def test_a_run_s_outcomes_are_answers_as_they_lie_there(tmp_path):
    outcomes = tmp_path / "outcomes"
    outcomes.mkdir()
    for part, rows in (("test-00000", slice(0, 2)), ("test-00001", slice(2, 4))):
        pd.DataFrame({name: values[rows] for name, values in ROWS.items()}).to_parquet(outcomes / f"{part}.parquet")
    one, other = (mllm.build(f"recorded:{path}", MllmSettings(), RANGE) for path in (outcomes, written(tmp_path)))
    for mine, theirs in zip(one.answer(SAMPLES[:4]), other.answer(SAMPLES[:4]), strict=True):
        assert repr(replace(mine, error=None)) == repr(replace(theirs, error=None))
    before = mllm.fingerprint(f"recorded:{outcomes}")
    (outcomes / "test-00001.parquet").unlink()
    assert mllm.fingerprint(f"recorded:{outcomes}") != before


def test_out_of_range_is_clipped_and_said_and_what_is_not_there_is_no_guess(tmp_path):
    outputs = RecordedAnswers(written(tmp_path), RANGE).answer(SAMPLES)
    assert [o.status for o in outputs] == ["ok", "clipped", "unavailable", "ok", "unavailable"]
    assert np.isnan(outputs[2].y) and "sample 'c' has no y_large" in outputs[2].error
    assert np.isnan(outputs[4].y) and "no answer for sample 'e'" in outputs[4].error


def test_without_second_looks_none_is_made_up_and_nothing_is_wrong(tmp_path):
    path = written(tmp_path, **{k: ROWS[k] for k in ("sample_id", "y_large", "u_large")})
    (output,) = RecordedAnswers(path, RANGE).verify(SAMPLES[:1], [], [])
    assert (output.status, output.error) == ("unavailable", None)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (dict(sample_id=["a"], y_large=[1.0]), "no column u_large; it has sample_id, y_large"),
        (dict(sample_id=["a", "a"], y_large=[1.0, 1.0], u_large=[0.1, 0.1]), "sample 'a' is recorded twice"),
        (dict(sample_id=["a"], y_large=["good"], u_large=[0.1]), "column y_large is not of numbers"),
        (dict(sample_id=["a"], y_large=[1.0], u_large=[-0.1]), "sample 'a': u_large must be an entropy"),
        (dict(sample_id=["a"], y_large=[1.0], u_large=[NAN]), "sample 'a': u_large must be an entropy"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, columns, said):
    with pytest.raises(BadInput, match=said) as error:
        RecordedAnswers(written(tmp_path, **columns), RANGE)
    assert "\n" not in str(error.value)


def test_a_spec_that_is_no_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for spec, said in [
        (f"recorded:{tmp_path}/none.parquet", "no such file"),
        (str(tmp_path), "model_type 'bert' is not one of"),
        (str(tmp_path / ".."), "no config.json"),
    ]:
        with pytest.raises(BadInput, match=said):
            mllm.check(spec)
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(BadInput, match="not a Parquet file"):
        mllm.build(f"recorded:{tmp_path}/text.parquet", MllmSettings(), RANGE)


def test_the_fingerprint_is_of_the_contents(tmp_path):
    spec = "recorded:" + written(tmp_path)
    before = mllm.fingerprint(spec)
    assert mllm.fingerprint(spec) == before
    written(tmp_path, **(ROWS | {"y_large": [1.0, -4.0, NAN, -1.1]}))
    assert mllm.fingerprint(spec) != before


def small(*scores):
    return [SmallOutput(y, 1.0, (0.3, 0.3, 0.4)) for y in scores]


@pytest.mark.parametrize(
    ("verify", "looked"),
    [
        ("due", ["not_asked", "clipped"]),  # the first is sure
        ("conflict", ["ok", "clipped"]),
        ("never", ["not_asked", "not_asked"]),
    ],
)
def test_a_chunk_is_looked_at_twice_as_it_says(tmp_path, verify, looked):
    model = RecordedAnswers(written(tmp_path), RANGE)
    chunk = Chunk([SAMPLES[0], SAMPLES[3]], small(-1.0, 1.0), 0.5, verify)
    answer = answer_chunk(model, chunk)
    assert [o.y for o in answer.large] == [1.0, -1.0]
    assert [o.status for o in answer.verify] == looked


def test_a_chunk_pairs_each_second_look_with_its_own_sample(tmp_path):
    model = RecordedAnswers(written(tmp_path), RANGE)
    chunk = Chunk(SAMPLES[:4], small(1.0, 1.0, 1.0, 1.0), NAN, "conflict")
    assert [o.y for o in answer_chunk(model, chunk).verify][1::2] == [-2.0, 3.0]
    assert [o.status for o in answer_chunk(model, chunk).verify] == ["not_asked", "ok", "not_asked", "clipped"]
