"""report.html of a search: what was chosen, what it is worth on data that it was not chosen by, and what else there is.

A view holds what a page shows and nothing that is computed there. Points are of `uacs.cascade.points`, run times
relative to the large model alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape

from uacs.cascade.objectives import Objective
from uacs.cascade.points import Point
from uacs.cascade.prices import Prices
from uacs.report import search_figures as figures
from uacs.report.search_figures import Cloud, Curve, Status, title
from uacs.report.text import PERCENT, number

COMPARED = ("acc2", "mae")


@dataclass(frozen=True)
class Row:
    """A choice of thresholds on validation and test: one of the search, a rule, or a model alone.

    setting is what made the thresholds (λ and β, say). short is the name in the figures, where a row without one
    is not shown. A rule that comes to no thresholds has no points, and a note that says why.
    """

    name: str
    valid: Point | None = None
    test: Point | None = None
    tau_small: float | None = None
    tau_large: float | None = None
    setting: str = ""
    note: str = ""
    short: str = ""
    chosen: bool = False


@dataclass(frozen=True)
class Repeat:
    """The same once more with another seed: what it came to."""

    seed: int
    tau_small: float
    tau_large: float
    valid: Point
    test: Point | None = None


@dataclass(frozen=True)
class LambdaSweep:
    """Figure 3: metrics and run time (L,) at each λ (L,), and the paper's λ if it gives one."""

    lambdas: np.ndarray
    acc2: np.ndarray
    mae: np.ndarray
    time: np.ndarray
    paper: float | None = None


@dataclass(frozen=True)
class Heat:
    """The objective's metric and run time (L, B) where both models share λ (L,) and β (B,), and the chosen two."""

    lambdas: np.ndarray
    betas: np.ndarray
    quality: np.ndarray
    time: np.ndarray
    chosen: tuple[float, float] | None = None


@dataclass(frozen=True)
class ThresholdView:
    """What the page of `uacs tune thresholds` shows.

    rows has the chosen one and the rules, without the models alone: those are small and large. valid and test are
    the clouds of each metric, test empty where there is no test data. ratio is the hypervolume under Tune's front
    by that under the front of all thresholds. identity is what made this.
    """

    title: str
    identity: Mapping[str, object]
    objective: Objective
    prices: Prices
    knobs: str
    trials: int
    seconds: float
    ratio: float | None
    rows: Sequence[Row]
    small: Row
    large: Row
    valid: Mapping[str, Cloud]
    test: Mapping[str, Cloud] = field(default_factory=dict)
    lambdas: LambdaSweep | None = None
    heat: Heat | None = None
    repeats: Sequence[Repeat] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Trial:
    """A UBM that was trained: its settings by name, and what the cascade over it came to on validation.

    quality is the objective's metric, None where the training failed; note says why it did.
    """

    trial: int
    settings: Mapping[str, object]
    status: Status
    epochs: int
    quality: float | None
    time: float | None = None
    note: str = ""


@dataclass(frozen=True)
class UbmView:
    """What the page of `uacs tune ubm` shows.

    rows compare the cascade over the chosen UBM with that over others (the preset's, say), as in ThresholdView;
    chosen is a trial's number. Settings whose names begin with "lr" are drawn.
    """

    title: str
    identity: Mapping[str, object]
    objective: Objective
    prices: Prices
    seconds: float
    trials: Sequence[Trial]
    chosen: int | None
    rows: Sequence[Row] = ()
    small: Row | None = None
    large: Row | None = None
    curves: Sequence[Curve] = ()
    repeats: Sequence[Repeat] = ()
    warnings: Sequence[str] = ()


def thresholds_page(view: ThresholdView) -> str:
    """report.html of a search for thresholds."""
    parts = {"valid": view.valid, "test": view.test}
    rules = [row for row in view.rows if row.short and not row.chosen]
    return _page(
        "thresholds",
        view,
        chosen=_chosen(view.rows),
        rows=[view.small, *view.rows, view.large],
        large=view.large,
        has_test=any(row.test for row in view.rows),
        tradeoffs={part: _tradeoff(view, rules, part, clouds) for part, clouds in parts.items() if clouds},
        figure_3=figures.lambda_sweep(**vars(view.lambdas)) if view.lambdas else None,
        heat=figures.heat(**vars(view.heat), metric=view.objective.metric) if view.heat else None,
    )


def ubm_page(view: UbmView) -> str:
    """report.html of a search for the settings of a UBM."""
    chosen = next((trial for trial in view.trials if trial.trial == view.chosen), None)
    names = list(dict.fromkeys(name for trial in view.trials for name in trial.settings))
    return _page(
        "ubm",
        view,
        chosen=_chosen(view.rows),
        trial=chosen,
        rows=[row for row in (view.small, *view.rows, view.large) if row],
        large=view.large,
        has_test=any(row.test for row in view.rows),
        settings=names,
        trials=sorted(view.trials, key=lambda t: _rank(t, view.objective)),
        statuses={s: sum(t.status == s for t in view.trials) for s in ("finished", "stopped", "failed")},
        halving=figures.halving(view.curves, view.chosen, view.objective.metric) if view.curves else None,
        rates=_rates(view, [name for name in names if name.startswith("lr")]),
    )


def _page(kind: str, view: ThresholdView | UbmView, **more) -> str:
    environment = Environment(loader=PackageLoader("uacs.report"), autoescape=select_autoescape(), trim_blocks=True)
    return environment.get_template("search.html").render(
        kind=kind,
        view=view,
        title=view.title,
        metric=view.objective.metric,
        compared=COMPARED,
        name_of=title,
        number=number,
        amount=amount,
        interval=interval,
        share=share,
        setting=setting,
        **more,
    )


def _chosen(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row.chosen), None)


def _tradeoff(view: ThresholdView, rules: Sequence[Row], part: str, clouds: Mapping[str, Cloud]) -> str:
    chosen = _chosen(view.rows)
    marks = {row.short: getattr(row, part) for row in rules if getattr(row, part)}
    at = getattr(chosen, part) if chosen else None
    return figures.tradeoff(clouds, getattr(view.small, part), getattr(view.large, part), at, marks)


def _rank(trial: Trial, objective: Objective) -> tuple[bool, float, float, int]:
    """The best quality first, of equals the cheapest; what has none last."""
    known = trial.quality is not None and np.isfinite(trial.quality)
    gain = float(objective.gain(trial.quality)) if known else 0.0
    return not known, -gain, trial.time or 0.0, trial.trial


def _rates(view: UbmView, names: list[str]) -> str | None:
    if not names:
        return None
    numbers = [trial.trial for trial in view.trials]
    return figures.rates(
        {name: np.array([trial.settings.get(name, np.nan) for trial in view.trials], float) for name in names},
        np.array([np.nan if trial.quality is None else trial.quality for trial in view.trials]),
        np.array([np.nan if trial.time is None else trial.time for trial in view.trials]),
        [trial.status for trial in view.trials],
        numbers.index(view.chosen) if view.chosen in numbers else None,
        view.objective.metric,
    )


def amount(name: str, value: float | None) -> str:
    """A metric with its unit, as a sentence wants it.

    >>> amount("acc2", 0.8567), amount("mae", 0.7464)
    ('85.7 %', '0.746')
    """
    return number(name, value) + (" %" if name in PERCENT and value is not None else "")


def interval(name: str, point: Point) -> str:
    """A metric's 95 % interval."""
    low, high = point.intervals[name]
    return f"{number(name, low)} to {number(name, high)}"


def share(value: float | None) -> str:
    """A share or a relative run time in percent; a small one that is not nothing keeps a digit.

    >>> share(0.4321), share(0.0158), share(0.0), share(None)
    ('43', '1.6', '0', '-')
    """
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if 0 < value < 0.0995 else f"{100 * value:.0f}"


def setting(value: object) -> str:
    """A setting's value, a number with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
