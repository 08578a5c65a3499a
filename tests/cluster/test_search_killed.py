"""A search for thresholds whose driver is killed: the same command takes it up."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from tests.cluster.chaos import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).parents[2]


def test_a_killed_search_repeats_no_trial_that_was_done(runs, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [
        str(Path(sys.executable).parent / "uacs"),
        "tune",
        "thresholds",
        str(runs / "calibration"),
        "--trials",
        "90",
    ]
    ledger = tmp_path / "killed" / "trials.parquet"
    driver = subprocess.Popen([*command, "--out", str(ledger.parent)], cwd=REPOSITORY, env=environment)
    wait_until(lambda: ledger.exists() and len(pd.read_parquet(ledger)) >= 25, 120)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait(30)
    before = pd.read_parquet(ledger)
    assert len(before) < 90
    for out in (ledger.parent, tmp_path / "quiet"):
        subprocess.run([*command, "--out", str(out)], cwd=REPOSITORY, env=environment, check=True)
    assert not list(Path(tempfile.gettempdir()).glob(f"uacs-tune-{driver.pid}-*"))  # cleared by the next
    after, quiet = pd.read_parquet(ledger), pd.read_parquet(tmp_path / "quiet" / "trials.parquet")
    assert after[: len(before)].equals(before)  # to the seconds that each took
    assert after.drop(columns="seconds").equals(quiet.drop(columns="seconds")) and len(after) == 90
    ours, theirs = ((out / "thresholds.json").read_text() for out in (ledger.parent, tmp_path / "quiet"))
    assert ours == theirs
