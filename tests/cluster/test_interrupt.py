"""Ctrl-C in the middle of a run, and what ends a job: one line, nothing left running, and on it goes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from uacs.cluster.runs import Run

pytestmark = pytest.mark.cluster


def command(dataset, ubm, recorded, out):
    words = ["evaluate", dataset.folder, "--ubm", ubm, "--mllm", f"recorded:{recorded}", "--out", out]
    words += ["--set", "resources.pool=1", "--set", "resources.parts_in_flight=1", "--set", "batch_size=1"]
    return [sys.executable, "-m", "uacs", *map(str, words)]


def processes_of(folder):
    """Pids of processes that carry the Ray folder's name on their command line."""
    found = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True, check=False)
    return [pid for pid in found.stdout.split() if int(pid) != os.getpid()]


def until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def scratch():
    """A place for Ray's files whose path is short enough for its sockets."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        yield Path(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_one_line_leaves_nothing_and_goes_on(number, dataset, ubm, recorded, scratch, tmp_path):
    out = tmp_path / "run"
    environment = os.environ | {"TMPDIR": str(scratch), "HOME": str(tmp_path / "home")}
    environment.pop("RAY_ADDRESS", None)
    (tmp_path / "home").mkdir()
    words = command(dataset, ubm, recorded, out)
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: (out / "calibration" / "metrics.json").exists())
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "uacs evaluate: interrupted; the same command again takes it up where it stopped"
    until(lambda: not processes_of(scratch), 30)
    assert list(scratch.iterdir()) == []

    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr
    assert Run.open(out).metrics()["n"] == 600
    assert list(scratch.iterdir()) == []
    assert list((tmp_path / "home").iterdir()) == []
