"""A Ray to run on: the one that is there, or one of our own on 127.0.0.1 for the while."""

import fcntl
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
from ray import serve
from ray.data import DataContext
from ray.serve.schema import LoggingConfig

from uacs.cluster import tally

LOCAL_CPUS = 8  # logical: how many threads a model uses is its own setting
SERVE_CONTROLLER = "SERVE_CONTROLLER_ACTOR"
SCRATCH, LOCK = "uacs-", "driver.lock"
_brought: list[str] = []  # a Serve that was started in the session under way
LONGEST_SCRATCH = 28  # characters: Ray puts sockets below it, whose paths end at 107


@contextmanager
def ray_session() -> Iterator[bool]:
    """Join the Ray that RAY_ADDRESS names or this process has, else start one on 127.0.0.1 for the while.

    Yields whether the Ray is ours; if so it is gone afterwards, with its files.
    """
    _quiet()
    if ray.is_initialized():
        yield False
        return
    if "RAY_ADDRESS" in os.environ:
        with _joined():
            yield False
        return
    with _scratch() as scratch:
        yield from _started(scratch)


def _started(scratch: str) -> Iterator[bool]:
    try:
        with _interrupts_wait(), _stderr_kept_back(), _sigterm_kept():
            ray.init(
                num_cpus=LOCAL_CPUS,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                _node_ip_address="127.0.0.1",
                _temp_dir=scratch,
            )
        yield True
    finally:
        with _interrupts_wait():
            ray.shutdown()


@contextmanager
def _scratch() -> Iterator[str]:
    """A folder for Ray's files, locked while it is used; what a killed process left is removed first."""
    base = tempfile.gettempdir() if len(tempfile.gettempdir()) <= LONGEST_SCRATCH else "/tmp"
    for left in Path(base).glob(f"{SCRATCH}*/{LOCK}"):
        with suppress(OSError), left.open("a") as lock:  # another user's, or gone by now
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=base))
    aside = scratch / f"{LOCK}.new"
    with aside.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        aside.rename(scratch / LOCK)  # nobody finds it before it is locked
        try:
            yield str(scratch)
        finally:
            with _interrupts_wait():
                shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _joined() -> Iterator[None]:
    """The Ray of RAY_ADDRESS, left as it was found: a Serve that we brought goes again, unless others use it."""
    with _sigterm_kept():
        ray.init(log_to_driver=False, logging_level="ERROR")
    _brought.clear()
    try:
        yield
    finally:
        if _brought and not serve.status().applications and not tally.any_alive():
            serve.shutdown()
        ray.shutdown()


def start_serve() -> None:
    """Serve without a proxy: an evaluation speaks to it by handles alone. One that runs is joined."""
    note_serve()
    serve.start(proxy_location="Disabled", logging_config=LoggingConfig(log_level="ERROR", enable_access_log=False))


def note_serve() -> None:
    """To be called before a Serve is started: one that is not there yet will be ours to end."""
    if SERVE_CONTROLLER not in {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}:
        _brought.append(SERVE_CONTROLLER)


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """A Ctrl-C in here is heard at its end: inside Ray's core it can crash the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself and ends the process at once, with nothing said and nothing removed."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _stderr_kept_back() -> Iterator[None]:
    """Ray's core announces its log level past Python's streams; it is heard only if something fails."""
    sys.stderr.flush()
    kept, real = tempfile.TemporaryFile(), os.dup(2)
    os.dup2(kept.fileno(), 2)
    try:
        yield
    except BaseException:
        kept.seek(0)
        os.write(real, kept.read())
        raise
    finally:
        os.dup2(real, 2)
        os.close(real)
        kept.close()


def _quiet() -> None:
    """Ray's reports make way for ours. What goes wrong comes back as an exception, and need not be logged as well."""
    for name in ("ray.data", "ray.serve"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = None  # a block is a part: Ray must not cut it
