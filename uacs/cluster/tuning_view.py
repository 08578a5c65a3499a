"""What the page of `uacs tune thresholds` draws, reckoned from the recordings."""

import numpy as np

from uacs import datasets
from uacs.cascade.envelope import Line, oracle_line, random_line
from uacs.cascade.objectives import Objective, front, hypervolume
from uacs.cascade.points import alone, point
from uacs.cascade.prices import Prices
from uacs.cascade.recording import Recording
from uacs.cascade.sweep import axis, sweep
from uacs.cascade.thresholds import Fit, Thresholds
from uacs.cluster.choices import Choice, Grounds, Searched
from uacs.cluster.runs import Run
from uacs.cluster.search_thresholds import Points, Problem, ThresholdSearch, eq19, points
from uacs.errors import BadInput
from uacs.report.search_figures import Cloud
from uacs.report.search_page import Heat, LambdaSweep, Repeat, Row, ThresholdView

LAMBDAS = np.linspace(0, 1, 21)  # Figure 3's, and the heat map's
BETAS = 25  # of the heat map


def view_of(
    given: Grounds,
    run: Run,
    settings: ThresholdSearch,
    objective: Objective,
    searched: list[Searched],
    choices: list[Choice],
    seconds: float,
) -> ThresholdView:
    """All of the page; choices begin with the wanted one, searched is empty where the search is not it."""
    identity = run.manifest["identity"]
    tau_large = choices[0].thresholds.tau_large if choices[0].thresholds else 0.0
    every = every_point(given, objective)
    tried = searched[0].points if searched else None
    drawn = {
        part: _clouds(recording, given, objective, tau_large, every, tried) for part, recording in given.splits.items()
    }
    fits = _fits(given, objective)
    return ThresholdView(
        title=f"Thresholds for {identity['dataset']}, chosen on split {identity['split']}",
        identity=identity | {"calibration": str(given.calibration.folder)},
        objective=objective,
        prices=given.prices,
        knobs=settings.knobs,
        trials=settings.trials * len(searched),
        seconds=seconds,
        ratio=_ratio(given, objective, settings, tried) if tried else None,
        rows=[row_of(choice, number == 0) for number, choice in enumerate(choices)],
        small=_alone(given, "small"),
        large=_alone(given, "large"),
        valid=drawn["valid"],
        test=drawn.get("test", {}),
        lambdas=_lambdas(given, fits) if fits else None,
        heat=_heat(given, fits, objective, settings, choices[0]) if fits else None,
        repeats=[_repeat(given, found) for found in searched] if len(searched) > 1 else (),
        warnings=[*(choices[0].thresholds.warnings if choices[0].thresholds else []), *_unpaid(given)],
    )


def _unpaid(given: Grounds) -> list[str]:
    """What to know of second looks that are not on record."""
    without = int(np.sum(~given.valid.twice))
    if not without:
        return []
    return [
        f"{without} second looks are not on record: where they would be due y_large stands in, at no price; a model "
        "that gives them is paid for them"
    ]


def _fits(given: Grounds, objective: Objective) -> tuple[Fit, Fit] | None:
    """Eq. 18's means and spreads; None where a model has no right or no wrong answer."""
    try:
        return Problem.of(given.valid, objective, given.prices, "shared").fits
    except BadInput:
        return None


def every_point(given: Grounds, objective: Objective) -> Points:
    """The exact sweep: every way to part the samples."""
    name = objective.metric
    recording = given.valid
    swept = sweep(recording, axis(recording.answers.u_small), axis(recording.answers.u_large), given.prices, [name])
    return points(swept, objective, given.prices)


def _ratio(given: Grounds, objective: Objective, settings: ThresholdSearch, tried: Points) -> float:
    """The hypervolume under the search's front by that under the front of all that its knobs can reach.

    The reference point is the small model alone, at the price of the dearest point there is.
    """
    exact = Problem.of(given.valid, objective, given.prices, settings.knobs).exact()
    gains = [objective.gain(of.quality) for of in (exact, tried)]
    worst = float(gains[0][np.argmin(exact.time)]), float(exact.time.max())
    whole = hypervolume(gains[0], exact.time, *worst)
    return hypervolume(gains[1], tried.time, *worst) / whole if whole else 1.0


def scored(recording: Recording, at: Prices, tau_small, tau_large, names) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Metrics and relative run time of P pairs of thresholds, (P,) each."""
    (rows, row), (columns, column) = (np.unique(tau, return_inverse=True) for tau in (tau_small, tau_large))
    grid = sweep(recording, rows, columns, at, list(dict.fromkeys(names)))
    return {name: values[row, column] for name, values in grid.metrics.items()}, grid.cost[row, column] / at.alone


def _clouds(
    recording: Recording,
    given: Grounds,
    objective: Objective,
    tau_large: float,
    every: Points,
    tried: Points | None,
) -> dict[str, Cloud]:
    """What to draw of one split, for Acc2 and for MAE."""
    clouds, shown = {}, {}
    if recording is given.valid:
        shown["exact"] = front_of(every, objective)
    if tried:
        shown |= {"tuned": front_of(tried, objective), "trials": _thinned(tried)}
    for metric in ("acc2", "mae"):
        lines = {name: _line(recording, given.prices, of, metric) for name, of in shown.items()}
        clouds[metric] = Cloud(
            random=random_line(recording, given.prices, metric, tau_large),
            oracle=oracle_line(recording, given.prices, metric),
            **lines,
        )
    return clouds


def front_of(of: Points, objective: Objective) -> Points:
    """The points that no other one betters, by rising run time."""
    along = front(objective.gain(of.quality), of.time)
    return Points(*(values[along] for values in vars(of).values()))


def _thinned(of: Points, most: int = 300) -> Points:
    """Some of many points, evenly: a picture of all would be a blot of megabytes."""
    kept = np.linspace(0, len(of.time) - 1, min(most, len(of.time))).round().astype(int)
    return Points(*(values[kept] for values in vars(of).values()))


def _line(recording: Recording, at: Prices, of: Points, metric: str) -> Line:
    found, time_ = scored(recording, at, of.tau_small, of.tau_large, [metric])
    return Line(time_, found[metric])


def _lambdas(given: Grounds, fits: tuple[Fit, Fit]) -> LambdaSweep:
    tau_small, tau_large = (eq19(fit, LAMBDAS, 0.0) for fit in fits)
    found, time_ = scored(given.valid, given.prices, tau_small, tau_large, ["acc2", "mae"])
    return LambdaSweep(LAMBDAS, found["acc2"], found["mae"], time_, datasets.kind(given.valid.dataset).lambda_)


def _heat(
    given: Grounds, fits: tuple[Fit, Fit], objective: Objective, settings: ThresholdSearch, chosen: Choice
) -> Heat:
    """Over β as far as the small model's threshold, at λ 0.5, passes all uncertainties."""
    low, high = axis(given.valid.answers.u_small)[[0, -1]] - eq19(fits[0], 0.5, 0.0)
    betas = np.linspace(low, high, BETAS)
    lambda_, beta = (values.ravel() for values in np.meshgrid(LAMBDAS, betas, indexing="ij"))
    tau_small, tau_large = (eq19(fit, lambda_, beta) for fit in fits)
    found, time_ = scored(given.valid, given.prices, tau_small, tau_large, [objective.metric])
    shape = (len(LAMBDAS), len(betas))
    at, made = None, chosen.thresholds
    if (
        made
        and made.small
        and made.large
        and (made.small.lambda_, made.small.beta) == (made.large.lambda_, made.large.beta)
    ):
        at = made.small.lambda_, made.small.beta
    return Heat(LAMBDAS, betas, found[objective.metric].reshape(shape), time_.reshape(shape), at)


def row_of(choice: Choice, chosen: bool) -> Row:
    """A choice as the page shows it."""
    made = choice.thresholds
    return Row(
        name=choice.name,
        valid=choice.valid,
        test=choice.test,
        tau_small=made.tau_small if made else None,
        tau_large=made.tau_large if made else None,
        setting=_knobs_text(made) if made else "",
        note=choice.note,
        short=choice.short,
        chosen=chosen,
    )


def _knobs_text(made: Thresholds) -> str:
    fits = [fit for fit in (made.small, made.large) if fit]
    told = dict.fromkeys(f"λ {fit.lambda_:.2f}, β {fit.beta:+.2f}" for fit in fits)
    return "gain of asking" if made.deferral else "; ".join(told)


def _alone(given: Grounds, model: str) -> Row:
    test = alone(given.test, model, given.prices) if given.test else None
    return Row(f"{model} model alone", alone(given.valid, model, given.prices), test)


def _repeat(given: Grounds, found: Searched) -> Repeat:
    made = found.thresholds
    test = point(given.test, made, given.prices) if given.test else None
    return Repeat(found.seed, made.tau_small, made.tau_large, point(given.valid, made, given.prices), test)
