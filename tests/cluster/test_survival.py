"""A run on a Ray of several nodes loses a worker, a replica, a node and three drivers, and not one sample."""

import random

import pytest

from tests.cluster.chaos import REPLICAS, WORKERS, Driver, last_word, nodes, wait_until, written
from tests.cluster.conftest import SAMPLES
from uacs.cluster.runs import Run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

PARTS = 20
IN_FLIGHT = 2 + 2  # UBM pool and parts that wait for the large model


@pytest.fixture(scope="module")
def command(many, ubm):
    """The command of a run in a folder; slow, so that there is time to kill."""
    words = ["evaluate", many.data, "--ubm", ubm, "--mllm", many.spec, "--thresholds", many.thresholds]
    return lambda out: [*words, "--set", "batch_size=2", "--set", "chunk_size=8", "--out", out]


def table(out):
    return Run.open(out).table().drop_columns(["seconds_small", "seconds_large", "seconds_verify"])


def test_workers_replicas_nodes_and_drivers_die_and_the_table_is_the_undisturbed_one(command, tmp_path):
    quiet, out, log = tmp_path / "quiet", f"file://{tmp_path}/run", tmp_path / "log"  # by a URI, as on S3
    draw = random.Random(11)
    with nodes() as ray:
        assert Driver(command(quiet), ray.environment, log).wait() == 0, log.read_text()
        driver = Driver(command(out), ray.environment, log)
        wait_until(lambda: written(out) >= 1)
        assert ray.kill(WORKERS)
        wait_until(lambda: written(out) >= 3)
        assert ray.kill(REPLICAS)
        wait_until(lambda: written(out) >= 5)
        ray.lose()
        for _ in range(3):
            more = written(out) + draw.randint(1, 3)
            wait_until(lambda more=more: written(out) >= more)
            assert driver.running
            driver.kill()
            left = last_word(out).progress.counts
            assert left.small - left.written <= IN_FLIGHT * 256
            driver = Driver(command(out), ray.environment, log)
        assert driver.wait() == 0, log.read_text()
    assert table(out).equals(table(quiet))
    assert table(out).num_rows == len(set(table(out)["sample_id"].to_pylist())) == SAMPLES
    assert sum(session["written"] for session in Run.open(out).manifest["sessions"]) <= SAMPLES
    assert written(out) == PARTS
