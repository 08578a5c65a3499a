"""An endpoint as a process of its own, for as long as it is measured."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil

UP = 180.0  # seconds


@contextmanager
def endpoint(demo: Path, *options: str, **environment: str) -> Iterator[str]:
    """`uacs serve` with a demo's models; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "uacs", "serve", "--config", str(demo / "serve.yaml"), "--port", str(port)]
    command += options
    with process(command, f"http://127.0.0.1:{port}", "/v1/health", **environment) as url:
        yield url


@contextmanager
def process(command: list[str], url: str, path: str, **environment: str) -> Iterator[str]:
    """A server as a process, from when it answers until it is told to end."""
    started = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + UP
        while not _answers(url + path):
            if started.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{' '.join(command)}: does not come up")
            time.sleep(0.2)
        yield url
    finally:
        started.send_signal(signal.SIGINT)
        started.wait(60)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def server(url: str) -> psutil.Process:
    """The `uacs serve` that answers at an address."""
    port = url.rpartition(":")[2]
    (found,) = [p for p in psutil.process_iter() if {"serve", "--port", port} <= set(_words(p))]
    return found


def workers(url: str, title: str) -> list[int]:
    """Pids of the worker processes with such a title that belong to the server at that address."""
    return [p.pid for p in server(url).children(recursive=True) if " ".join(_words(p)).startswith(title)]


def resident(pids: list[int]) -> float:
    """MiB that processes have in memory together, shared pages counted in each."""
    return sum(psutil.Process(pid).memory_info().rss for pid in pids) / 2**20


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []
