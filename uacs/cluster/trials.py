"""Trials on Ray Tune, for the searches: run quietly, in a scratch folder, and lost to nothing.

What a search keeps is its own: a ledger of finished trials (`search_thresholds.py`), a folder a training
(`search_ubm.py`). A search that is begun again walks through the same trials, and those that are done cost
nothing. Tune's own snapshots are not used: they come every second at best, in which a search does dozens of
quick trials.
"""

import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.error import TuneError

from uacs.cluster.status import process_runs

os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # three log files a trial that nobody reads
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "0"  # by it a Ctrl-C is told from an end
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # what Tune says of itself

SCRATCH = "uacs-tune-"

Config = dict[str, Any]
Report = dict[str, Any]
Heard = Callable[[Report, bool], None]
"""Hears each report of a trial (its config under `config`), and whether it was the last."""


def run(
    trial: Callable[[Config], None],
    space: Config,
    settings: tune.TuneConfig,
    cpus: float,
    gpus: float = 0.0,
    heard: Heard | None = None,
    failures: int = 0,
) -> list[tune.Result]:
    """Run trials to their end on the Ray of this process; one that failed has `error` set.

    trial is a function of a config, bound to what else it needs by `tune.with_parameters`. It is started anew up
    to `failures` times if it raised or its worker died. What `heard` raises ends them all, and is raised here.
    """
    told = _Told(heard)
    for name in ("ray.tune", "ray.tune.execution.tune_controller"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _clear_left()
    with tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(trial, {"cpu": cpus, "gpu": gpus}),
            param_space=space,
            tune_config=settings,
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                verbose=0,
                callbacks=[told],
                stop=told,
                failure_config=tune.FailureConfig(max_failures=failures),
            ),
        )
        try:
            with _interrupts_heard():
                found = list(tuner.fit())
        except TuneError as error:
            raise told.error or error from None
        if told.error:
            raise told.error
        return found


def _clear_left() -> None:
    """Remove the scratch folders of processes that were killed."""
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*-*"):
        pid = left.name.removeprefix(SCRATCH).partition("-")[0]
        if pid.isdigit() and not process_runs(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _interrupts_heard() -> Iterator[None]:
    """Raise for a Ctrl-C: Tune ends the trials at one, and then returns as if all were done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
        stopped = signal.getsignal(signal.SIGINT) is before[signal.SIGINT]  # Tune gives it back when it hears one
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        raise KeyboardInterrupt


class _Told(tune.Callback, tune.Stopper):
    """Hands on what Tune hears, and ends all if that raises: Tune would make a text of it and go on."""

    def __init__(self, heard: Heard | None):
        self.heard = heard
        self.error: Exception | None = None

    def __reduce__(self):
        return _Told, (None,)  # Tune pickles itself for a restart from its own snapshot, which there is none of

    def on_trial_result(self, iteration, trials, trial, result, **info) -> None:
        """A report; a trial that is done reports nothing more."""
        self._tell(result, False)

    def on_trial_complete(self, iteration, trials, trial, **info) -> None:
        """The trial's end, of itself or because the scheduler stopped it."""
        self._tell(trial.last_result | {"config": trial.config}, True)

    def __call__(self, trial_id: str, result: Report) -> bool:
        """Whether a trial has reported enough: that is its own affair."""
        return False

    def stop_all(self) -> bool:
        """Whether to end."""
        return self.error is not None

    def _tell(self, report: Report, last: bool) -> None:
        try:
            if self.heard:
                self.heard(report, last)
        except Exception as error:
            self.error = error
            raise
