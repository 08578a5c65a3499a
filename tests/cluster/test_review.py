"""Finished runs, looked at again: replayed at other thresholds and compared, by function and by command."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from tests.cluster.conftest import SETTINGS
from uacs import metrics
from uacs.cascade.outcomes import column
from uacs.cascade.thresholds import Thresholds
from uacs.cluster import review
from uacs.cluster.evaluation import Models, evaluate
from uacs.cluster.runs import Run, write_outcome
from uacs.errors import BadInput, Refused, WrongUse


def summary_of(run):
    return json.loads((run / "metrics.json").read_text())


def test_a_replay_at_the_runs_own_thresholds_is_the_run(runs):
    thresholds = Thresholds.load(runs / "whole" / "thresholds.json")
    replayed = review.replay(Run.open(runs / "whole"), thresholds)
    assert replayed.pop("missing") == {"large": 0, "verify": 0}
    assert replayed["seconds"].pop("wall") is None
    ran = summary_of(runs / "whole")
    ran["seconds"].pop("wall")
    assert replayed == ran


def test_a_replay_at_another_lambda_is_the_run_that_it_stands_for(runs, dataset, ubm, recorded, tmp_path):
    thresholds = review.recalibrated(Run.open(runs / "whole"), runs / "calibration", 0.8, 0.0)
    replayed = review.replay(Run.open(runs / "whole"), thresholds)
    ran = evaluate(Models(dataset, "test", ubm, f"recorded:{recorded}"), thresholds, tmp_path / "run", SETTINGS)
    assert replayed["stages"] == ran["stages"]
    assert replayed["metrics"]["uacs"] == pytest.approx(ran["metrics"]["uacs"])
    assert replayed["cost"]["uacs"] == pytest.approx(ran["cost"]["uacs"], rel=0.2)  # the small model is timed anew


def test_answers_that_were_never_asked_for_are_counted(runs):
    asked = Run.open(runs / "sparse")
    more = Thresholds(tau_small=-1, tau_large=0.0)
    replayed = review.replay(asked, more)
    never = asked.table()["large_status"].to_pylist().count("not_asked")
    assert never > 0 and replayed["missing"]["large"] == never == replayed["degraded"]


def test_what_a_replay_never_asked_for_costs_what_nobody_knows(runs):
    replayed = review.replay(Run.open(runs / "sparse"), Thresholds(tau_small=-1, tau_large=0.0))
    assert replayed["cost"]["uacs"] is None
    assert any(text.startswith("over-escalation") for text in replayed["warnings"])


def test_thresholds_are_set_by_a_whole_calibration_on_other_samples(runs, tmp_path):
    run = Run.open(runs / "whole")
    with pytest.raises(Refused, match="a run of `uacs evaluate`; thresholds are set by one of `uacs calibrate`"):
        review.recalibrated(run, runs / "sparse", 0.5, 0.0)
    with pytest.raises(Refused, match="calibrated on the samples that .* reports"):
        review.recalibrated(Run.open(runs / "calibration"), runs / "calibration", 0.5, 0.0)
    unfinished = shutil.copytree(runs / "calibration", tmp_path / "calibration")
    (unfinished / "metrics.json").unlink()
    with pytest.raises(BadInput, match="the run is not finished"):
        review.recalibrated(run, unfinished, 0.5, 0.0)
    made = review.recalibrated(run, runs / "calibration", None, None)
    assert (made.small.lambda_, made.small.beta) == (0.3, 0.1)


def test_a_run_that_is_not_finished_is_neither_replayed_nor_compared(runs, tmp_path):
    unfinished = shutil.copytree(runs / "whole", tmp_path / "unfinished")
    (unfinished / "metrics.json").unlink()
    with pytest.raises(BadInput, match="the run is not finished"):
        review.replay(Run.open(unfinished), Thresholds(tau_small=0.5, tau_large=0.5))
    with pytest.raises(BadInput, match="the run is not finished"):
        review.compare(str(unfinished), str(runs / "whole"))


def test_thresholds_of_another_model_are_refused(runs):
    thresholds = Thresholds.load(runs / "whole" / "thresholds.json").model_copy(update={"ubm": "another"})
    with pytest.raises(Refused, match="made with ubm another"):
        review.replay(Run.open(runs / "whole"), thresholds)


def test_the_command_replays_by_lambda_and_by_file(uacs, runs, tmp_path):
    code, by_lambda, err = uacs(
        "replay", runs / "whole", "--calibration", runs / "calibration", "--lambda", 0.3, "--out", tmp_path / "r"
    )
    assert (code, err) == (0, "")
    code, by_file, _ = uacs("replay", runs / "whole", "--thresholds", tmp_path / "r" / "thresholds.json")
    assert by_lambda.startswith(by_file.rstrip())
    acc2 = summary_of(runs / "whole")["metrics"]["uacs"]["acc2"]
    assert summary_of(tmp_path / "r")["metrics"]["uacs"]["acc2"] == acc2 and f"{100 * acc2:.1f}" in by_file
    code, _, err = uacs("replay", runs / "sparse", "--calibration", runs / "calibration", "--lambda", 0)
    assert code == 0 and "had no large answer and keep y_small" in err
    code, _, err = uacs("replay", runs / "whole", "--lambda", 0.3)
    assert code == 1 and "no calibration there; name the run" in err
    code, _, err = uacs("replay", runs / "whole", "--calibration", runs / "calibration", "--out", runs / "sparse")
    assert code == 1 and "holds something else than a replay" in err


def test_two_runs_are_compared_on_the_samples_that_both_answered(uacs, runs):
    comparison = review.compare(f"{runs}/whole", f"{runs}/whole:large", resamples=300)
    table = Run.open(runs / "whole").table()
    label = column(table, "label")
    ours, theirs = (metrics.score(column(table, name), label, "mosi") for name in ("prediction", "y_large"))
    acc2 = comparison.metrics["acc2"]
    assert (acc2.first, acc2.second) == (ours["acc2"], theirs["acc2"])
    assert acc2.low <= acc2.difference <= acc2.high
    code, said, _ = uacs("compare", f"{runs}/whole", f"{runs}/whole:large", "--resamples", 300)
    assert code == 0
    assert f"{100 * acc2.difference:+.1f}" in said and f"McNemar p = {comparison.mcnemar.p:.3g}" in said
    code, said, _ = uacs("compare", f"{runs}/sparse", f"{runs}/whole", "--resamples", 100)
    assert "+0.0   [+0.0, +0.0]" in said and "McNemar p = 1" in said
    code, said, _ = uacs("compare", f"{runs}/sparse", f"{runs}/sparse:large", "--resamples", 100)
    assert "unanswered in the second" in said


def test_runs_that_cannot_be_compared_say_why(runs, tmp_path):
    other = shutil.copytree(runs / "whole", tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["identity"]["like"] = "sims"
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Refused, match="mosi's rules, .* by sims's"):
        review.compare(str(runs / "whole"), str(other))
    silent = shutil.copytree(runs / "whole", tmp_path / "silent")
    for path in (silent / "outcomes").iterdir():
        table = pa.parquet.read_table(path)
        nothing = pa.array(np.full(len(table), None), pa.float64())
        write_outcome(path, table.set_column(table.column_names.index("y_large"), "y_large", nothing))
    with pytest.raises(WrongUse, match="expected RUN, RUN:small or RUN:large"):
        review.compare(f"{silent}:big", str(runs / "whole"))
    with pytest.raises(BadInput, match="no sample has an answer of 'large'"):
        review.compare(f"{silent}:large", str(runs / "whole"))
