"""A Ray of several nodes on this machine, a run on it as a process of its own, and ways to kill parts of both."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from uacs.cluster.runs import Run
from uacs.cluster.status import Status, read

PYTHON = [sys.executable, "-m", "uacs"]
WORKERS, REPLICAS = "ray::MapWorker(MapBatches(SmallStage)", "ray::ServeReplica"


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait for a condition; raises `AssertionError` if it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


class Nodes:
    """A head without CPUs and some workers of `cpus` each, all on 127.0.0.1."""

    def __init__(self, cluster, workers: int, cpus: int, store: int):
        self.cluster, self.cpus, self.store = cluster, cpus, store
        self.workers = [self._add() for _ in range(workers)]

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to join."""
        return os.environ | {"RAY_ADDRESS": self.cluster.address, "OMP_NUM_THREADS": "1"}

    def _add(self):
        return self.cluster.add_node(num_cpus=self.cpus, object_store_memory=self.store)

    def processes(self, title: str) -> list[int]:
        """Pids of the nodes' own worker processes whose title begins so."""
        raylets = {process.process.pid for node in self.workers for process in node.all_processes["raylet"]}
        listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
        rows = (line.split(maxsplit=2) for line in listed.splitlines()[1:])
        return [int(pid) for pid, parent, args in rows if int(parent) in raylets and args.startswith(title)]

    def kill(self, title: str) -> bool:
        """SIGKILL one worker process with that title; whether there was one."""
        found = self.processes(title)
        if found:
            os.kill(found[0], signal.SIGKILL)
        return bool(found)

    def lose(self) -> None:
        """SIGKILL a whole worker node, and bring up another."""
        self.cluster.remove_node(self.workers.pop(0), allow_graceful=False)
        self.workers.append(self._add())


@contextmanager
def nodes(workers: int = 2, cpus: int = 4, store: int = 256 * 2**20) -> Iterator[Nodes]:
    """Such a Ray for the while."""
    from ray.cluster_utils import Cluster  # uacs.cluster has set Ray's environment by now

    os.environ.setdefault("RAY_health_check_period_ms", "500")
    os.environ.setdefault("RAY_health_check_failure_threshold", "3")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": store})
    try:
        yield Nodes(cluster, workers, cpus, store)
    finally:
        cluster.shutdown()


class Driver:
    """`uacs evaluate` as a process that can be killed."""

    def __init__(self, words: list[object], environment: dict[str, str], log: Path):
        self.log = log
        with log.open("a") as file:
            command = [*PYTHON, *map(str, words)]
            self.process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)

    @property
    def running(self) -> bool:
        """Whether it is."""
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def wait(self, seconds: float = 300) -> int:
        """Its exit code."""
        return self.process.wait(seconds)


def written(run: Path) -> int:
    """Parts whose outcomes are there."""
    return len(Run(run, {}).done())


def last_word(run: Path) -> Status:
    """What status.json said last."""
    status = read(Run(run, {}))
    assert status is not None
    return status
