"""Train a UBM on several Ray Train workers.

Every worker runs `uacs.ubm.training` with its share of each batch. If one dies, Ray Train starts the group
anew, and it goes on from the training's own state in OUT/unfinished.
"""

import json
import logging
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
from uacs.data import places
from uacs.data.prepared import PreparedDataset
from uacs.errors import Refused, UacsError, WrongUse
from uacs.ubm import training
from uacs.ubm.settings import TrainingSettings

WORKER_CPUS = 0.5  # logical, as any of our actors
DEATHS = 3  # that a training outlives


def train(
    dataset: PreparedDataset,
    text_encoder: str,
    settings: TrainingSettings,
    out: Path,
    workers: int,
    progress: Callable[[training.Epoch], None] | None = None,
) -> list[training.Epoch]:
    """As `uacs.ubm.training.train`, by several workers; with device `cuda` each has a GPU of its own.

    `out`, the data and an encoder's folder have to lie on a path that every node sees. Raises `Refused` as
    well if this Ray has too few CPUs or GPUs for the workers.
    """
    if settings.device not in ("cpu", "cuda"):
        raise WrongUse(f"device={settings.device}: with several workers it is cpu, or cuda for a GPU of each's own")
    out = out.absolute()
    encoder = str(Path(text_encoder).absolute()) if Path(text_encoder).is_dir() else text_encoder
    dataset = PreparedDataset(places.absolute(dataset.folder))
    training.begun_in(out, dataset, encoder, settings)
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    with ray_session(), _storage(out) as storage, _news(progress) as news:
        preflight(workers, settings.device, ray.cluster_resources())
        task = {"dataset": dataset, "text_encoder": encoder, "settings": settings, "out": out, "progress": news.put}
        trainer = TorchTrainer(
            _work,
            train_loop_config=task,
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=settings.device == "cuda",
                resources_per_worker={"CPU": WORKER_CPUS},
            ),
            run_config=RunConfig(
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=DEATHS),
                callbacks=[_Unmendable()],
                logging_config=LoggingConfig("CRITICAL"),
            ),
        )
        _fit(trainer)
    return json.loads((out / "training.json").read_text())["epochs"]


def preflight(workers: int, device: str, total: dict[str, float]) -> None:
    """Refuse workers that Ray would wait for without a word; `total` is what all of Ray has."""
    for resource, each in {"CPU": WORKER_CPUS, "GPU": float(device == "cuda")}.items():
        need, have = workers * each, total.get(resource, 0)
        if need > have:
            raise Refused(
                f"{workers} workers need {need:g} {resource}s ({each:g} each), this Ray has {have:g}; "
                f"lower --workers or add nodes"
            )


def _work(task: dict) -> None:
    """What each worker does, at first and after a death; one that comes after the end has nothing left to do."""
    out = task["out"]
    if not (out / "training.json").exists() or (out / "unfinished" / "state.pt").exists():
        training.train(**task)


class _Unmendable(UserCallback):
    """Ends the training at an error that a person must mend: no restart would."""

    def after_exception(self, run_context, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the first such error; Ray Train takes one from here as final."""
        for error in worker_exceptions.values():
            if isinstance(error, UacsError):
                raise error


def _fit(trainer: TorchTrainer) -> None:
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
                f"workers died {DEATHS + 1} times, mostly for want of memory (fewer --workers, a smaller "
                "batch_size); the same command goes on from the last epoch"
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
def _news(progress: Callable[[training.Epoch], None] | None) -> Iterator[Queue]:
    """A queue to which the workers report epochs, on this node; `progress` hears of them in a thread."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    news = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def tell() -> None:
        for epoch in iter(news.get, None):
            if progress:
                progress(epoch)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield news
    finally:
        news.put(None)
        teller.join()
        news.shutdown()
