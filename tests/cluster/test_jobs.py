"""The scripts, submitted to a real cluster with token authentication; a stopped job goes on under its id."""

import itertools
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster.chaos import wait_until
from tests.cluster.conftest import SAMPLES
from uacs.cluster.runs import Run
from uacs.ubm.settings import load_config

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Head:
    """A head node in a process of its own, spoken to as a user does: by `ray job`."""

    def __init__(self, scratch):
        self.scratch, self.url = Path(scratch), f"http://127.0.0.1:{free_port()}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        home = {"HOME": str(self.scratch / "home"), "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        self.environment = clean | token | home | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        (self.scratch / "home").mkdir()
        options = ["--head", "--block", "--node-ip-address=127.0.0.1", f"--port={free_port()}", "--num-cpus=8"]
        options += ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.url.rpartition(':')[2]}"]
        options += [f"--dashboard-agent-listen-port={free_port()}"]  # the usual one may be another Ray's
        options += [f"--temp-dir={self.scratch / 'ray'}", "--object-store-memory=268435456", "--disable-usage-stats"]
        self.log = (self.scratch / "head.log").open("w")
        command = [str(BIN / "ray"), "start", *options]
        self.process = subprocess.Popen(command, env=self.environment, stdout=self.log, stderr=self.log)

    def wait(self):
        """Until it takes jobs."""
        names = (f"ready-{i}" for i in itertools.count())
        wait_until(lambda: self.job("submit", "--submission-id", next(names), "--", "true")[0] == 0, 90)

    def job(self, *words):
        command = [str(BIN / "ray"), "job", *map(str, words[:1]), "--address", self.url, *map(str, words[1:])]
        done = subprocess.run(
            command, env=self.environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def submit(self, name, script, *words, wait=True):
        options = ["--submission-id", name, "--runtime-env", "jobs/runtime_env.yaml", *([] if wait else ["--no-wait"])]
        return self.job("submit", *options, "--", "python", f"{script}.py", *words)

    def state(self, name):
        return self.job("status", name)[1]

    def get(self, url, token=True):
        bearer = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"} if token else {}
        with urllib.request.urlopen(urllib.request.Request(url, headers=bearer), timeout=10) as answer:
            return answer.read().decode()

    def prometheus(self):
        """All that the node exports."""
        (found,) = (self.scratch / "ray").glob("prom_metrics_service_discovery.json")
        targets = [target for group in json.loads(found.read_text()) for target in group["targets"]]
        said = []
        for target in targets:
            with suppress(OSError):  # not every process that is listed listens
                said.append(self.get(f"http://{target}/metrics"))
        return "".join(said)

    def stop(self):
        self.process.terminate()
        self.process.wait(60)
        self.log.close()


@pytest.fixture(scope="module")
def head():
    scratch = tempfile.mkdtemp(prefix="j", dir="/tmp")
    head = Head(scratch)
    try:
        head.wait()
        yield head
    finally:
        head.stop()
        shutil.rmtree(scratch)


def test_without_the_token_there_is_no_way_in(head):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        head.get(f"{head.url}/api/jobs/", token=False)


def test_the_scripts_train_and_calibrate(head, dataset, encoder, recorded, tmp_path):
    small = ["--text-encoder", encoder, "--set", "max_epochs=1", "--set", "threads=1"]
    code, said = head.submit(
        "train", "jobs/train_ubm", dataset.folder, "--out", tmp_path / "ubm", *small, "--workers", 2
    )
    assert code == 0, said
    assert "epoch   1" in said and load_config(tmp_path / "ubm").training.max_epochs == 1
    run = [dataset.folder, "--ubm", tmp_path / "ubm", "--mllm", f"recorded:{recorded}"]
    code, said = head.submit("calibrate", "jobs/calibrate", *run, "--out", tmp_path / "calibration")
    assert code == 0, said
    assert Run.open(tmp_path / "calibration").run_id == "calibrate"
    tuned = ["--out", tmp_path / "tuned", "--trials", 6]
    code, said = head.submit("tune", "tune/thresholds", tmp_path / "calibration", *tuned)
    assert code == 0, said
    assert (tmp_path / "tuned" / "thresholds.json").exists() and "search (6 trials)" in said
    tuned = ["--out", tmp_path / "tuned-ubm", "--trials", 2, *small]
    code, said = head.submit("ubm", "tune/ubm", dataset.folder, "--calibration", tmp_path / "calibration", *tuned)
    assert code == 0, said
    assert load_config(tmp_path / "tuned-ubm" / "ubm").training.max_epochs == 1
    code, said = head.submit("wrong", "jobs/calibrate", *run, "--out", tmp_path / "calibration", "--split", "dev")
    assert code == 1 and "split 'dev' is empty; there is" in said


def test_a_stopped_job_that_is_submitted_again_under_its_id_goes_on(head, many, ubm, tmp_path):
    run = [many.data, "--ubm", ubm, "--mllm", many.spec, "--thresholds", many.thresholds]
    code, said = head.submit("quiet", "jobs/evaluate", *run, "--set", "batch_size=1", "--out", tmp_path / "quiet")
    assert code == 0, said
    out = tmp_path / "run"
    run += ["--out", out, "--set", "batch_size=1", "--set", "resources.pool=1"]
    assert head.submit("nightly", "jobs/evaluate", *run, wait=False)[0] == 0
    wait_until(lambda: "ray_uacs_samples{" in (said := head.prometheus()) and 'run="nightly"' in said)
    wait_until(lambda: (out / "outcomes").exists() and Run.open(out).done())
    assert head.job("stop", "nightly")[0] == 0
    wait_until(lambda: "STOPPED" in head.state("nightly").upper())
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "outcomes").glob("test-*")}
    assert 0 < len(kept) < 20

    code, said = head.submit("nightly", "jobs/evaluate", *run)
    assert code != 0 and "already exists" in said
    assert head.job("delete", "nightly")[0] == 0
    code, said = head.submit("nightly", "jobs/evaluate", *run)
    assert code == 0, said
    assert Run.open(out).run_id == "nightly"
    assert all((out / "outcomes" / name).stat().st_mtime_ns == then for name, then in kept.items())
    seconds = ["seconds_small", "seconds_large", "seconds_verify"]
    ours, quiet = (Run.open(place).table().drop_columns(seconds) for place in (out, tmp_path / "quiet"))
    assert ours.equals(quiet) and ours.num_rows == SAMPLES
    assert list((head.scratch / "home").iterdir()) == []
