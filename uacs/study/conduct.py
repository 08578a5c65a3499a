"""A study's way: train, answer, ask, look again. What is there is not done again (`layout.py` says where)."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

import numpy as np

from uacs import fingerprints, mllm
from uacs.cascade.uncertainty import polarity
from uacs.cluster import evaluation, status
from uacs.cluster.evaluation import Models
from uacs.cluster.progress import Counts, Told
from uacs.cluster.resources import nodes_of_ray, preflight
from uacs.cluster.runs import Run
from uacs.cluster.session import ray_session
from uacs.config import EvaluationSettings
from uacs.data import places
from uacs.data.prepared import PreparedDataset
from uacs.errors import BadInput, Refused
from uacs.mllm import MllmSettings
from uacs.mllm.prompts import Hints
from uacs.records import LargeOutput
from uacs.study import faults, trainings
from uacs.study import large as larges
from uacs.study import small as smalls
from uacs.study.cells import Cell
from uacs.study.faults import thresholds_of
from uacs.study.large import SecondLook
from uacs.study.layout import Study, identity
from uacs.study.settings import Fault, LargeModelSettings
from uacs.study.small import Question
from uacs.study.trainings import Learning
from uacs.ubm.estimating import fingerprint, load_fitted


@contextmanager
def _unheard(what: str) -> Iterator[None]:
    yield


@dataclass(frozen=True)
class Hearing:
    """Who hears of a study: `step` of each step that is over, in a line; `run` and `count` give what hears of a run's
    progress, or of how many clips are asked about, while they last."""

    step: Callable[[str], None] = lambda what: None
    run: Callable[[str], AbstractContextManager[Told | None]] = _unheard
    count: Callable[[str], AbstractContextManager[Callable[[int, int], None] | None]] = _unheard


def conduct(study: Study, hearing: Hearing = Hearing()) -> None:
    """Do all that is not there yet. Cut off, the same again goes on.

    Raises `Refused` where another study lies, where this one is under way, or where this Ray has no room for it, and
    `BadInput` for data and models that cannot be studied.
    """
    study = replace(study, out=study.out.absolute())
    refuse_unfit(study)
    run = Run.begin(study.out, identity(study), study.settings.model_dump(mode="json"))
    status.refuse_alive(run)
    steps = Steps(study, hearing)
    with status.Pulse(run, steps.total, Counts(), None) as pulse, ray_session() as ours, pulse.counting(steps.counts):
        _refuse_no_room(study)
        _train(study, steps)
        _answer(study, steps)
        for name in study.settings.large:
            _ask(study, name, steps, run.run_id, ours)
        for name in study.settings.elsewhere:
            steps.take(f"carried to {name}" if faults.carry(study, name) else None)


def refuse_unfit(study: Study) -> None:
    """Refuse what would fail after hours: a split without labels, a model that is not there, other data that differ."""
    info = study.dataset.info
    if info.later:
        raise BadInput(f"{study.dataset.folder}: a run's own, without features; `uacs prepare` the clips themselves")
    for split in ("train", "valid", "test"):
        if all(sample.label is None for sample in study.dataset.samples(split)):
            raise BadInput(f"{study.dataset.folder}: no sample of split '{split}' has a label; a study needs them")
    for large in study.settings.large.values():
        mllm.check(large.model)
    for name, other in study.settings.elsewhere.items():
        there = PreparedDataset(other.data)
        there.parts(other.split)
        if there.info.score_range != info.score_range:
            raise Refused(f"elsewhere.{name}: scores in {there.info.score_range}, here in {info.score_range}")
        for modality, made in there.info.features.items():
            if info.features.get(modality, made) != made:
                theirs, ours = made.extractor, info.features[modality].extractor
                raise Refused(f"elsewhere.{name}: {modality} by '{theirs}', here by '{ours}'; prepare both alike")
        if other.recorded:
            if not other.recorded.startswith(mllm.RECORDED):
                raise BadInput(f"elsewhere.{name}.recorded: expected recorded:FILE.parquet")
            mllm.check(other.recorded)


def _refuse_no_room(study: Study) -> None:
    """Refuse a plan that Ray would wait for without a word."""
    nodes, plan, share = nodes_of_ray(), study.settings.run.resources, study.settings.ubm.gpus
    if share and not plan.autoscaling and all(node.get("GPU", 0) < share for node in nodes):
        raise Refused(f"ubm.gpus is {share:g}, and no node of this Ray has as much; set it to 0 to train on CPU")
    for name, large in study.settings.large.items():
        preflight(plan, nodes, "cpu" if large.recorded else study.of_large(name).device)


class Steps:
    """How far a study is, in steps: a training, a set of answers, a run, second looks, a fault."""

    def __init__(self, study: Study, hearing: Hearing):
        settings = study.settings
        members = Learning.of(study.dataset, settings).settings.members
        self.trained = sum(1 + members * settings.ensemble_of(seed) for seed in settings.seeds)
        asked = [what for name in settings.large for of in _wanted(study, name).values() for what in of]
        self.total = self.trained + _answers(study) + len(asked) + len(settings.elsewhere)
        self.done, self.hearing = 0, hearing

    def take(self, what: str | None, steps: int = 1) -> None:
        """Note steps that are over; what is None where they were over before."""
        self.done += steps
        if what:
            self.hearing.step(f"{what}  ({self.done} of {self.total})")

    def counts(self) -> Counts:
        """The steps that are over, as status.json has them."""
        return Counts(written=self.done)


def _train(study: Study, steps: Steps) -> None:
    learning, settings = Learning.of(study.dataset, study.settings), study.settings
    lacking = [
        one for seed in settings.seeds for one in learning.lacking(seed, study.ubm(seed), settings.ensemble_of(seed))
    ]
    steps.take(None, steps.trained - len(lacking))

    def told(one, seconds: float) -> None:
        steps.take(f"trained {one.out.relative_to(study.out)} in {seconds:.0f} s")

    if lacking:
        trainings.train(learning, lacking, told)
    wanted = {seed: study.ubm(seed) for seed in settings.seeds if settings.ensemble_of(seed)}
    trainings.learn_of_ensembles(learning, wanted)


def _answers(study: Study) -> int:
    """How many sets of answers UBMs give."""
    settings = study.settings
    own = sum(2 * (1 + settings.ensemble_of(seed)) for seed in settings.seeds)
    return own + len(settings.faults) + len(settings.elsewhere)


def _questions(study: Study) -> list[Question]:
    """All that UBMs are asked; of faults and other data the first seed's only."""
    settings, first = study.settings, study.settings.seeds[0]
    made = {
        (seed, name): fingerprint(study.ubm(seed), name)
        for seed in settings.seeds
        for name in (("cbe", "ev") if settings.ensemble_of(seed) else ("cbe",))
    }

    def question(
        seed: int, name: str, there: PreparedDataset, split: str, estimator: str = "cbe", fault: Fault | None = None
    ) -> Question:
        of = fingerprints.of_settings([made[seed, estimator], _learned(study.ubm(seed)), there.checksum(split), fault])
        data = str(places.absolute(there.folder))
        return Question(study.ubm(seed), estimator, data, split, study.small(seed, name), of, fault)

    found = []
    for seed in settings.seeds:
        for split in ("valid", "test"):
            found.append(question(seed, split, study.dataset, split))
            if settings.ensemble_of(seed):
                found.append(question(seed, f"{split}-ev", study.dataset, split, "ev"))
    found += [question(first, fault, study.dataset, "test", fault=fault) for fault in settings.faults]
    for name, other in settings.elsewhere.items():
        found.append(question(first, f"at-{name}", PreparedDataset(other.data), other.split))
    return found


def _learned(ubm: Path) -> dict:
    """What a UBM's estimators have learned, but of an ensemble: that has its own part in a fingerprint."""
    fitted = load_fitted(ubm)
    if fitted is None:
        raise BadInput(f"{ubm}: trained before there were estimators; remove it, and the study trains it again")
    own = {name: knots for name, knots in fitted.quantiles.items() if name != "ev"}
    return fitted.model_copy(update={"members": 0, "quantiles": own}).model_dump()


def _answer(study: Study, steps: Steps) -> None:
    questions = _questions(study)
    lacking = [question for question in questions if not question.answered]
    steps.take(None, len(questions) - len(lacking))

    def told(question: Question) -> None:
        steps.take(f"answered {question.out.relative_to(study.out)}")

    run = study.settings.run
    smalls.answer(lacking, run.batch_size, run.threads, run.resources, told)


def _wanted(study: Study, name: str) -> dict[Hints, list[str]]:
    """What a large model is asked while it is told one way: of one that is not the first, what tables say of it."""
    settings = study.settings
    runs, look = ["calibration", "baseline"], [] if settings.large[name].recorded else ["looks"]
    if name != settings.main:
        return {study.primary: runs + look}
    others: dict[Hints, list[str]] = {hints: look for hints in settings.hints[1:] if look}
    return {study.primary: [*runs, *look, *settings.faults]} | others


def _ask(study: Study, name: str, steps: Steps, run_id: str, ours: bool) -> None:
    """All that one large model is asked; it is loaded once for each way of telling it, and once for each run."""
    large, info = study.settings.large[name], study.dataset.info
    for hints, wanted in _wanted(study, name).items():
        own = study.of_large(name, hints)
        for what in (what for what in wanted if what in ("calibration", "baseline")):
            before = (study.run(name, what) / "metrics.json").exists()
            with steps.hearing.run(f"{name}: {what}") if not before else _unheard(what) as progress:
                _run(study, name, large, own, what, progress)  # one that is there is held against its identity
            steps.take(None if before else f"{name}: {what}")
        looks = second_looks(study, name, hints) if "looks" in wanted else []
        lacking = [fault for fault in wanted if fault in get_args(Fault) and not faults.is_asked(study, name, fault)]
        again = bool(larges.missing(looks, study.looks(name, hints)))
        steps.take(None, ("looks" in wanted and not again) + sum(w in get_args(Fault) for w in wanted) - len(lacking))
        if not (lacking or again):
            continue
        with larges.expert(run_id, large, own, info, study.settings.run, ours) as asked:
            if again:
                with steps.hearing.count(f"{name}: looking again") as counted:
                    told = counted or (lambda done, of: None)
                    larges.look_again(asked, looks, info.name, study.looks(name, hints), told)
                steps.take(f"{name}: looked again, told {hints}")
            for fault in lacking:
                with steps.hearing.count(f"{name}: {fault}") as counted:
                    faults.spoil(study, name, asked, cast(Fault, fault), counted)
                steps.take(f"{name}: {fault}")


def _run(
    study: Study, name: str, large: LargeModelSettings, own: MllmSettings, what: str, progress: Told | None
) -> None:
    """`uacs calibrate` and `uacs evaluate --all-stages` with the first seed's UBM."""
    settings: EvaluationSettings = study.settings.run.model_copy(update={"mllm": own, "estimator": "cbe"})
    split = "valid" if what == "calibration" else "test"
    models = Models(study.dataset, split, study.ubm(study.settings.seeds[0]), large.model)
    out = study.run(name, what)
    if what == "calibration":
        evaluation.calibrate(models, out, settings, study.lambda_, study.settings.beta, progress)
    else:
        evaluation.evaluate(models, thresholds_of(study, name), out, settings, True, progress)


def second_looks(study: Study, name: str, hints: Hints) -> list[SecondLook]:
    """Every second look that a seed or an estimator asks for.

    Of large models that are not the first, and in other wordings than the cascade's, those of cbe alone.
    """
    looks = []
    for seed in study.settings.seeds:
        cell = study.cell(seed, name)
        for estimator in told_of(study, cell, hints):
            looks += looks_of(study, cell, estimator, hints)
    return looks


def told_of(study: Study, cell: Cell, hints: Hints) -> list[str]:
    """The estimators whose doubts a large model is told of one way."""
    return cell.estimators if hints == study.primary and cell.name == study.settings.main else ["cbe"]


def looks_of(study: Study, cell: Cell, estimator: str, hints: Hints) -> list[SecondLook]:
    """The second looks of one estimator: wherever both models have answered, and of different polarity."""
    test, found = cell.test, []
    answered = np.isfinite(test.y) & np.isfinite(test.y_large)
    for i in np.flatnonzero(answered & (polarity(test.y) != polarity(test.y_large))):
        small = test.small(int(i), estimator)
        large = LargeOutput(float(test.y_large[i]), float(test.u_large[i]), "ok")
        sample = study.test[test.sample_ids[i]]
        said = larges.said(sample, small, large, study.dataset.info, hints)
        found.append(SecondLook(sample, small, large, said))
    return found
