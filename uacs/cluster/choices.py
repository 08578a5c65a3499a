"""The choices of thresholds that `uacs tune thresholds` weighs: on what grounds, by which rules, worth what."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from uacs import datasets
from uacs.cascade import rules
from uacs.cascade.objectives import Objective
from uacs.cascade.points import Point, point
from uacs.cascade.prices import Prices, prices
from uacs.cascade.recording import Recording
from uacs.cascade.rules import RuleSettings
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.runs import Run, exists, read_thresholds, refuse_other_models, second_look
from uacs.cluster.search_thresholds import Points, ThresholdSearch
from uacs.data.places import Place
from uacs.errors import BadInput, Refused, WrongUse

SEARCH = "search"  # the rule that the search itself is
SHORT = {"exact": "exact", "mean": "mean", "gaussian": "Gauss", "quantile": "quantile", "learned": "learned"}


@dataclass(frozen=True)
class Grounds:
    """What a choice is made on and what it is reported on: a calibration, and a test run or None."""

    calibration: Run
    valid: Recording
    test: Recording | None
    prices: Prices
    tested: Run | None = None

    @property
    def splits(self) -> dict[str, Recording]:
        """By what they are for: valid, and test if there is one."""
        return {"valid": self.valid} | ({"test": self.test} if self.test else {})


@dataclass(frozen=True)
class Choice:
    """Thresholds by a rule, or why there are none, and what they come to."""

    name: str
    thresholds: Thresholds | None
    valid: Point | None
    test: Point | None
    note: str = ""
    short: str = ""


@dataclass(frozen=True)
class Searched:
    """What one seed's search came to."""

    seed: int
    points: Points
    thresholds: Thresholds


def grounds(run: Place, test: Place | None, given: dict[str, float]) -> Grounds:
    """Open a finished calibration, or an evaluation that has one within and then tests it if it can.

    Raises `BadInput` and `Refused` where a run is unfinished or of another command, asked the large model about
    some only, or where the test run is over the calibration's samples or of other models.
    """
    found = Run.open(run)
    if found.manifest["identity"]["command"] == "evaluate" and exists(found.place("calibration")):
        if test is None and found.manifest["identity"]["asked"] == "everyone":
            test = run
        found = Run.open(found.place("calibration"))
    if (command := found.manifest["identity"]["command"]) != "calibrate":
        raise Refused(
            f"{run}: a run of `uacs {command}`; thresholds are chosen on one of `uacs calibrate`, and other runs only "
            "test them (--test)"
        )
    found.metrics()  # raises if it is not finished
    table = found.table()
    valid = _recording(found)
    tested = _tested(found, test)
    return Grounds(found, valid, _recording(tested) if tested else None, prices(table, given), tested)


def choices(
    given: Grounds,
    searched: list[Searched],
    settings: ThresholdSearch,
    objective: Objective,
    wanted: str,
    told: RuleSettings,
) -> list[Choice]:
    """The thresholds by every rule, the wanted one first."""

    def by(rule: str, **changed) -> Callable[[], Thresholds]:
        return lambda: rules.choose(rule, given.valid, told.model_copy(update=changed), objective, given.prices)

    asked: dict[str, tuple[str, Callable[[], Thresholds]]] = {}
    if searched:
        asked[SEARCH] = (f"search ({settings.trials} trials)", lambda: searched[0].thresholds)
    asked["exact"] = ("exact sweep", by("exact"))
    for lambda_ in dict.fromkeys([told.lambda_, 0.5, datasets.kind(given.valid.dataset).lambda_]):
        name = "means" if lambda_ == told.lambda_ else f"means {lambda_:g}"
        asked[name] = (f"means, λ {lambda_:g} (Eq. 19)", by("means", lambda_=lambda_))
    asked |= {
        "mean": ("mean of all", by("mean")),
        "gaussian": ("Gaussian crossing", by("gaussian")),
        "quantile": (f"quantile, {told.share:.0%} asked", by("quantile")),
        "learned": ("learned deferral", by("learned")),
        "risk": (f"risk, α {told.alpha:g}, δ {told.delta:g}", by("risk")),
    }
    for name in rules.RULES:
        asked.setdefault(name, (name, by(name)))
    if wanted not in asked:
        raise WrongUse(f"no rule '{wanted}'; there is {', '.join([SEARCH, *rules.RULES])}")
    order = [wanted, *(name for name in asked if name != wanted)]
    return [_choice(given, name, *asked[name]) for name in order]


def _choice(given: Grounds, name: str, title: str, make: Callable[[], Thresholds]) -> Choice:
    short = title.split(",")[1].split("(")[0].strip() if name.startswith("means") else SHORT.get(name, name)
    try:
        made = make()
    except BadInput as error:
        return Choice(title, None, None, None, str(error), short)
    return weighed(given, title, made, short)


def weighed(given: Grounds, name: str, made: Thresholds, short: str) -> Choice:
    """Thresholds, and what they come to on both splits."""
    points = {split: point(recording, made, given.prices) for split, recording in given.splits.items()}
    return Choice(name, made, points["valid"], points.get("test"), "; ".join(made.warnings), short)


def _recording(run: Run) -> Recording:
    try:
        return Recording.of(run.table(), run.like)
    except BadInput as error:
        raise BadInput(f"{run.folder}: {error}") from None


def _tested(calibration: Run, place: Place | None) -> Run | None:
    """The run to report on; refused if it is the calibration's own, or of other models."""
    if place is None:
        return None
    run = Run.open(place)
    if (command := run.manifest["identity"]["command"]).startswith("tune"):
        raise Refused(f"{place}: a search of `uacs {command}`; test on a run of `uacs evaluate --all-stages`")
    run.metrics()  # raises if it is not finished
    ours, theirs = calibration.manifest["identity"], run.manifest["identity"]
    if (ours["split"], ours["data"]) == (theirs["split"], theirs["data"]):
        raise Refused(f"{place}: the samples that thresholds are chosen by; test on a run over another split")
    refuse_other_models(read_thresholds(calibration.place("thresholds.json")), theirs)
    if second_look(ours) != second_look(theirs):
        raise Refused(f"{place}: stage 3 was asked otherwise than in the calibration; test on a run that asks it alike")
    return run


def rule_settings_of(given: Grounds, lambda_: float | None = None, **told) -> RuleSettings:
    """What rules are told; without a λ the dataset's own holds. Raises `WrongUse` naming what is wrong."""
    if lambda_ is None:
        lambda_ = datasets.kind(given.valid.dataset).lambda_
    try:
        return RuleSettings(lambda_=lambda_, **told)
    except ValidationError as error:
        first = error.errors()[0]
        raise WrongUse(f"--{first['loc'][0]} {first['input']}: {first['msg']}") from None
