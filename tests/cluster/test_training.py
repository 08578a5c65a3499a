"""Several Ray Train workers train the UBM that one would, outlive a death, and say a user's mistake in one line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ubm.test_training import figures, without_dropout
from uacs.cluster.training import train
from uacs.cluster.workers import preflight
from uacs.errors import Refused
from uacs.ubm import training
from uacs.ubm.folder import load_weights

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

JOB = Path(__file__).parents[2] / "jobs" / "train_ubm.py"


@pytest.fixture(scope="module")
def still(encoder, fast, tmp_path_factory):
    """An encoder and settings without dropout, for eight epochs."""
    folder = without_dropout(encoder, tmp_path_factory.mktemp("still") / "encoder")
    return str(folder), fast.model_copy(update={"dropout": 0.0, "max_epochs": 8})


@pytest.fixture(scope="module")
def together(ray_cluster, dataset, still, tmp_path_factory):
    """A UBM that two workers trained, undisturbed, and the epochs that were told."""
    out, told = tmp_path_factory.mktemp("together") / "ubm", []
    epochs = train(dataset, *still, out, 2, told.append)
    assert epochs == told
    return out, epochs


def workers():
    """Pids of the workers of this process's Ray."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    ours = {pid for pid, parent, _ in rows if parent == str(os.getpid())}  # the raylet is one of them
    return {int(pid) for pid, parent, words in rows if parent in ours and words.startswith("ray::RayTrainWorker")}


def test_two_workers_train_the_ubm_that_one_would(together, dataset, still, tmp_path):
    training.train(dataset, *still, tmp_path / "one")
    for name, values in figures(tmp_path / "one").items():
        assert figures(together[0])[name] == pytest.approx(values, abs=1e-5)


def test_the_folder_is_complete_and_nothing_else_is_left(together):
    names = {path.name for path in together[0].iterdir()}
    assert names == {"config.json", "model.safetensors", "text_encoder", "tokenizer", "training.json"}


def test_a_worker_that_dies_costs_nothing(together, dataset, still, tmp_path):
    told, by = [], []

    def progress(epoch):
        told.append(epoch["epoch"])
        by.append(workers())
        if epoch["epoch"] == 2:
            os.kill(min(by[-1]), signal.SIGKILL)

    epochs = train(dataset, *still, tmp_path / "ubm", 2, progress)
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, 9))
    assert len(told) == len(set(told))
    assert len(by[0]) == len(by[-1]) == 2 and by[0].isdisjoint(by[-1])
    ours, undisturbed = load_weights(tmp_path / "ubm"), load_weights(together[0])
    assert all(torch.equal(ours[name], undisturbed[name]) for name in ours)


def test_what_a_worker_cannot_read_is_said_once_in_one_line(ray_cluster, uacs, dataset, tmp_path):
    (tmp_path / "empty").mkdir()
    words = ("--text-encoder", tmp_path / "empty", "--out", tmp_path / "ubm", "--workers", 2)
    code, _, said = uacs("train", "ubm", dataset.folder, *words)
    assert code == 1
    assert said.startswith(f"uacs train ubm: {tmp_path}/empty: no text encoder there") and said.count("\n") == 1


def test_what_lies_there_and_a_plan_that_would_hang_are_refused(dataset, encoder, fast, ubm):
    with pytest.raises(Refused, match="a trained model lies there"):
        train(dataset, str(encoder), fast, ubm, 2)
    preflight(4, "cuda", {"CPU": 2, "GPU": 4})
    with pytest.raises(Refused, match="5 workers need 2.5 CPUs .0.5 each., this Ray has 2; lower --workers"):
        preflight(5, "cpu", {"CPU": 2})
    with pytest.raises(Refused, match="2 workers need 2 GPUs .1 each., this Ray has 0"):
        preflight(2, "cuda", {"CPU": 8})


def test_the_job_is_the_command(tmp_path):
    done = subprocess.run([sys.executable, JOB, "data"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "uacs train ubm: Missing option '--out'. (see --help)\n")
