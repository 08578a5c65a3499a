"""Workers on Ray Train make the adapter that one process makes; a training outlives its workers and its drivers."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cluster.chaos import PYTHON, wait_until
from tests.cluster.test_training import workers
from tests.mllm.conftest import RANGE, SIZES, WORDS, dataset_of
from uacs.cluster.finetuning import train
from uacs.errors import Refused
from uacs.mllm import MllmSettings, adapters, finetuning, prompts, tiny_omni
from uacs.mllm.engines import deepspeed_config
from uacs.mllm.finetuning_settings import FinetuningSettings, Training
from uacs.records import Sample

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

JOB = Path(__file__).parents[2] / "jobs" / "finetune_mllm.py"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Sixteen steps over words alone, without dropout, by one process, done."""
    folder = tmp_path_factory.mktemp("finetuning")
    words = [Sample(f"s{i}", text=f"{WORDS[i % 5]} " * (1 + i % 4), label=float(i % 5 - 2)) for i in range(72)]
    (folder / "data").mkdir()
    data = dataset_of(folder / "data", {"train": words[:64], "valid": words[64:]})
    tiny_omni.create(folder / "base", [s.text for s in words], prompts.phrases(RANGE), SIZES)
    settings = FinetuningSettings(
        rank=4, alpha=8, dropout=0.0, lr=5e-3, epochs=2, batch_size=8, at_once=2, validations=1, save_steps=2
    ).model_copy(update={"mllm": MllmSettings(threads=1)})
    made = Training(data, str(folder / "base"), settings, folder / "one")
    finetuning.train(made)
    return made


def weights(task):
    return load_file(task.out / adapters.WEIGHTS)


def apart(one, other):
    return max((weights(one)[name] - weights(other)[name]).abs().max().item() for name in weights(one))


@pytest.mark.parametrize("kind", [None, "zero2", "zero3"])
def test_a_worker_that_dies_costs_nothing(ray_cluster, task, kind, tmp_path):
    together = replace(task, deepspeed=deepspeed_config(kind) if kind else None)
    quiet, lossy = replace(together, out=tmp_path / "quiet"), replace(together, out=tmp_path / "lossy")
    train(quiet, 2)
    heard, by = [], []

    def progress(news):
        if "loss" in news:
            heard.append(news["step"])
            by.append(workers())
            if news["step"] == 7 and len(heard) == 7:
                os.kill(min(by[-1]), signal.SIGKILL)

    record = train(lossy, 2, progress)
    assert record["workers"] == 2 and [step["step"] for step in record["steps"]] == list(range(1, 17))
    assert len(heard) <= 16 + 2  # a step or two since the last state are taken again
    assert len(by[0]) == len(by[-1]) == 2 and by[0].isdisjoint(by[-1])
    assert apart(task, quiet) < 1e-5
    assert apart(quiet, lossy) < (1e-6 if kind else 1e-9)


def test_a_driver_that_is_killed_or_interrupted_costs_nothing(task, tmp_path):
    sets = task.settings.model_dump(exclude_defaults=True, exclude={"mllm"}) | {"mllm.threads": 1}
    words = [*PYTHON, "train", "mllm", task.dataset.folder, "--model", task.base, "--out", tmp_path / "out"]
    words += [f"--set={name}={value}" for name, value in sets.items()]

    def begin():
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def left():
        state = tmp_path / "out" / "unfinished" / "state.pt"
        return state.stat().st_mtime_ns if state.exists() else 0

    for sent, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        before, driver = left(), begin()
        wait_until(lambda before=before: left() > before)
        driver.send_signal(sent)
        said = driver.communicate()[1]
        assert driver.returncode == code, said
    assert said.endswith("uacs train mllm: interrupted; the same command again takes it up where it stopped\n")
    driver = begin()
    said = driver.communicate()
    assert driver.returncode == 0, said
    ours = load_file(tmp_path / "out" / adapters.WEIGHTS)
    assert all(torch.equal(ours[name], weight) for name, weight in weights(task).items())


def test_what_lies_there_is_refused_before_a_worker_starts(task):
    with pytest.raises(Refused, match="a trained adapter lies there"):
        train(task, 2)


def test_the_job_is_the_command():
    done = subprocess.run([sys.executable, JOB, "data"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "uacs train mllm: Missing option '--model'. (see --help)\n")
