"""Calibrate and evaluate on a real Ray: the same answers as direct calls, resumed, refused, replayed."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.mmsa_files import write_pickle
from uacs.cascade import routing
from uacs.cascade.outcomes import column
from uacs.cascade.replay import Answers, replay
from uacs.cascade.thresholds import Thresholds, fit
from uacs.cluster.evaluation import Models, calibrate, evaluate, rewrite_report
from uacs.cluster.resources import Resources
from uacs.cluster.runs import Run
from uacs.cluster.status import read as read_status
from uacs.config import EvaluationSettings
from uacs.data import places
from uacs.data.prepare import PrepareSettings, prepare
from uacs.data.prepared import PreparedDataset
from uacs.errors import BadInput, Refused
from uacs.mllm import MllmSettings, build
from uacs.ubm.predictor import SmallPredictor

pytestmark = pytest.mark.usefixtures("ray_cluster")

SECONDS = ["seconds_small", "seconds_large", "seconds_verify"]
SETTINGS = EvaluationSettings(chunk_size=16, resources=Resources(pool=1, parts_in_flight=1))


@pytest.fixture(scope="module")
def spec(recorded):
    return f"recorded:{recorded}"


@pytest.fixture(scope="module")
def models(dataset, ubm, spec):
    return {split: Models(dataset, split, ubm, spec) for split in ("valid", "test")}


@pytest.fixture(scope="module")
def calibration(ray_cluster, models, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "calibration"
    return out, calibrate(models["valid"], out, SETTINGS)


@pytest.fixture(scope="module")
def run(ray_cluster, models, calibration, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "evaluation"
    return out, evaluate(models["test"], calibration[1], out, SETTINGS)


def table(out):
    return Run.open(out).table().drop_columns(SECONDS)


def test_calibration_asks_everyone_and_applies_eq_19(calibration, models):
    out, thresholds = calibration
    answers = Run.open(out).table()
    assert set(answers["large_status"].to_pylist()) <= {"ok", "clipped"}
    y, label = column(answers, "y_small"), column(answers, "label")
    assert thresholds.small.lambda_ == 0.1  # the paper's on MOSI
    assert thresholds.tau_small == fit(column(answers, "u_small"), y, label, 0.1)[0]
    assert thresholds.small.n_same + thresholds.small.n_opposite == 80
    conflict = routing.second_look(y, column(answers, "y_large"), column(answers, "u_large"), np.nan, "conflict")
    asked_twice = np.array([s != "not_asked" for s in answers["verify_status"].to_pylist()])
    assert np.array_equal(conflict, asked_twice) and conflict.any()
    reference = thresholds.reference
    assert (reference.n, reference.counts) == (80, [8] * 10)
    assert reference.escalated == np.mean(column(answers, "u_small") > thresholds.tau_small)
    assert Thresholds.load(out / "thresholds.json") == thresholds


def test_ray_answers_as_the_predictors_do_when_called_directly(run, models, calibration):
    out, _ = run
    thresholds = calibration[1]
    outcomes = Run.open(out).table()
    samples = sorted(models["test"].dataset.samples("test"), key=lambda s: s.sample_id)
    assert outcomes["sample_id"].to_pylist() == [s.sample_id for s in samples]

    small = SmallPredictor(models["test"].ubm).predict(samples)
    large = build(models["test"].mllm, MllmSettings(), (-3.0, 3.0))
    first, second = large.answer(samples), large.verify(samples, [], [])
    assert np.allclose(column(outcomes, "y_small"), [o.y for o in small], atol=1e-5)
    assert np.allclose(column(outcomes, "u_small"), [o.u for o in small], atol=1e-5)
    direct = routing.decide(
        *(np.array(v) for v in ([o.y for o in small], [o.u for o in small])),
        *(np.array(v) for v in ([o.y for o in first], [o.u for o in first], [o.y for o in second])),
        thresholds.tau_small,
        thresholds.tau_large,
    )
    assert np.allclose(column(outcomes, "prediction"), direct.prediction, atol=1e-5)
    assert outcomes["stage"].to_pylist() == [routing.STAGES[code] for code in direct.stage]


def test_only_the_unsure_are_asked_and_only_unsure_conflicts_twice(run, calibration):
    outcomes, thresholds = Run.open(run[0]).table(), calibration[1]
    asked = np.array([s != "not_asked" for s in outcomes["large_status"].to_pylist()])
    assert np.array_equal(asked, column(outcomes, "u_small") > thresholds.tau_small)
    twice = np.array([s != "not_asked" for s in outcomes["verify_status"].to_pylist()])
    assert np.array_equal(twice, np.array(outcomes["stage"].to_pylist()) == "verify")
    assert 0 < twice.sum() < asked.sum() < 600


def test_every_stage_is_taken_and_the_summary_adds_up(run):
    _, summary = run
    assert summary["n"] == sum(summary["stages"].values()) == 600
    assert all(summary["stages"].values())
    assert (summary["errors"], summary["degraded"]) == (0, 0)
    assert summary["metrics"]["uacs"]["acc2"] > summary["metrics"]["small"]["acc2"]
    asked = 600 - summary["stages"]["small"]
    assert summary["seconds"]["large"] == pytest.approx(0.5 * asked)
    assert summary == json.loads((run[0] / "metrics.json").read_text())


def test_replay_of_the_recorded_run_equals_the_live_run(run, calibration):
    outcomes = Run.open(run[0]).table()
    again = replay(Answers.of(outcomes), calibration[1].tau_small, calibration[1].tau_large)
    assert np.array_equal(again.decision.prediction, column(outcomes, "prediction"))
    assert (again.missing_large, again.missing_verify) == (0, 0)


def test_batches_chunks_and_pools_change_no_answer(run, models, calibration, tmp_path):
    plan = Resources(pool=2, replicas=2, parts_in_flight=3)
    other = EvaluationSettings(resources=plan, batch_size=5, chunk_size=3)
    evaluate(models["test"], calibration[1], tmp_path / "other", other)
    ours, theirs = Run.open(run[0]).table(), Run.open(tmp_path / "other").table()
    for name in ("y_small", "u_small", "y_large", "u_large", "prediction"):
        assert np.allclose(column(ours, name), column(theirs, name), atol=1e-5, equal_nan=True)
    assert ours["stage"].to_pylist() == theirs["stage"].to_pylist()


def test_all_stages_keeps_the_predictions_and_compares_systems(run, models, calibration, tmp_path):
    summary = evaluate(models["test"], calibration[1], tmp_path / "all", SETTINGS, all_stages=True)
    ours, everything = Run.open(run[0]).table(), Run.open(tmp_path / "all").table()
    assert everything["prediction"].to_pylist() == ours["prediction"].to_pylist()
    assert summary["metrics"]["large"]["n"] == 600
    assert summary["compared"]["random"]["acc2"]["difference"] > 0
    assert "random routing" in (tmp_path / "all" / "report.html").read_text()


def test_an_interrupted_run_goes_on_where_it_stopped_and_is_equal_bit_by_bit(run, models, calibration, tmp_path):
    out = tmp_path / "resumed"
    shutil.copytree(run[0], out)
    lost = out / "outcomes" / "test-00001.parquet"
    lost.unlink()
    kept = {p.name: p.stat().st_mtime_ns for p in (out / "outcomes").iterdir()}
    seen = []
    evaluate(models["test"], calibration[1], out, SETTINGS, progress=seen.append)
    assert table(out).equals(table(run[0]))
    assert all((out / "outcomes" / name).stat().st_mtime_ns == then for name, then in kept.items())
    assert {progress.total for progress in seen} == {600}
    assert seen[0].counts.written == seen[-1].earlier.written == 600 - 256
    assert seen[-1].counts.written == 600 and seen[-1].counts.settled == run[1]["stages"]


@pytest.mark.cluster
def test_a_run_on_another_filesystem_is_the_same_run(run, models, calibration, tmp_path):
    data = PreparedDataset(f"file://{models['test'].dataset.folder}")
    out = f"file://{tmp_path}/run"
    there = replace(models["test"], dataset=data)
    assert evaluate(there, calibration[1], out, SETTINGS)["metrics"] == run[1]["metrics"]
    assert Run.open(out).table().drop_columns(SECONDS).equals(table(run[0]))
    places.write(f"{out}/outcomes/test-00000.parquet", b"not a table")
    with pytest.raises(BadInput, match="outcomes that cannot be read .* remove that part"):
        evaluate(there, calibration[1], out, SETTINGS)
    (tmp_path / "run" / "outcomes" / "test-00000.parquet").unlink()
    evaluate(there, calibration[1], out, SETTINGS)
    assert Run.open(out).table().drop_columns(SECONDS).equals(table(run[0]))
    assert {p.name for p in (tmp_path / "run").iterdir()} == {p.name for p in run[0].iterdir()}


def test_a_run_that_was_killed_after_its_last_part_is_finished_by_the_same_command(run, models, calibration, tmp_path):
    out = shutil.copytree(run[0], tmp_path / "run")
    (out / "metrics.json").unlink()
    said = json.loads((out / "status.json").read_text())
    said |= {"state": "running", "pid": 2**22 + 1}
    said["progress"]["counts"] |= {"small": 512, "written": 256}
    (out / "status.json").write_text(json.dumps(said))
    assert evaluate(models["test"], calibration[1], out, SETTINGS)["metrics"] == run[1]["metrics"]
    now = read_status(Run.open(out))
    assert (now.state, now.progress.counts.small, now.progress.counts.written) == ("finished", 600, 600)
    assert [session["written"] for session in Run.open(out).manifest["sessions"]] == [600, 256]


def test_outcomes_of_another_run_among_a_runs_own_are_found(run, models, calibration, tmp_path):
    out = shutil.copytree(run[0], tmp_path / "run")
    shutil.copy(out / "outcomes" / "test-00000.parquet", out / "outcomes" / "test-00009.parquet")
    with pytest.raises(Refused, match="856 outcomes of 600 samples, where the split has 600"):
        evaluate(models["test"], calibration[1], out, SETTINGS)


def test_a_run_stops_past_max_errors_and_goes_on_with_more(models, spec, calibration, tmp_path):
    data = shutil.copytree(models["test"].dataset.folder, tmp_path / "data")
    for name in ("test-00000.parquet", "test-00001.parquet"):
        part = pq.read_table(data / name)
        audio = part["audio"].to_pylist()
        for row in (3, 5):
            audio[row][0] = float("inf")
        field = part.schema.field("audio")
        pq.write_table(
            part.set_column(part.schema.get_field_index("audio"), field, pa.array(audio, field.type)), data / name
        )
    faulty = replace(models["test"], dataset=PreparedDataset(data))
    with pytest.raises(Refused, match=r"errors, more than the 3 allowed, as sample '.*': audio holds .*--max-errors"):
        evaluate(faulty, calibration[1], tmp_path / "run", SETTINGS.model_copy(update={"max_errors": "0.5%"}))
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
    with pytest.raises(Refused, match="more than the 3 allowed"):
        evaluate(faulty, calibration[1], tmp_path / "run", SETTINGS.model_copy(update={"max_errors": "3"}))
    summary = evaluate(faulty, calibration[1], tmp_path / "run", SETTINGS)
    assert (summary["n"], summary["errors"], summary["metrics"]["uacs"]["n"]) == (600, 4, 596)


def test_a_verifier_of_its_own_looks_again_and_the_large_model_does_not(run, models, calibration, recorded, tmp_path):
    first = pd.read_parquet(recorded)
    other = tmp_path / "other.parquet"
    first.assign(y_large=9.9, y_verify=2.5, u_verify=0.125).to_parquet(other)
    models = replace(models["test"], verifier=f"recorded:{other}")
    evaluate(models, calibration[1], tmp_path / "run", SETTINGS)
    ours, theirs = Run.open(tmp_path / "run").table(), table(run[0])
    same = [name for name in theirs.column_names if name not in ("y_verify", "u_verify", "prediction")]
    assert ours.select(same).equals(theirs.select(same))
    looked = np.array([s != "not_asked" for s in theirs["verify_status"].to_pylist()])
    assert set(column(ours, "y_verify")[looked]) == {2.5} and np.isnan(column(ours, "y_verify")[~looked]).all()
    assert set(column(ours, "prediction")[looked]) == {2.5}
    with pytest.raises(Refused, match="verifier .* name a new --out"):
        evaluate(replace(models, verifier=None), calibration[1], tmp_path / "run", SETTINGS)
    with pytest.raises(BadInput, match=r"nowhere.parquet: no such file"):
        evaluate(replace(models, verifier="recorded:nowhere.parquet"), calibration[1], tmp_path / "none", SETTINGS)


def test_a_run_of_another_identity_is_refused_with_the_difference(run, models, calibration):
    other = calibration[1].model_copy(update={"tau_small": 0.25})
    with pytest.raises(Refused, match="tau_small .* now 0.25; name a new --out"):
        evaluate(models["test"], other, run[0], SETTINGS)


def test_thresholds_of_another_model_are_refused(models, calibration, tmp_path):
    other = calibration[1].model_copy(update={"ubm": "feedbeef"})
    with pytest.raises(Refused, match="made with ubm feedbeef"):
        evaluate(models["test"], other, tmp_path / "x", SETTINGS)
    assert not (tmp_path / "x").exists()


def test_another_estimator_goes_all_the_way_and_thresholds_know_theirs(models, run, calibration, tmp_path):
    odd = SETTINGS.model_copy(update={"estimator": "margin"})
    thresholds = calibrate(models["valid"], tmp_path / "calibration", odd)
    assert thresholds.estimator == "margin" and calibration[1].estimator == "cbe"
    valid = Run.open(tmp_path / "calibration").table()
    ordered = np.sort(np.array(valid["p_small"].to_pylist()), axis=-1)
    assert column(valid, "u_small") == pytest.approx(1 - (ordered[:, 2] - ordered[:, 1]))
    assert (
        thresholds.tau_small == fit(column(valid, "u_small"), column(valid, "y_small"), column(valid, "label"), 0.1)[0]
    )

    evaluate(models["test"], thresholds, tmp_path / "run", SETTINGS)  # nobody names it: the thresholds' own
    test, before = Run.open(tmp_path / "run").table(), Run.open(run[0]).table()
    by_entropy = [dict(signals)["margin"] for signals in before["signals"].to_pylist()]
    assert column(test, "u_small").tolist() == by_entropy
    assert [dict(signals)["cbe"] for signals in test["signals"].to_pylist()] == column(before, "u_small").tolist()
    assert test["y_small"] == before["y_small"]
    with pytest.raises(Refused, match="made with estimator margin, this run has cbe"):
        evaluate(models["test"], thresholds, tmp_path / "x", SETTINGS.model_copy(update={"estimator": "cbe"}))
    with pytest.raises(BadInput, match="its ensemble is not whole, 0 UBMs"):
        calibrate(models["valid"], tmp_path / "x", SETTINGS.model_copy(update={"estimator": "ev"}))


def test_features_of_another_extractor_are_refused(dataset, ubm, spec, calibration, tmp_path):
    raw = dataset.folder.parent / "raw"
    shutil.copy(raw / "audio.npz", tmp_path / "covarep.npz")
    other = prepare(
        raw / "label.csv", tmp_path / "data", PrepareSettings(dataset="mosi", audio=tmp_path / "covarep.npz")
    )
    with pytest.raises(Refused, match="audio features of 'covarep' .* trained on 'audio'"):
        evaluate(Models(other, "test", ubm, spec), calibration[1], tmp_path / "x", SETTINGS)


def test_a_plan_that_does_not_fit_is_refused_before_anything_starts(models, calibration, tmp_path):
    greedy = EvaluationSettings(resources=Resources(pool=40))
    with pytest.raises(Refused, match="logical CPUs"):
        evaluate(models["test"], calibration[1], tmp_path / "x", greedy)


def test_an_unreadable_sample_is_one_error_row_and_an_unanswered_one_keeps_the_small_answer(
    dataset, ubm, recorded, tmp_path
):
    folder = shutil.copytree(dataset.folder, tmp_path / "data")
    part = pq.read_table(folder / "test-00002.parquet")
    audio = part["audio"].to_pylist()
    audio[3][0] = float("nan")
    field = part.schema.field("audio")
    part = part.set_column(part.schema.get_field_index("audio"), field, pa.array(audio, field.type))
    pq.write_table(part, folder / "test-00002.parquet")
    few = pd.read_parquet(recorded).iloc[:200]  # 80 of split valid, 120 of split test
    few.to_parquet(tmp_path / "few.parquet")
    models = Models(PreparedDataset(folder), "test", ubm, f"recorded:{tmp_path / 'few.parquet'}")
    summary = evaluate(models, Thresholds(tau_small=-1, tau_large=0.5), tmp_path / "run", SETTINGS)

    rows = Run.open(tmp_path / "run").table().to_pylist()
    (failed,) = [row for row in rows if row["status"] == "error"]
    assert (summary["n"], summary["errors"], summary["metrics"]["uacs"]["n"]) == (600, 1, 599)
    assert failed["prediction"] is None and failed["stage"] is None
    assert failed["sample_id"] in failed["error"] and "audio holds NaN" in failed["error"]

    degraded = [row for row in rows if row["status"] == "degraded"]
    assert summary["degraded"] == len(degraded) == summary["answer_from"]["small"] == 600 - 120 - 1
    assert all(row["prediction"] == row["y_small"] and "no answer for sample" in row["error"] for row in degraded)
    assert summary["metrics"]["large"]["unanswered"] == 480


def test_a_model_folder_that_cannot_load_is_said_once_in_one_line(dataset, ubm, tmp_path):
    (tmp_path / "mllm").mkdir()
    (tmp_path / "mllm" / "config.json").write_text('{"model_type": "qwen2_5_omni_thinker"}')
    models = Models(dataset, "test", ubm, str(tmp_path / "mllm"))
    with pytest.raises(BadInput) as error:
        evaluate(models, Thresholds(tau_small=0.5, tau_large=0.5), tmp_path / "run", SETTINGS)
    assert str(tmp_path / "mllm") in str(error.value) and "\n" not in str(error.value)


def test_the_report_stands_alone_and_can_be_written_anew(run):
    before = (run[0] / "report.html").read_text()
    assert before.count("<svg") == 2
    assert "http://" not in before.replace("http://www.w3.org", "") and "<script" not in before
    (run[0] / "report.html").unlink()
    rewrite_report(run[0])
    assert (run[0] / "report.html").read_text() == before


@pytest.mark.cluster
def test_a_pickle_gives_the_same_outcomes_as_its_prepared_form(uacs, dataset, encoder, recorded, tmp_path):
    splits = {split: list(dataset.samples(split)) for split in ("train", "valid", "test")}
    pickled = write_pickle(tmp_path / "MOSI" / "unaligned_50.pkl", splits, {"audio": 6})
    assert uacs("prepare", pickled, tmp_path / "data")[0] == 0
    small = ["--text-encoder", encoder, "--set", "max_epochs=1", "--set", "threads=1"]
    assert uacs("train", "ubm", pickled, "--out", tmp_path / "ubm", *small)[0] == 0
    models = ["--ubm", tmp_path / "ubm", "--mllm", f"recorded:{recorded}", "--set", "resources.pool=1"]
    for source, run in ((pickled, "raw"), (tmp_path / "data", "prepared")):
        code, _, err = uacs("evaluate", source, *models, "--out", tmp_path / run)
        assert code == 0, err
    assert table(tmp_path / "raw").equals(table(tmp_path / "prepared"))
    assert not list(tmp_path.rglob(".uacs-prepared*"))
    assert Run.open(tmp_path / "raw").manifest["identity"] == Run.open(tmp_path / "prepared").manifest["identity"]
