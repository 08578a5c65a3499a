"""A group of Ray Train workers that train one model together, whatever it is, and outlive a death.

Ray Train starts the group anew if one of them dies; the training takes itself up from its own state, so nothing is
kept in Ray Train's.
"""

import logging
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.train import (
    ControllerError,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from uacs.cluster.session import ray_session
from uacs.errors import Refused, UacsError, WrongUse

WORKER_CPUS = 0.5  # logical, as any of our actors
DEATHS = 3  # that a training outlives

Progress = Callable[[Any], None] | None


def run(
    work: Callable[[dict], None], task: dict, out: Path, workers: int, device: str, progress: Progress, less: str
) -> None:
    """Have every worker do `work(task)`, in which torch.distributed has joined them; `progress` hears of their news.

    less is what a training takes less memory by, for one whose workers die of its want.

    task gets a `progress` of its own that any worker may tell. `out` has to lie where every node sees it. Raises
    `Refused` if this Ray has too few CPUs or GPUs, and what a worker raised that a person must mend.
    """
    if device not in ("cpu", "cuda"):
        raise WrongUse(f"device={device}: with several workers it is cpu, or cuda for a GPU of each's own")
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    with ray_session(), _storage(out) as storage, _news(progress) as news:
        preflight(workers, device, ray.cluster_resources())
        trainer = TorchTrainer(
            work,
            train_loop_config=task | {"progress": news.put},
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=device == "cuda",
                resources_per_worker={"CPU": WORKER_CPUS},
            ),
            run_config=RunConfig(
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=DEATHS),
                callbacks=[_Unmendable()],
                logging_config=LoggingConfig("CRITICAL"),
            ),
        )
        _fit(trainer, less)


def preflight(workers: int, device: str, total: dict[str, float]) -> None:
    """Refuse workers that Ray would wait for without a word; `total` is what all of Ray has."""
    for resource, each in {"CPU": WORKER_CPUS, "GPU": float(device == "cuda")}.items():
        need, have = workers * each, total.get(resource, 0)
        if need > have:
            raise Refused(
                f"{workers} workers need {need:g} {resource}s ({each:g} each), this Ray has {have:g}; "
                f"lower --workers or add nodes"
            )


class _Unmendable(UserCallback):
    """Ends the training at an error that a person must mend: no restart would."""

    def after_exception(self, run_context, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the first such error; Ray Train takes one from here as final."""
        for error in worker_exceptions.values():
            if isinstance(error, UacsError):
                raise error


def _fit(trainer: TorchTrainer, less: str) -> None:
    """Train; an error that a worker raised is raised here as it was there."""
    heard_by = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
    except SystemExit:
        raise KeyboardInterrupt from None  # Ray Train ends the workers at a Ctrl-C, then leaves the process
    except ControllerError as error:
        raise error.controller_failure from error
    except WorkerGroupError as error:
        failures = [failure for _, failure in sorted(error.worker_failures.items())]
        if any(map(_died, failures)):
            raise UacsError(
                f"workers died {DEATHS + 1} times, mostly for want of memory (fewer --workers, {less}); "
                "the same command goes on from the last state"
            ) from error
        raise failures[0] from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, heard_by)


def _died(failure: Exception) -> bool:
    """Whether a worker was gone, rather than raised this; Ray Train's class for it is internal."""
    return hasattr(failure, "health_check_failure")


@contextmanager
def _storage(out: Path) -> Iterator[Path]:
    """A folder that Ray Train wants, though nothing of ours is kept there; its own choice is the user's home."""
    storage = out / ".ray_train"
    storage.mkdir(parents=True, exist_ok=True)
    try:
        yield storage
    finally:
        shutil.rmtree(storage, ignore_errors=True)


@contextmanager
def _news(progress: Progress) -> Iterator[Queue]:
    """A queue to which the workers report, on this node; `progress` hears of it in a thread."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    news = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def tell() -> None:
        for told in iter(news.get, None):
            if progress:
                progress(told)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield news
    finally:
        news.put(None)
        teller.join()
        news.shutdown()
