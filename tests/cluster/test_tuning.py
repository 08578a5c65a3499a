"""`uacs tune thresholds` on real runs: what is chosen is what `uacs evaluate` then does."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from tests.conftest import write_raw
from uacs import cli_tune
from uacs.cascade import rules
from uacs.cascade.outcomes import column
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.choices import SEARCH
from uacs.cluster.runs import Run, refuse_other_models
from uacs.data.prepare import PrepareSettings, prepare
from uacs.errors import Refused


@pytest.fixture
def search(uacs, runs):
    """Run `uacs tune thresholds` on the calibration, reporting on the whole test run."""
    return lambda *words: uacs("tune", "thresholds", runs / "calibration", "--test", runs / "whole", *words)


def test_a_search_leaves_thresholds_tables_and_a_page(uacs, search, runs, tmp_path):
    code, out, err = search("--out", tmp_path / "tuned", "--trials", 9, "--repeats", 2)
    assert code == 0, err
    assert "search (9 trials)" in out and "exact sweep" in out and "large model alone" in out
    trials = pd.read_parquet(tmp_path / "tuned" / "trials.parquet")
    assert trials["seed"].value_counts().to_dict() == {0: 9, 1: 9}
    choices = pd.read_parquet(tmp_path / "tuned" / "choices.parquet")
    assert {"valid_acc2", "test_acc2", "test_acc2_low", "test_mae_high", "valid_time"} <= set(choices)
    assert choices.choice[0] == "search (9 trials)" and len(choices) >= 8
    fronts = pd.read_parquet(tmp_path / "tuned" / "fronts.parquet")
    assert set(fronts.front) == {"exact", "search, seed 0", "search, seed 1"}
    for _, points in fronts.groupby("front"):
        assert points.valid_acc2.is_monotonic_increasing and points.valid_time.is_monotonic_increasing
    summary = json.loads((tmp_path / "tuned" / "search.json").read_text())
    assert 0 < summary["hypervolume_ratio"] <= 1 and len(summary["repeats"]) == 2
    page = (tmp_path / "tuned" / "report.html").read_text()
    assert page.count("<svg") == 4 and "exact sweep" in page

    made = Thresholds.load(tmp_path / "tuned" / "thresholds.json")
    assert (made.rule, made.split) == ("search", "valid")
    asked = Run.open(runs / "whole").manifest["identity"]
    refuse_other_models(made, asked)
    for other in ({"hints": "words"}, {"verify_prefill": True}, {"verifier": {"readout": "decode", "mllm": "x"}}):
        with pytest.raises(Refused, match="chosen with another second look"):  # whose answers they were chosen by
            refuse_other_models(made, asked | other)
        refuse_other_models(Thresholds.load(runs / "calibration" / "thresholds.json"), asked | other)  # Eq. 19's hold
    first = summary["choices"][0]
    given = ["--thresholds", tmp_path / "tuned" / "thresholds.json"]
    code, _, err = uacs("replay", runs / "whole", *given, "--out", tmp_path / "r")
    assert code == 0, err
    replayed = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert replayed["metrics"]["uacs"]["acc2"] == pytest.approx(first["test_acc2"])
    assert replayed["stages"]["small"] == pytest.approx(600 * (1 - first["test_asked"]))


@pytest.mark.cluster
def test_evaluate_routes_by_what_was_learned(uacs, search, dataset, ubm, recorded, tmp_path):
    code, _, err = search("--out", tmp_path / "by", "--rule", "learned")
    assert code == 0, err
    assert not (tmp_path / "by" / "trials.parquet").exists()
    told = pd.read_parquet(tmp_path / "by" / "choices.parquet").iloc[0]
    assert told.deferral
    thresholds = ["--thresholds", tmp_path / "by" / "thresholds.json"]
    models = ["--ubm", ubm, "--mllm", f"recorded:{recorded}"]
    code, _, err = uacs("evaluate", dataset.folder, *models, *thresholds, "--out", tmp_path / "run")
    assert code == 0, err
    table = Run.open(tmp_path / "run").table()
    asked = np.array(table["stage"].to_pylist()) != "small"
    assert asked.mean() == pytest.approx(told.test_asked)
    assert 0 < asked.mean() < 1
    assert np.isfinite(column(table, "y_large")[asked]).all() and np.isnan(column(table, "y_large")[~asked]).all()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["metrics"]["uacs"]["acc2"] == pytest.approx(told.test_acc2)
    code, _, err = uacs("evaluate", dataset.folder, *models, *thresholds, "--out", tmp_path / "run", "--dry-run")
    assert code == 0, err


def test_own_prices_move_the_choice(search, tmp_path):
    costs = {}
    for name, large in (("cheap", 1), ("dear", 100)):
        prices = ["--price", "small=1", "--price", f"large={large}", "--price", f"verify={large}"]
        code, _, err = search("--out", tmp_path / name, "--rule", "exact", "--weight", 0.2, *prices)
        assert code == 0, err
        costs[name] = json.loads((tmp_path / name / "search.json").read_text())["choices"][0]
    assert costs["cheap"]["valid_time"] > costs["dear"]["valid_time"]


WRONG = [
    (["--lambda", 1.5], "1.5 is not in the range 0<=x<=1"),
    (["--budget", 0], "a budget of 0 of the large model's run time cannot be met: the small model alone takes"),
    (["--budget", "nan"], "not a number to reckon with"),
    (["--floor", 1.01], "a floor of acc2 1.01 cannot be reached: the best there is has"),
    (["--floor", 0.8, "--budget", 0.5], "--budget and --floor: a search is after one thing"),
    (["--metric", "acc9"], "not scored by acc9; there is acc2"),
    (["--price", "large"], "expected STAGE=PRICE"),
    (["--price", "large=-1"], "a price is 0 or more"),
    (["--price", "large=2"], "must name small, verify as well"),
    (["--rule", "risk", "--alpha", "0.001"], "no threshold keeps the error at 0.001"),
    (["--rule", "risk", "--alpha", "2"], "--alpha 2"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[" ".join(map(str, words)) for words, _ in WRONG])
def test_a_wrong_wish_is_one_clear_line(uacs, runs, tmp_path, words, said):
    code, out, err = uacs("tune", "thresholds", runs / "calibration", "--out", tmp_path / "out", *words)
    assert code in (1, 2) and out == ""
    assert err.startswith("uacs tune thresholds: ") and err.count("\n") == 1
    assert said in err


def test_thresholds_are_not_tested_on_what_they_were_chosen_by(uacs, runs, tmp_path):
    valid = runs / "calibration"
    code, _, err = uacs("tune", "thresholds", valid, "--test", valid, "--out", tmp_path / "out")
    assert code == 1 and "test on a run over another split" in err


def test_a_run_that_asked_about_some_is_no_ground_to_search_on(uacs, runs, tmp_path):
    unsure = runs / "sparse"
    code, _, err = uacs("tune", "thresholds", unsure, "--out", tmp_path / "out")
    assert code == 1 and "a run of `uacs evaluate`; thresholds are chosen on one of `uacs calibrate`" in err
    code, _, err = uacs("tune", "thresholds", runs / "calibration", "--test", unsure, "--out", tmp_path / "out")
    assert code == 1 and str(unsure) in err and "were never asked of the large model" in err


def test_a_test_run_whose_second_look_was_asked_otherwise_is_refused(uacs, runs, tmp_path):
    shutil.copytree(runs / "whole", tmp_path / "words")
    manifest = json.loads((tmp_path / "words" / "manifest.json").read_text())
    manifest["identity"]["hints"] = "words"
    (tmp_path / "words" / "manifest.json").write_text(json.dumps(manifest))
    words = ["tune", "thresholds", runs / "calibration", "--test", tmp_path / "words", "--out", tmp_path / "tuned"]
    code, _, err = uacs(*words)
    assert code == 1 and "stage 3 was asked otherwise than in the calibration" in err


def test_thresholds_are_not_chosen_on_a_test_run_unasked(uacs, runs, tmp_path):
    code, _, err = uacs("tune", "thresholds", runs / "whole", "--out", tmp_path / "out")
    assert code == 1 and "other runs only test them" in err


def test_another_search_in_the_same_folder_is_refused_with_the_difference(search, tmp_path):
    words = ["--out", tmp_path / "out", "--rule", "exact"]
    assert search(*words)[0] == 0
    code, _, err = search(*words, "--budget", "50%")
    assert code == 1 and "was made with objective" in err and "name a new --out" in err


def test_an_evaluation_with_its_calibration_within_is_ground_and_test_at_once(uacs, runs, tmp_path):
    run = shutil.copytree(runs / "whole", tmp_path / "run")
    shutil.copytree(runs / "calibration", run / "calibration")
    code, _, err = uacs("tune", "thresholds", run, "--out", tmp_path / "out", "--rule", "quantile")
    assert code == 0, err
    told = pd.read_parquet(tmp_path / "out" / "choices.parquet").iloc[0]
    assert (told.valid_n, told.test_n) == (80, 600)


@pytest.mark.cluster
def test_a_ubm_that_was_searched_for_is_evaluated_as_it_lies(uacs, runs, dataset, ubm, encoder, recorded, tmp_path):
    around = ["--around", ubm, "--text-encoder", encoder, "--set", "max_epochs=2"]
    search = ["tune", "ubm", dataset.folder, "--calibration", runs / "calibration", "--test", runs / "whole"]
    search += ["--out", tmp_path / "out", "--trials", 2, "--weight", 0.1, *around]
    code, out, err = uacs(*search)
    assert code == 0, err
    assert "y_large stands in" in err and "the calibration's UBM" in out and "(3 of 3)" in out
    trials = pd.read_parquet(tmp_path / "out" / "trials.parquet")
    assert set(trials.trial) == {0, 1} and "repeat" in set(trials.status)
    told = json.loads((tmp_path / "out" / "search.json").read_text())
    assert len(told["repeats"]) == 1
    assert (tmp_path / "out" / "report.html").read_text().count("<svg") == 2

    answers = ["--ubm", tmp_path / "out" / "ubm", "--mllm", f"recorded:{recorded}"]
    given = ["--thresholds", tmp_path / "out" / "thresholds.json"]
    code, _, err = uacs("evaluate", dataset.folder, *answers, *given, "--out", tmp_path / "run")
    assert code == 0, err
    stages = json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"]
    assert stages["small"] == pytest.approx(600 * (1 - told["chosen"]["test_asked"]))
    code, _, err = uacs("evaluate", dataset.folder, "--ubm", ubm, *answers[2:], *given, "--out", tmp_path / "other")
    assert code == 1 and "the thresholds were made with ubm" in err

    code, out, err = uacs(*search)
    assert code == 0 and out.count("trial ") < 8, "a search that is done only reports"
    code, out, _ = uacs("status", tmp_path / "out")
    assert code == 0 and "finished" in out
    code, _, err = uacs("report", tmp_path / "out")
    assert code == 1 and "the same `uacs tune ubm` again" in err


def test_the_command_knows_every_rule():
    assert set(cli_tune.RULES) == {SEARCH, *rules.RULES}


def test_runs_over_other_samples_of_the_same_names_are_refused(uacs, runs, dataset, ubm, encoder, tmp_path):
    other = prepare(
        write_raw(tmp_path / "raw", {"train": 20, "valid": 80, "test": 600}, seed=9),
        tmp_path / "data",
        PrepareSettings(dataset="mosi", audio=tmp_path / "raw" / "audio.npz"),
    )
    search = ["--calibration", runs / "calibration", "--around", ubm, "--text-encoder", encoder]
    code, _, err = uacs("tune", "ubm", other.folder, *search, "--out", tmp_path / "out")
    assert code == 1 and "is labelled" in err and "name runs over this very data" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "device=cuda"], "by --gpus"),
        (["--preset", "mosi", "--around", "somewhere"], "a search is around one of them"),
        (["--set", "rate=1"], "expected key=value with one of"),
        (["--floor", "90%", "--weight", 1], "a search is after one thing"),
        (["--gpus", 2], "2.0 is not in the range"),
    ],
)
def test_a_wrong_wish_for_a_ubm_is_one_clear_line(uacs, runs, dataset, tmp_path, words, said):
    calibration = ["--calibration", runs / "calibration"]
    code, out, err = uacs("tune", "ubm", dataset.folder, *calibration, "--out", tmp_path / "out", *words)
    assert code == 2 and out == "" and err.count("\n") == 1 and said in err
