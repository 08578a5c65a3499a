"""A Ray to run on, and whether the plan fits it.

Logical CPUs are bookkeeping: how many threads a model uses is its own setting. They matter because
Ray waits without a word for CPUs that never come free, so a plan that cannot start is refused first.
"""

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.data import DataContext
from ray.serve.schema import LoggingConfig

from uacs.errors import Refused

LOCAL_CPUS = 8
SERVE_CONTROLLER = "SERVE_CONTROLLER_ACTOR"
LONGEST_SCRATCH = 28  # characters: Ray puts sockets below it, whose paths end at 107


class Resources(BaseModel):
    """How many actors hold each model, and what of a machine each of them reserves."""

    model_config = ConfigDict(extra="forbid")

    pool: int = Field(2, ge=1, description="actors that hold the UBM")
    pool_gpus: float = Field(0, ge=0, description="GPU share of each of them")
    replicas: int = Field(1, ge=1, description="replicas that hold the large model")
    replica_gpus: float = Field(0, ge=0, description="GPU share of each replica")
    parts_in_flight: int = Field(2, ge=1, description="parts whose unsure samples wait for the large model at once")
    actor_cpus: float = Field(0.5, gt=0, description="logical CPUs that any of these reserves")


def preflight(plan: Resources, total: dict[str, float], device: str = "cpu") -> None:
    """Refuse a plan that would hang for want of CPUs or GPUs, saying what to change.

    `total` is what all of Ray has; one CPU must stay free, since Ray Data's own tasks ask for a whole one.
    `device` is the large model's.
    """
    if device != "cpu" and not plan.replica_gpus:
        raise Refused(f"mllm.device is {device} and resources.replica_gpus is 0: a replica sees no GPU; set it to 1")
    actors = plan.pool + plan.replicas + plan.parts_in_flight
    cpus, gpus = actors * plan.actor_cpus + 1, plan.pool * plan.pool_gpus + plan.replicas * plan.replica_gpus
    have_cpus, have_gpus = total.get("CPU", 0), total.get("GPU", 0)
    if cpus > have_cpus:
        raise Refused(
            f"the plan needs {cpus:g} logical CPUs ({actors} actors of {plan.actor_cpus:g}, and 1 for Ray Data), this "
            f"Ray has {have_cpus:g}; lower resources.pool, resources.replicas or resources.actor_cpus, or add nodes"
        )
    if gpus > have_gpus:
        raise Refused(
            f"the plan needs {gpus:g} GPUs ({plan.pool} x {plan.pool_gpus:g} for the UBM, {plan.replicas} x "
            f"{plan.replica_gpus:g} for the large model), this Ray has {have_gpus:g}; lower replicas or shares"
        )


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
    scratch = tempfile.mkdtemp(prefix="uacs-", dir=None if len(tempfile.gettempdir()) <= LONGEST_SCRATCH else "/tmp")
    try:
        with _interrupts_wait(), _stderr_kept_back():
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
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _joined() -> Iterator[None]:
    """The Ray of RAY_ADDRESS, left as it was found: a Serve that we brought goes again, unless others use it."""
    ray.init(log_to_driver=False, logging_level="ERROR")
    serving = SERVE_CONTROLLER in {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
    try:
        yield
    finally:
        if not serving and not serve.status().applications:
            serve.shutdown()
        ray.shutdown()


def start_serve() -> None:
    """Serve without a proxy: an evaluation speaks to it by handles alone. One that runs is joined."""
    serve.start(proxy_location="Disabled", logging_config=LoggingConfig(log_level="ERROR", enable_access_log=False))


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
