"""The small models of a study: one for each seed, and the members of their ensembles, each a task of Ray's."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayError

from uacs.data import places
from uacs.data.prepared import PreparedDataset
from uacs.errors import Refused
from uacs.study.settings import StudySettings
from uacs.study.small import result
from uacs.ubm import ensemble, training
from uacs.ubm.ensemble import Training
from uacs.ubm.estimating import members
from uacs.ubm.folder import DEFAULT_ENCODERS
from uacs.ubm.settings import TrainingSettings, overridden, training_settings

CPUS = 0.5  # logical, as any of our actors
DEATHS = 2  # of its worker that a training outlives; it goes on with its last epoch


@dataclass(frozen=True)
class Learning:
    """How a study's UBMs are trained: on what, with which encoder, and how many at once."""

    dataset: PreparedDataset
    encoder: str
    settings: TrainingSettings
    at_once: int
    gpus: float

    @classmethod
    def of(cls, dataset: PreparedDataset, study: StudySettings) -> "Learning":
        """Raises `WrongUse` for a preset or a setting that there is not."""
        told = [f"{name}={value}" for name, value in study.ubm.settings.items()]
        base = training_settings(study.ubm.preset or dataset.info.kind.preset)
        settings = overridden(base.model_copy(update={"threads": 1}), told)
        encoder = study.ubm.text_encoder or DEFAULT_ENCODERS[dataset.info.language]
        encoder = str(Path(encoder).absolute()) if Path(encoder).is_dir() else encoder
        device = {"device": "cuda"} if study.ubm.gpus else {}
        return cls(dataset, encoder, settings.model_copy(update=device), study.ubm.at_once, study.ubm.gpus)

    def lacking(self, seed: int, whole: Path, with_ensemble: bool) -> list[Training]:
        """The trainings for a seed that have not left their UBM yet, the first that of the UBM in `whole`.

        Raises `Refused` where another's lies, and `BadInput` if split train has fewer videos than an ensemble members.
        """
        own = self.settings.model_copy(update={"seed": seed})
        alone = Training(own, whole)
        there = ensemble.is_whole(whole) and len(members(whole)) == self.settings.members
        if not with_ensemble or (there and self.is_there(alone)):
            wanted = [alone]
        else:
            wanted = ensemble.trainings(self.dataset, own, whole)
        return [one for one in wanted if not self.is_there(one)]

    def is_there(self, one: Training) -> bool:
        """Whether a training has left its UBM."""
        return bool(training.finished_in(one.out, self.dataset, self.encoder, one.settings, one.without))


def train(learning: Learning, wanted: list[Training], told: Callable[[Training, float], None]) -> None:
    """Have trainings done, so many at once; `told` hears of each with its seconds.

    One that was cut off goes on with its last epoch. Raises what a training raises that a person must mend.
    """
    work = ray.remote(num_cpus=CPUS, num_gpus=learning.gpus, max_retries=DEATHS, max_calls=1)(_train)
    waiting = list(wanted)
    under_way: dict[ray.ObjectRef, Training] = {}
    task = {"data": places.absolute(learning.dataset.folder), "encoder": learning.encoder}
    try:
        while waiting or under_way:
            while waiting and len(under_way) < learning.at_once:
                one = waiting.pop(0)
                under_way[work.remote(one, **task)] = one
            (done,), _ = ray.wait(list(under_way), num_returns=1)
            one = under_way.pop(done)
            seconds = result(done, f"{one.out}: ")
            if not learning.is_there(one):
                raise Refused(
                    f"{one.out}: a worker has trained it, and it is not here; name an --out that every node sees"
                )
            told(one, seconds)
    finally:
        for left in under_way:
            with suppress(RayError):
                ray.cancel(left, force=True)


def learn_of_ensembles(learning: Learning, ubms: dict[int, Path]) -> None:
    """What the variances of finished ensembles teach, by seed the UBM's folder; those that have learned stay."""
    for seed, ubm in ubms.items():
        if members(ubm) and not ensemble.is_whole(ubm):
            on_cpu = {"seed": seed, "device": "cpu"}  # this process has no GPU reserved
            ensemble.learn(learning.dataset, ubm, learning.settings.model_copy(update=on_cpu))


def _train(one: Training, data: str, encoder: str) -> float:
    """In a worker: the seconds that it took."""
    started = time.perf_counter()
    dataset = PreparedDataset(data)
    if not training.finished_in(one.out, dataset, encoder, one.settings, one.without):
        training.train(dataset, encoder, one.settings, one.out.absolute(), without=one.without)
    return time.perf_counter() - started
