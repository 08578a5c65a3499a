"""Trials on Ray Tune, for the searches: run quietly, in a scratch folder, and lost to nothing.

What a search keeps is its own: a ledger of finished trials (`search_thresholds.py`), a folder a training
(`search_ubm.py`). A search that is begun again walks through the same trials, and those that are done cost
nothing. So none of Tune's own snapshots is needed: with one a second, a killed search repeated 34 of the 91
quick trials that were done.
"""

import logging
import os
import tempfile
from collections.abc import Callable
from typing import Any

from ray import tune

os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # three log files a trial that nobody reads
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # what Tune says of itself

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
    to `failures` times if it raised or its worker died.
    """
    for name in ("ray.tune", "ray.tune.execution.tune_controller"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="uacs-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(trial, {"cpu": cpus, "gpu": gpus}),
            param_space=space,
            tune_config=settings,
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                verbose=0,
                callbacks=[_Told(heard)] if heard else [],
                failure_config=tune.FailureConfig(max_failures=failures),
            ),
        )
        return list(tuner.fit())


class _Told(tune.Callback):
    """Hands on what Tune hears."""

    def __init__(self, heard: Heard):
        self.heard = heard

    def on_trial_result(self, iteration, trials, trial, result, **info) -> None:
        """A report; a trial that is done reports nothing more."""
        self.heard(result, False)

    def on_trial_complete(self, iteration, trials, trial, **info) -> None:
        """The trial's end, of itself or because the scheduler stopped it."""
        self.heard(trial.last_result | {"config": trial.config}, True)
