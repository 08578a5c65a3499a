"""A search trains UBMs for the cascade that each makes possible, and a search cut off repeats next to nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.cluster.chaos import wait_until
from tests.conftest import write_raw
from uacs.cascade import outcomes
from uacs.cascade.objectives import Objective
from uacs.cascade.outcomes import column, probabilities
from uacs.cascade.points import point
from uacs.cascade.prices import prices
from uacs.cascade.recording import Recording
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.search_ubm import SEARCHED, Judge, SearchSettings, drawn, preflight, search
from uacs.data.prepare import PrepareSettings, prepare
from uacs.errors import BadInput, Refused
from uacs.mllm.recorded import RecordedAnswers
from uacs.ubm.predictor import SmallPredictor
from uacs.ubm.settings import TrainingSettings

WEIGHT = Objective("weight", 0.2)
THREE = SearchSettings(trials=3, at_once=1, grace=1, reduction=2, repeats=0)
IDENTITY = {"run_id": "march", "split": "valid"}


@pytest.fixture(scope="module")
def calibration(dataset, ubm, recorded):
    """Outcomes of both models about split valid, everyone asked."""
    samples = list(dataset.samples("valid"))
    small, model = SmallPredictor(ubm).predict(samples), RecordedAnswers(str(recorded), (-3, 3))
    large = model.answer(samples)
    return outcomes.build(samples, small, large, model.verify(samples, small, large))


@pytest.fixture(scope="module")
def base(fast):
    """Learning rates so high that not every epoch is better than the one before."""
    return fast.model_copy(update={"lr_text": 0.02, "lr_other": 0.02, "max_epochs": 5})


@pytest.fixture(scope="module")
def searching(dataset, encoder, base, calibration):
    """Search in a folder, with anything of it changed."""

    def run(out, settings=THREE, told=None, **changed):
        usual = {"dataset": dataset, "text_encoder": str(encoder), "base": base, "calibration_table": calibration}
        usual |= {"calibration_identity": IDENTITY, "objective": WEIGHT, "prices": prices(calibration)}
        return search(**usual | changed, out=out, settings=settings, told=told)

    return run


@pytest.fixture(scope="module")
def found(ray_cluster, searching, tmp_path_factory):
    """A search of three trials and a repeat, and what was told of it."""
    told, out = [], tmp_path_factory.mktemp("found") / "out"
    return searching(out, THREE.model_copy(update={"repeats": 1}), lambda *news: told.append(news)), told


@pytest.fixture
def copied(found, tmp_path):
    """The folder of that search, to go on with."""
    return shutil.copytree(found[0].ubm.parent, tmp_path / "out")


def record(out, n):
    return json.loads((out / "trials" / f"{n:03}" / "trial.json").read_text())


def seconds(out, n):
    """What the epochs of a trial took: no epoch that is done again takes as long to the digit."""
    return [epoch["seconds"] for epoch in record(out, n)["epochs"]]


def test_the_figures_are_of_the_cascade_around_the_ubm_that_is_left(found, dataset, calibration):
    search, _ = found
    samples = list(dataset.samples("valid"))
    outputs = SmallPredictor(search.ubm).predict(samples)
    y, u, p = (np.array([getattr(output, name) for output in outputs]) for name in ("y", "u", "p"))
    recording = Recording.of(calibration, "mosi").with_small(y, u, p)
    at = point(recording, Thresholds(tau_small=search.tau_small, tau_large=search.tau_large), prices(calibration))
    assert (search.figures["quality"], search.figures["time"]) == pytest.approx((at.metrics["acc2"], at.time))
    assert search.figures["utility"] == pytest.approx(at.metrics["acc2"] - 0.2 * at.time)
    last = [row for row in search.epochs.to_pylist() if row["trial"] == search.trial and row["status"] == "finished"]
    assert {name: last[-1][name] for name in ("quality", "time", "asked")} == pytest.approx(
        {name: search.figures[name] for name in ("quality", "time", "asked")}
    )


def test_an_epoch_that_is_not_kept_reports_the_kept_one(found):
    rows = [row for row in found[0].epochs.to_pylist() if row["status"] == "finished"]
    assert any(row["kept"] < row["epoch"] for row in rows)
    for row in rows:
        (kept,) = [r for r in rows if r["trial"] == row["trial"] and r["epoch"] == row["kept"]]
        assert kept["epoch"] <= row["epoch"] and kept["valid_mae"] <= row["valid_mae"]
        assert kept["utility"] == row["utility"]


def test_the_best_finished_trial_is_chosen_and_only_its_weights_stay(found):
    search, _ = found
    out = search.ubm.parent
    last = {row["trial"]: row for row in search.epochs.to_pylist() if row["status"] == "finished"}
    assert last[search.trial]["utility"] == max(row["utility"] for row in last.values())
    assert [path.parent.name for path in sorted(out.glob("trials/*/ubm"))] == [f"{search.trial:03}"]
    assert {path.name for path in out.iterdir()} == {
        "manifest.json", "status.json", "trials", "trials.parquet", "repeats", "ubm"
    }  # fmt: skip
    assert pq.read_table(out / "trials.parquet").equals(search.epochs)


def test_the_chosen_settings_are_trained_again_with_the_next_seed(found):
    search, _ = found
    (repeat,) = search.repeats
    told = SmallPredictor(repeat).config.training
    assert told == search.settings.model_copy(update={"seed": search.settings.seed + 1})
    assert {row["seed"] for row in search.epochs.to_pylist() if row["status"] == "repeat"} == {told.seed}


def test_every_epoch_is_told_once_and_every_end(found):
    search, told = found
    rows = [row for row, last in told if not last]
    assert len(rows) == search.epochs.num_rows == len({(row["trial"], row["seed"], row["epoch"]) for row in rows})
    ends = [(row["trial"], row["status"]) for row, last in told if last]
    assert ends == [*((n, record(search.ubm.parent, n)["status"]) for n in range(3)), (search.trial, "repeat")]


def test_trial_0_is_the_base_and_more_trials_begin_with_the_same(fast):
    assert drawn(fast, 7, 0) == fast
    one, other = drawn(fast, 7, 1), drawn(fast, 8, 1)
    assert one == drawn(fast, 7, 1) != other
    changed = {name for name in TrainingSettings.model_fields if getattr(one, name) != getattr(fast, name)}
    assert changed <= set(SEARCHED) and {"lr_text", "lr_audio", "dropout", "seed"} <= changed
    assert fast.lr_text / 4 <= one.lr_text <= fast.lr_text * 4


def test_with_one_trial_at_a_time_a_seed_gives_the_same_search(found, searching, tmp_path):
    def figures(found):
        rows = [row for row in found.epochs.drop_columns(["seconds"]).to_pylist() if row["status"] != "repeat"]
        return found.trial, found.settings, found.figures, rows

    assert figures(searching(tmp_path / "out")) == figures(found[0])


@pytest.mark.cluster
def test_more_trials_of_a_search_cut_off_or_not_train_only_what_is_new(copied, searching):
    before, more, told = [seconds(copied, n) for n in range(3)], THREE.model_copy(update={"trials": 4}), []

    def cut(row, last):
        if row["trial"] == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        searching(copied, more, cut)
    begun = seconds(copied, 3)
    assert (record(copied, 3)["status"], len(begun)) == ("running", 1)
    after = searching(copied, more, lambda *news: told.append(news))
    assert [seconds(copied, n) for n in range(3)] == before
    assert seconds(copied, 3)[:1] == begun
    assert {row["trial"] for row, last in told if not last} == {3}
    assert [row["trial"] for row, last in told if last] == [0, 1, 2, 3]
    assert searching(copied, THREE).epochs.equals(after.epochs)  # those that were begun count


def test_what_has_no_hope_is_stopped_early_and_what_diverges_has_failed(
    ray_cluster, searching, fast, tmp_path, monkeypatch
):
    rates = ("lr_text", "lr_audio", "lr_vision", "lr_other")
    instead = {n: fast.model_copy(update=dict.fromkeys(rates, rate)) for n, rate in ((1, 1e-9), (2, 1e30))}
    monkeypatch.setattr("uacs.cluster.search_ubm.drawn", lambda base, seed, n: instead.get(n) or drawn(base, seed, n))
    # one at a time: ASHA lets the first to come through, whatever it is
    found = searching(tmp_path / "out", THREE.model_copy(update={"trials": 4}))
    _, stopped, failed, _ = (record(tmp_path / "out", n) for n in range(4))
    assert (stopped["status"], len(stopped["epochs"])) == ("stopped", 1)
    assert failed["status"] == "failed" and "the loss is" in failed["error"]
    assert not list(tmp_path.glob("out/trials/00[12]/ubm"))
    assert found.trial in (0, 3)
    (row,) = [row for row in found.epochs.to_pylist() if row["trial"] == 2]
    assert (row["status"], row["epoch"], row["lr_other"]) == ("failed", None, 1e30)


def test_what_lies_there_is_not_mixed_with_another_search(copied, searching, base, tmp_path):
    for changed, said in (
        ({"objective": Objective("budget", 0.5)}, "made with objective"),
        (
            {"calibration_identity": {"run_id": "april", "split": "valid"}},
            "made with calibration run_id march, now april",
        ),
        ({"base": base.model_copy(update={"lr_text": 1e-5})}, "made with base lr_text 0.02, now 1e-05"),
        ({"settings": THREE.model_copy(update={"seed": 5})}, "made with seed 0, now 5"),
    ):
        with pytest.raises(Refused, match=said):
            searching(copied, **changed)
    labels = write_raw(tmp_path / "raw", {"train": 20, "valid": 80}, seed=9)
    other = prepare(labels, tmp_path / "data", PrepareSettings(dataset="mosi", processes=1))
    with pytest.raises(Refused, match="made with train"):
        searching(copied, dataset=other)
    alive = json.loads((copied / "status.json").read_text()) | {"state": "running", "pid": 1, "at": time.time()}
    (copied / "status.json").write_text(json.dumps(alive))
    with pytest.raises(Refused, match="under way on .*, process 1"):
        searching(copied)


def test_a_calibration_of_other_samples_is_named(searching, calibration, tmp_path):
    with pytest.raises(BadInput, match="validation sample 'valid0_0' is not in the calibration run"):
        searching(tmp_path / "out", calibration_table=calibration.slice(1))


def test_an_objective_out_of_reach_is_told_and_the_nearest_taken(calibration, dataset):
    reach = Judge.of(calibration, dataset, Objective("budget", 0.0), prices(calibration))
    y, u, p = column(calibration, "y_small"), column(calibration, "u_small"), probabilities(calibration)
    ids = calibration["sample_id"].to_pylist()
    figures, unreached = reach.figures(ids, y, u, p)
    assert "a budget of 0 of the large model's run time cannot be met" in unreached
    assert figures["asked"] == 0
    assert Judge.of(calibration, dataset, WEIGHT, prices(calibration)).figures(ids, y, u, p)[1] is None


def test_trials_that_ray_would_wait_for_in_vain_are_refused():
    preflight(SearchSettings(at_once=2, gpus=0.5), [{"CPU": 2, "GPU": 1}])
    with pytest.raises(Refused, match="2 trials at once need 0.5 CPUs and 1 GPUs each, this Ray has 8 CPUs and 0 GPUs"):
        preflight(SearchSettings(gpus=1), [{"CPU": 8}])
    with pytest.raises(Refused, match="room for 2; lower at_once"):
        preflight(SearchSettings(at_once=3, gpus=0.6), [{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}])


DRIVER = """
import sys
from pathlib import Path
import pyarrow.parquet as pq
from tests.cluster.test_search_ubm import IDENTITY, THREE, WEIGHT
from uacs.cascade.prices import prices
from uacs.cluster.search_ubm import search
from uacs.data.prepared import PreparedDataset
from uacs.ubm.settings import TrainingSettings

data, encoder, base, table, out = sys.argv[1:]
table, base = pq.read_table(table), TrainingSettings.model_validate_json(base)
more = THREE.model_copy(update={"at_once": 2, "grace": 30})
search(PreparedDataset(data), encoder, base, table, IDENTITY, Path(out), more, WEIGHT, prices(table))
"""


@pytest.mark.cluster
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_is_killed_repeats_only_the_epochs_in_flight(
    number, dataset, encoder, fast, calibration, tmp_path
):
    out, table = tmp_path / "out", tmp_path / "table.parquet"
    pq.write_table(calibration, table)
    base = fast.model_copy(update={"max_epochs": 30}).model_dump_json()
    words = [sys.executable, "-c", DRIVER, dataset.folder, encoder, base, table, out]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["TMPDIR"] = str(tmp_path)  # what Tune's scratch leaves at a kill goes with the test
    process = subprocess.Popen(list(map(str, words)), env=environment, stderr=subprocess.PIPE, text=True)
    wait_until((out / "trials" / "001" / "trial.json").exists)
    wait_until(lambda: len(seconds(out, 1)) >= 2)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert number == signal.SIGKILL or "KeyboardInterrupt" in said
    time.sleep(3)  # workers end with their driver
    before = [seconds(out, n) for n in range(2)]
    assert record(out, 0)["status"] in ("running", "finished") and record(out, 1)["status"] == "running"
    subprocess.run(list(map(str, words)), env=environment, check=True)
    for n in range(2):
        again = sum(a != b for a, b in zip(before[n], seconds(out, n), strict=False))
        assert again <= 1  # the one that was told, and not yet saved
    assert [record(out, n)["status"] for n in range(3)] == ["finished"] * 3


@pytest.mark.cluster
def test_a_worker_that_dies_costs_at_most_an_epoch(ray_cluster, searching, fast, tmp_path):
    out, told = tmp_path / "out", []

    def kill(row, last):
        told.append((row, last))
        if row["trial"] == 0 and row["epoch"] == 3 and not last:
            os.kill(*trainers(), signal.SIGKILL)

    searching(out, THREE.model_copy(update={"trials": 1}), kill, base=fast.model_copy(update={"max_epochs": 6}))
    assert [row["epoch"] for row, last in told if not last] == [1, 2, 3, 4, 5, 6]
    assert record(out, 0)["status"] == "finished"


def trainers():
    """Pids of the trials of this process's Ray."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    ours = {pid for pid, parent, _ in rows if parent == str(os.getpid())}
    return [int(pid) for pid, parent, words in rows if parent in ours and words.startswith("ray::ImplicitFunc")]


@pytest.mark.cluster
def test_what_a_person_must_mend_ends_the_search(ray_cluster, searching, encoder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no text encoder there"):
        searching(tmp_path / "out", text_encoder=str(tmp_path / "empty"))
    assert not (tmp_path / "out" / "trials").exists()
