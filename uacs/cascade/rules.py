"""The ways to choose both thresholds from a recording, behind one call: `choose`.

A rule is a function of a recording, settings, an objective and prices; each reads what it needs of them. A new
one is a function, a line in `RULES`, and its name among the command's choices.
"""

from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import brentq
from scipy.stats import norm

from uacs.cascade import deferral, points, risk
from uacs.cascade.objectives import Objective
from uacs.cascade.prices import Prices
from uacs.cascade.recording import Recording
from uacs.cascade.sweep import axis, sweep
from uacs.cascade.thresholds import Fit, Thresholds, explained, fit, labelled, reference
from uacs.errors import BadInput, WrongUse


class RuleSettings(BaseModel):
    """What rules can be told; each says which of it is its own."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    lambda_: float = Field(
        0.5,
        alias="lambda",
        ge=0,
        le=1,
        description="means, risk (Eq. 19): 0 is the mean uncertainty of right answers, 1 that of wrong ones",
    )
    beta: float = Field(
        0.0, allow_inf_nan=False, description="means, mean, risk: added to the thresholds (Eq. 19), nats"
    )
    share: float = Field(0.3, ge=0, le=1, description="quantile: how many of the samples are handed on, at most")
    alpha: float = Field(0.1, gt=0, lt=1, description="risk: how many of the small model's answers may be wrong")
    delta: float = Field(0.1, gt=0, lt=1, description="risk: how likely that promise may fail")
    seed: int = Field(0, ge=0, description="learned: which samples are held out together")


Rule = Callable[[Recording, RuleSettings, Objective, Prices], Thresholds]


def choose(rule: str, recording: Recording, settings: RuleSettings, objective: Objective, prices: Prices) -> Thresholds:
    """Both thresholds by a rule's name. Raises `WrongUse` for another, `BadInput` where the rule is undefined."""
    if rule not in RULES:
        raise WrongUse(f"no rule '{rule}'; there is {', '.join(RULES)}")
    return RULES[rule](recording, settings, objective, prices)


def means(recording: Recording, settings: RuleSettings, objective: Objective, prices: Prices) -> Thresholds:
    """The paper's: λ of the way from the mean u of right answers to that of wrong ones, plus β (Eq. 19)."""
    tau_small, small, said_small = _by_means(recording, "small", settings)
    tau_large, large, said_large = _by_means(recording, "large", settings)
    return Thresholds(
        tau_small=tau_small,
        tau_large=tau_large,
        rule="means",
        small=small,
        large=large,
        reference=reference(recording, tau_small),
        warnings=said_small + said_large,
    )


def mean(recording: Recording, settings: RuleSettings, objective: Objective, prices: Prices) -> Thresholds:
    """The paper's first (section III-F): the mean of all uncertainties, plus β. It needs no labels."""
    answers = recording.answers
    tau_small, tau_large = (float(np.nanmean(u)) + settings.beta for u in (answers.u_small, answers.u_large))
    return explained(recording, tau_small, tau_large, "mean")


def gaussian(recording: Recording, settings: RuleSettings, objective: Objective, prices: Prices) -> Thresholds:
    """Where an answer becomes likelier wrong than right: the two fitted Gaussians, as high as their counts, cross.

    Between the means, that is. Where the one is the likelier all the way, the threshold is the mean at the
    end; where there are no two Gaussians in this order, it lies midway. Either is said.
    """
    tau_small, said_small = _crossing(recording, "small")
    tau_large, said_large = _crossing(recording, "large")
    return explained(recording, tau_small, tau_large, "gaussian", said_small + said_large)


def quantile(recording: Recording, settings: RuleSettings, objective: Objective, prices: Prices) -> Thresholds:
    """Either threshold so that a share of the samples is above it, as near as ties allow and never more.

    For tau_large these are samples of all, whether or not the small model hands them on.
    """
    tau_small, tau_large = (_above(u, settings.share) for u in (recording.answers.u_small, recording.answers.u_large))
    return explained(recording, tau_small, tau_large, "quantile")


def learned(recording: Recording, settings: RuleSettings, objective: Objective, prices: Prices) -> Thresholds:
    """A deferral fitted to the samples, with the thresholds that are best for the gains it has out of fold."""
    found, gains = deferral.fit(recording, objective, settings.seed)
    tau_small, tau_large = _best(recording, gains, objective, prices)
    return explained(recording, tau_small, tau_large, "learned", deferral=found)


def exact(recording: Recording, settings: RuleSettings, objective: Objective, prices: Prices) -> Thresholds:
    """The best pair there is for the objective: every way to part the samples by u_small, and by u_large."""
    tau_small, tau_large = _best(recording, recording.answers.u_small, objective, prices)
    return explained(recording, tau_small, tau_large, "exact")


def controlled(recording: Recording, settings: RuleSettings, objective: Objective, prices: Prices) -> Thresholds:
    """tau_small that promises at most alpha wrong of what the small model keeps (`risk`); tau_large by Eq. 19."""
    tau_small = risk.tau_small(recording, settings.alpha, settings.delta)
    tau_large, _, said = fit(*labelled(recording, "large"), settings.lambda_, settings.beta)
    return explained(recording, tau_small, tau_large, "risk", _of("large", said))


RULES: dict[str, Rule] = {
    "means": means,
    "mean": mean,
    "gaussian": gaussian,
    "quantile": quantile,
    "learned": learned,
    "exact": exact,
    "risk": controlled,
}
"""By the names that thresholds.json has."""


def _by_means(recording: Recording, model: str, settings: RuleSettings) -> tuple[float, Fit, list[str]]:
    u, y, label = labelled(recording, model)
    tau, made_of, said = fit(u, y, label, settings.lambda_, settings.beta)
    _refuse_one_group(model, made_of, len(u))
    return tau, made_of, _of(model, said)


def _crossing(recording: Recording, model: str) -> tuple[float, list[str]]:
    """One model's threshold by `gaussian`, and what is doubtful about it."""
    u, y, label = labelled(recording, model)
    midway, made_of, said = fit(u, y, label)
    _refuse_one_group(model, made_of, len(u))
    if said or not (made_of.sd_same and made_of.sd_opposite):
        said = said or ["right or wrong answers are all equally sure: no Gaussian to fit"]
        return midway, _of(model, [*said, "the threshold lies midway between the two means"])

    def lead(at: float) -> float:
        """By how much right is likelier than wrong; between the means it only falls."""
        right = np.log(made_of.n_same) + norm.logpdf(at, made_of.mu_same, made_of.sd_same)
        return float(right - np.log(made_of.n_opposite) - norm.logpdf(at, made_of.mu_opposite, made_of.sd_opposite))

    low, high = float(made_of.mu_same or 0), float(made_of.mu_opposite or 0)
    if lead(low) <= 0:
        return low, _of(model, ["wrong is likelier than right all the way between the means: the lower one it is"])
    if lead(high) >= 0:
        return high, _of(model, ["right is likelier than wrong all the way between the means: the upper one it is"])
    return float(brentq(lead, low, high)), []


def _above(u: np.ndarray, share: float) -> float:
    """The least threshold with no more than a share of u (N,) above it; NaN is not counted."""
    u = np.sort(u[np.isfinite(u)])
    cuts = axis(u, most=len(u) + 2)
    above = len(u) - np.searchsorted(u, cuts, side="right")
    return float(cuts[np.argmax(above <= share * len(u) + 1e-9)])  # 0.29 x 100 is a little less than 29


def _best(recording: Recording, doubt: np.ndarray, objective: Objective, prices: Prices) -> tuple[float, float]:
    """The objective's choice of tau_small, held against doubt (N,), and tau_large."""
    name = objective.metric
    grid = sweep(recording, axis(doubt), axis(recording.answers.u_large), prices, [name], doubt)
    large = points.goal(recording, name)
    at = objective.choose(grid.metrics[name].ravel(), (grid.cost / prices.alone).ravel(), large)
    row, column = np.unravel_index(at, grid.cost.shape)
    return float(grid.tau_small[row]), float(grid.tau_large[column])


def _refuse_one_group(model: str, made_of: Fit, n: int) -> None:
    for kind, count in (("right", made_of.n_same), ("wrong", made_of.n_opposite)):
        if not count:
            raise BadInput(
                f"the {model} model has no {kind} answer among {n} labelled samples, so there are no two means to "
                "weigh; use --rule quantile or mean"
            )


def _of(model: str, said: list[str]) -> list[str]:
    return [f"{model} model: {text}" for text in said]
