"""What a run says on the terminal, in a file, and as JSON lines."""

import json
import logging

import pytest

from uacs import console
from uacs.cluster.progress import Counts, Progress

HALF = Progress(600, Counts(), Counts(small=300, due=100, asked=90, looked_twice=9, written=256, errors=1), 5.0)
WHOLE = Progress(600, Counts(), Counts(small=600, due=200, asked=200, written=600, errors=1, by_small=399, by_large=9))


def test_in_a_file_the_stages_are_said_from_time_to_time_and_the_sum_at_the_end(capsys, monkeypatch):
    monkeypatch.setattr(console, "EVERY", 0.0)
    with console.cascade("evaluating") as told:
        told(HALF)
        told(WHOLE)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("evaluating, small: 300 of 600, 1 errors, ")
    assert lines[1].startswith("evaluating, large: 90 of 200, 33.3% of the samples, ")
    assert lines[2].startswith("evaluating, verify: 9 of 20, 10.0% of these, ")
    assert lines[-1].startswith("evaluating: 600 of 600 in ") and lines[-1].endswith("small 399  large 9  errors 1")


def test_a_run_that_ends_before_it_begins_says_nothing(capsys):
    with pytest.raises(OSError, match="gone"), console.cascade("evaluating"):
        raise OSError("gone")
    assert capsys.readouterr().err == ""


@pytest.fixture
def logged(tmp_path):
    logger = logging.getLogger("uacs")
    console.log_json(tmp_path / "log.jsonl")
    yield lambda: [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    logger.removeHandler(logger.handlers[-1])
    logger.propagate = True


def test_json_lines_have_time_level_event_and_what_else_there_is(logged):
    logging.getLogger("uacs.run").warning("sample failed", extra={"run": "r", "sample_id": "é_1"})
    (line,) = logged()
    assert line.pop("time") > 0
    assert line == {"level": "warning", "event": "sample failed", "run": "r", "sample_id": "é_1"}


def test_a_runs_log_tells_its_story_and_nothing_of_what_was_said_in_the_clips(
    logged, ray_cluster, dataset, ubm, recorded, tmp_path
):
    import pandas as pd

    from uacs.cascade.thresholds import Thresholds
    from uacs.cluster.evaluation import Models, evaluate
    from uacs.config import EvaluationSettings

    few = pd.read_parquet(recorded).iloc[:200]
    few.to_parquet(tmp_path / "few.parquet")
    models = Models(dataset, "test", ubm, f"recorded:{tmp_path / 'few.parquet'}")
    summary = evaluate(models, Thresholds(tau_small=-1, tau_large=0.5), tmp_path / "run", EvaluationSettings())
    story = logged()
    assert [story[0]["event"], story[-1]["event"]] == ["run begun", "run finished"]
    assert sum(line["written"] for line in story if line["event"] == "part written") == 600
    failed = [line for line in story if line["event"] == "sample failed"]
    assert len(failed) == summary["degraded"] and {line["large_status"] for line in failed} == {"unavailable"}
    said = (tmp_path / "log.jsonl").read_text()
    assert not [s for s in dataset.samples("test") if s.text in said]
