"""λ and β by Ray Tune: trials propose knobs of Eq. 19, each replays a recording; no model runs.

A trial tries what lies about its knobs. With a pair of knobs a model it is given the small model's, and tries the
thresholds next to that one with every threshold of the large model; with λ and β shared it is given λ, and
tries many β. The first trials are laid out evenly (Halton), the others proposed by Optuna: by NSGA-II where a front is
wanted, by TPE where one point is. One trial runs at a time, so that a seed gives the same trials; each takes some
20 ms.
"""

import io
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from pydantic import BaseModel, ConfigDict, Field
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from scipy.stats.qmc import Halton

from uacs.cascade.objectives import Objective
from uacs.cascade.points import goal
from uacs.cascade.prices import Prices
from uacs.cascade.recording import Recording
from uacs.cascade.sweep import Sweep, axis, sweep
from uacs.cascade.thresholds import Fit, fit
from uacs.cluster import trials
from uacs.cluster.trials import Config, Report
from uacs.data import places
from uacs.data.places import Place
from uacs.errors import BadInput

Knobs = Literal["each", "shared"]
CPUS = 0.5  # logical, as any of our actors
LAID_OUT = 60  # trials before Optuna has its say
POPULATION = 20
STRIP = 9  # neighbouring thresholds of the small model that a trial tries
STEPS = 1000  # values of β that a trial with shared knobs tries, at most


class ThresholdSearch(BaseModel):
    """How thresholds are searched for."""

    model_config = ConfigDict(extra="forbid")

    knobs: Knobs = Field("each", description="λ and β for each model, or shared as in Eq. 19")
    trials: int = Field(200, ge=1)
    seed: int = Field(0, ge=0)
    repeats: int = Field(1, ge=1, description="searches, with the seeds seed, seed + 1 and so on")


@dataclass(frozen=True)
class Points:
    """P points that were tried: thresholds, the objective's metric, and run time relative to the large model."""

    tau_small: np.ndarray
    tau_large: np.ndarray
    quality: np.ndarray
    time: np.ndarray

    @classmethod
    def together(cls, parts: list["Points"]) -> "Points":
        """Of several, in order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


@dataclass(frozen=True)
class Problem:
    """What is searched: a recording, what is wanted of it, what it costs, and which knobs there are.

    fits are Eq. 18's of both models, `large` the large model's own metric.
    """

    recording: Recording
    objective: Objective
    prices: Prices
    knobs: Knobs
    fits: tuple[Fit, Fit]
    large: float

    @classmethod
    def of(cls, recording: Recording, objective: Objective, prices: Prices, knobs: Knobs) -> "Problem":
        """Raises `BadInput` where a model is never right, or never wrong: then λ has nothing to weigh."""
        large = goal(recording, objective.metric)
        return cls(recording, objective, prices, knobs, (_fit(recording, "small"), _fit(recording, "large")), large)

    def row(self, config: Config) -> Points:
        """All points that a trial with these knobs tries."""
        if self.knobs == "each":
            strip = self._strip(eq19(self.fits[0], config["lambda_small"], config["beta_small"]))
            return points(self._sweep(strip, axis(self.recording.answers.u_large)), self.objective, self.prices)
        beta = self._betas(config["lambda"])
        taus = (eq19(fit, config["lambda"], beta) for fit in self.fits)
        grid = points(self._sweep(*taus), self.objective, self.prices)
        diagonal = np.arange(len(beta)) * (len(beta) + 1)
        return Points(*(values[diagonal] for values in vars(grid).values()))

    def best(self, tried: Points) -> int:
        """The position of the point that speaks for a trial: the wanted one, or the most accurate for a front."""
        if self.objective.kind == "front":
            gain = self.objective.gain(tried.quality)
            return int(np.lexsort((tried.time, -gain))[0])
        return int(np.nanargmax(self.objective.utility(tried.quality, tried.time, self.large)))

    def space(self) -> dict[str, FloatDistribution]:
        """The knobs that trials propose, and their ranges: as far as any answer's uncertainty."""
        if self.knobs == "shared":
            return {"lambda": FloatDistribution(0, 1)}
        ends, means = axis(self.recording.answers.u_small)[[0, -1]], _means(self.fits[0])
        low, high = ends[0] - max(means), ends[1] - min(means)
        return {"lambda_small": FloatDistribution(0, 1), "beta_small": FloatDistribution(low, high)}

    def laid_out(self, count: int) -> list[Config]:
        """Knobs that spread over the samples: shares of them that are escalated, or λ, the more the denser."""
        even = Halton(1, scramble=False).random(count + 1)[1:, 0]
        if self.knobs == "shared":
            return [{"lambda": float(lambda_)} for lambda_ in even]
        u, (same, opposite) = self.recording.answers.u_small, _means(self.fits[0])
        taus = np.quantile(u[np.isfinite(u)], even)
        lambdas = np.clip((taus - same) / (opposite - same), 0, 1) if opposite != same else np.zeros(count)
        betas = taus - eq19(self.fits[0], lambdas, 0.0)
        return [
            {"lambda_small": float(lambda_), "beta_small": float(beta)}
            for lambda_, beta in zip(lambdas, betas, strict=True)
        ]

    def _strip(self, tau: float) -> np.ndarray:
        """The small model's thresholds next to one."""
        every = axis(self.recording.answers.u_small)
        first = int(np.searchsorted(every, tau)) - STRIP // 2
        return every[max(0, min(first, len(every) - STRIP)) :][:STRIP]

    def _betas(self, lambda_: float) -> np.ndarray:
        """The β at which a shared λ changes a decision, or even quantiles of them."""
        u = self.recording.answers.u_small, self.recording.answers.u_large
        turns = np.concatenate([axis(u_) - eq19(fit, lambda_, 0.0) for u_, fit in zip(u, self.fits, strict=True)])
        turns = np.unique(turns)
        return turns if len(turns) <= STEPS else turns[np.linspace(0, len(turns) - 1, STEPS).round().astype(int)]

    def _sweep(self, tau_small: np.ndarray, tau_large: np.ndarray) -> Sweep:
        return sweep(self.recording, tau_small, tau_large, self.prices, [self.objective.metric])

    def exact(self) -> Points:
        """All points that these knobs can reach: the sweep that the search is held against."""
        swept = self._sweep(axis(self.recording.answers.u_small), axis(self.recording.answers.u_large))
        every = points(swept, self.objective, self.prices)
        if self.knobs == "each":
            return every
        reached = _reached(swept.tau_small, swept.tau_large, *self.fits).ravel()
        return Points(*(values[reached] for values in vars(every).values()))


def points(swept: Sweep, objective: Objective, prices: Prices) -> Points:
    """A grid's points (A * B,), row by row."""
    tau_small, tau_large = np.meshgrid(swept.tau_small, swept.tau_large, indexing="ij")
    quality, time = swept.metrics[objective.metric], swept.cost / prices.alone
    return Points(tau_small.ravel(), tau_large.ravel(), quality.ravel(), time.ravel())


class Ledger:
    """The finished trials of all seeds, written after each: OUT/trials.parquet."""

    def __init__(self, place: Place):
        self.place = place
        self.rows: list[Report] = []
        if places.is_file(place):
            self.rows = pd.read_parquet(io.BytesIO(places.read(place))).to_dict("records")

    def known(self, seed: int, knobs: list[str]) -> dict[tuple, Report]:
        """What the trials of a seed reported, by the values of their knobs."""
        return {tuple(row[name] for name in knobs): row for row in self.rows if row["seed"] == seed}

    def add(self, row: Report) -> None:
        """Write a trial down."""
        self.rows.append(row)
        content = io.BytesIO()
        pd.DataFrame(self.rows).to_parquet(content)
        places.write(self.place, content.getvalue())


def search(
    problem: Problem,
    settings: ThresholdSearch,
    seed: int,
    ledger: Ledger,
    told: Callable[[int, int], None] | None = None,
) -> Points:
    """Search with one seed on the Ray of this process; returns all points that its trials tried, in order.

    A trial that the ledger has is not tried again, but hands its report to Optuna as it did.
    """
    knobs = list(problem.space())
    known = ledger.known(seed, knobs)
    configs: list[Config] = []

    def heard(report: Report, last: bool) -> None:
        if not last:
            return
        config = {name: report["config"][name] for name in knobs}
        configs.append(config)
        if tuple(config.values()) not in known:
            ledger.add({"seed": seed, "trial": len(configs), **config, **{name: report[name] for name in REPORTED}})
        if told:
            told(len(configs), settings.trials)

    logging.getLogger("optuna").setLevel(logging.ERROR)
    wanted: dict[str, Any] = {"metric": ["gain", "time"], "mode": ["max", "min"]}
    if problem.objective.kind != "front":
        wanted = {"metric": "utility", "mode": "max"}
    searcher = OptunaSearch(
        problem.space(),
        sampler=_sampler(problem, seed),
        points_to_evaluate=problem.laid_out(LAID_OUT),
        **wanted,
    )
    plan = tune.TuneConfig(search_alg=searcher, num_samples=settings.trials, max_concurrent_trials=1, reuse_actors=True)
    found = trials.run(tune.with_parameters(_trial, problem=problem, known=known), {}, plan, CPUS, heard=heard)
    if failed := [result.error for result in found if result.error]:
        raise failed[0]
    return Points.together([problem.row(config) for config in configs])


REPORTED = ("tau_small", "tau_large", "quality", "time", "gain", "utility", "seconds")


def _trial(config: Config, problem: Problem, known: dict[tuple, Report]) -> None:
    if report := known.get(tuple(config[name] for name in problem.space())):
        tune.report({name: report[name] for name in REPORTED})
        return
    started = time.perf_counter()
    tried = problem.row(config)
    best = problem.best(tried)
    report = {name: float(values[best]) for name, values in vars(tried).items()}
    report["gain"] = float(problem.objective.gain(report["quality"]))
    report["utility"] = float(problem.objective.utility(report["quality"], report["time"], problem.large))
    report["seconds"] = time.perf_counter() - started
    tune.report(report)


def _sampler(problem: Problem, seed: int) -> BaseSampler:
    if problem.objective.kind == "front":
        return NSGAIISampler(seed=seed, population_size=POPULATION)
    return TPESampler(seed=seed, multivariate=True)


def _fit(recording: Recording, model: str) -> Fit:
    u, y = getattr(recording.answers, f"u_{model}"), getattr(recording.answers, f"y_{model}")
    known = recording.known & np.isfinite(u) & np.isfinite(y)
    made_of = fit(u[known], y[known], recording.label[known])[1]
    for count, what in ((made_of.n_same, "right"), (made_of.n_opposite, "wrong")):
        if not count:
            raise BadInput(
                f"the {model} model has no {what} answer among {known.sum()} labelled samples, so λ has nothing to "
                "weigh; --rule quantile or mean needs no such answers"
            )
    return made_of


def _reached(tau_small: np.ndarray, tau_large: np.ndarray, small: Fit, large: Fit) -> np.ndarray:
    """Which cells of a grid (A, B) a shared λ in [0, 1] and any β can decide as, (A, B).

    The difference of the two thresholds is then between that of the means of right and that of wrong answers. A
    grid point stands for the thresholds from its own up to the next, the first for all below as well.
    """
    differences = [s - l for s, l in zip(_means(small), _means(large), strict=True)]
    (lower_small, upper_small), (lower_large, upper_large) = (
        (np.append(-np.inf, tau[1:]), np.append(tau[1:], np.inf)) for tau in (tau_small, tau_large)
    )
    least = lower_small[:, None] - upper_large[None, :]
    most = upper_small[:, None] - lower_large[None, :]
    return (least <= max(differences)) & (most >= min(differences))


def _means(fit: Fit) -> tuple[float, float]:
    return float(fit.mu_same or 0.0), float(fit.mu_opposite or 0.0)


def eq19(fit: Fit, lambda_, beta):
    """The threshold of Eq. 19, of one λ and β or of arrays."""
    same, opposite = _means(fit)
    return (1 - lambda_) * same + lambda_ * opposite + beta
