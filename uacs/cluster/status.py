"""Whether a run is alive and how far it is: status.json, which its driver writes anew every few seconds.

A run is alive while its driver is: on this machine the process says so, on another the file's age.
"""

import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from uacs.cluster.progress import Counts, Progress, Told
from uacs.cluster.runs import Run, submitted
from uacs.errors import Refused

BEAT = 5.0  # seconds between two writings
STALE = 30.0  # seconds after which a driver on another machine is taken for dead
LOOK = 1.0  # seconds between two looks at the counts

log = logging.getLogger("uacs.run")


@dataclass(frozen=True)
class Status:
    """What status.json says: `state` is running, finished, failed or interrupted; `at` is seconds since 1970."""

    state: str
    host: str
    pid: int
    at: float
    job: str | None
    progress: Progress

    @property
    def age(self) -> float:
        """Seconds since it was written, by this machine's clock."""
        return max(0.0, time.time() - self.at)

    @property
    def alive(self) -> bool:
        """Whether its driver still runs, as far as can be told from here."""
        if self.state != "running":
            return False
        if self.host == platform.node() and not process_runs(self.pid):
            return False
        return self.age < STALE


def read(run: Run) -> Status | None:
    """The run's status.json, if it has one."""
    text = run.read("status.json")
    if text is None:
        return None
    said = json.loads(text)
    progress = said.pop("progress")
    counts = {name: Counts(**progress[name]) for name in ("earlier", "counts")}
    return Status(**said, progress=Progress(progress["total"], **counts, seconds=progress["seconds"]))


def refuse_alive(run: Run) -> Status | None:
    """Refuse a run that another driver has; returns the last status of one that none has.

    A driver on another machine is given time to write again, since its clock may be another.
    """
    last = read(run)
    if last is None or last.state != "running" or (last.host, last.pid) == (platform.node(), os.getpid()):
        return last
    if last.host != platform.node():
        time.sleep(2 * BEAT)
        now = read(run) or last
        if now.state != "running" or now.at == last.at:
            return now
    elif not last.alive:
        return last
    raise Refused(f"{run.folder}: under way on {last.host}, process {last.pid}; wait for it, or stop it first")


class Pulse:
    """While its context lasts, tells how far a run is: `told` every second, status.json every few.

    However the context ends, status.json says so.
    """

    def __init__(self, run: Run, total: int, earlier: Counts, told: Told | None):
        self.run, self.told = run, told
        self.count: Callable[[], Counts] | None = None
        self.progress = Progress(total, earlier, earlier)
        self.started: float | None = None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Pulse":
        self.write("running")
        if (now := read(self.run)) and (now.host, now.pid) != (platform.node(), os.getpid()):
            raise Refused(f"{self.run.folder}: {now.host}, process {now.pid}, begins it as well; wait for that")
        log.info("run begun", extra=self._extra())
        self.thread.start()
        return self

    @contextmanager
    def counting(self, count: Callable[[], Counts]) -> Iterator[None]:
        """The models are loaded: in here time counts, and `count` says how far the run is; its errors are no news."""
        self.started, self.count = time.perf_counter(), count
        try:
            yield
        finally:
            self.look()
            self.count = None

    def __exit__(self, kind, error, trace) -> None:
        self.over.set()
        self.thread.join()
        if self.started is not None:
            self.run.add_session(self.progress.seconds, self.progress.counts.written - self.progress.earlier.written)
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        state = "interrupted" if stopped else "failed" if kind else "finished"
        self.write(state)
        log.info(f"run {state}", extra=self._extra())

    def look(self) -> None:
        """Ask for news and pass it on. Whatever fails, the run goes on without its progress line."""
        try:
            if self.started is not None and self.count is not None:
                self.progress = replace(self.progress, seconds=time.perf_counter() - self.started)
                self.progress = replace(self.progress, counts=self.count())
            if self.told:
                self.told(self.progress)
        except Exception as error:
            log.debug("no news: %s", error)

    def write(self, state: str) -> None:
        """Write status.json, if that can be done."""
        status = Status(state, platform.node(), os.getpid(), time.time(), submitted(), self.progress)
        try:
            self.run.write("status.json", json.dumps(asdict(status), indent=2))
        except Exception as error:
            log.warning("status.json: %s", error)

    def _beat(self) -> None:
        last = time.perf_counter()
        while not self.over.wait(LOOK):
            if time.perf_counter() - last >= BEAT:
                self.write("running")
                log.info("progress", extra=self._extra())
                last = time.perf_counter()
            self.look()

    def _extra(self) -> dict[str, object]:
        counts = {"total": self.progress.total, **asdict(self.progress.counts)}
        return {"run": self.run.run_id, "seconds": round(self.progress.seconds, 3), **counts}


def reap_cluster() -> list[str]:
    """Remove what killed drivers left on the cluster that RAY_ADDRESS names, if it names one; returns what it was."""
    if "RAY_ADDRESS" not in os.environ:
        return []
    from uacs.cluster.serving.large import reap
    from uacs.cluster.session import ray_session

    with ray_session():
        return reap()


def process_runs(pid: int) -> bool:
    """Whether there is a process of that number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
