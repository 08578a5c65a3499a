"""Learned deferral: hand a sample on by what that is predicted to gain, rather than by entropy alone.

After "Calibrate-Then-Delegate" (arXiv 2604.14251): the small model's answer has more to go by than its entropy,
and a sample on which the large model is no better is not worth the price, however unsure the small one is.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat

from uacs import metrics
from uacs.cascade import routing
from uacs.cascade.objectives import Objective
from uacs.cascade.uncertainty import polarity
from uacs.errors import BadInput
from uacs.records import SmallOutput

if TYPE_CHECKING:
    from uacs.cascade.recording import Recording  # which reads outcome tables, and they know deferrals

FOLDS = 5
FEWEST = 20  # samples to learn from
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)  # ridge, on standardised signs; leave-one-out takes one


def _margin(y: np.ndarray, u: np.ndarray, p: np.ndarray) -> np.ndarray:
    """By how much the likeliest class leads the next."""
    ordered = np.sort(p, axis=-1)
    return ordered[..., -1] - ordered[..., -2]


SIGNS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "entropy": lambda y, u, p: u,  # of the UBM's estimator, whichever that is
    "margin": _margin,
    "strength": lambda y, u, p: np.abs(y),
    "at_odds": lambda y, u, p: (polarity(y) != p.argmax(axis=-1)).astype(float),  # the score's head and the classes'
}
"""What the small model's answer says of itself, by name: of y, u (N,) and p (N, 3)."""


class Deferral(BaseModel):
    """How much better the answer is expected to be if the large model is asked: linear in `SIGNS`.

    In thresholds.json this takes u_small's place in Eq. 13: a sample is handed on if `gain` is above tau_small.
    """

    model_config = ConfigDict(extra="forbid")

    intercept: FiniteFloat
    weights: dict[str, FiniteFloat]

    def gain(self, y: np.ndarray, u: np.ndarray, p: np.ndarray) -> np.ndarray:
        """The expected gain of asking, (N,), for small answers y, u (N,) and p (N, 3).

        NaN where there is no answer; one without probabilities is kept, as if nothing were to be gained.
        """
        signs = {name: SIGNS[name](y, u, p) for name in self.weights}
        total = self.intercept + sum(weight * signs[name] for name, weight in self.weights.items())
        return np.where(np.isfinite(u) & np.isfinite(y), np.nan_to_num(total, nan=-np.inf, neginf=-np.inf), np.nan)


def doubts(outputs: list[SmallOutput], deferral: Deferral | None) -> np.ndarray:
    """What Eq. 13 holds tau_small against, (N,) for N small answers: u, or a deferral's gain."""
    y, u = np.array([output.y for output in outputs]), np.array([output.u for output in outputs])
    return u if deferral is None else deferral.gain(y, u, np.array([output.p for output in outputs]).reshape(-1, 3))


def fit(recording: "Recording", objective: Objective, seed: int = 0) -> tuple[Deferral, np.ndarray]:
    """A deferral learned from a recording, and its out-of-fold gains (N,); NaN where the small model failed.

    Ridge regression of `gained` on the standardised signs; a constant sign weighs 0. A sample's out-of-fold gain
    is what a deferral learned on the other four fifths expects of it: thresholds chosen on fitted gains would
    flatter, for the fit has seen the answers that they are held against. Both are in units of the loss, so a
    threshold chosen on the one serves the other. A sample that nothing can be learned from has the whole fit's gain.

    Raises `BadInput` where fewer than 20 samples have a small answer and a label that counts.
    """
    from sklearn.model_selection import KFold  # half a second, which workers need not wait

    y, u, p = recording.answers.y_small, recording.answers.u_small, recording.p_small
    signs = np.stack([sign(y, u, p) for sign in SIGNS.values()], axis=-1)  # (N, signs)
    target = gained(recording, objective)
    counted = np.flatnonzero(np.isfinite(target) & np.isfinite(signs).all(axis=-1))
    if len(counted) < FEWEST:
        raise BadInput(
            f"{len(counted)} labelled samples count, and a deferral is learned from {FEWEST} or more; "
            "give a larger split, or use --rule exact"
        )
    learned = _ridge(signs[counted], target[counted])
    gains = learned.gain(y, u, p)
    for others, fold in KFold(FOLDS, shuffle=True, random_state=seed).split(counted):
        rest = _ridge(signs[counted[others]], target[counted[others]])
        held_out = counted[fold]
        gains[held_out] = rest.gain(y[held_out], u[held_out], p[held_out])
    return learned, gains


def gained(recording: "Recording", objective: Objective) -> np.ndarray:
    """What asking the large model gained, (N,): the loss of y_small less that of y_large; NaN where none counts.

    The loss is the absolute error for an objective of `mae`, and for all others a wrong polarity (1 or 0).
    Where the large model has no answer the small one stands, so nothing is gained.
    """
    answers = recording.answers
    asked = routing.settle(np.ones(len(recording.label), bool), **vars(answers), tau_large=np.inf).prediction
    kept, handed_on = (
        metrics.per_sample(prediction, recording.label, recording.dataset) for prediction in (answers.y_small, asked)
    )
    if objective.metric == "mae":
        return kept["mae"] - handed_on["mae"]
    return handed_on["acc2"] - kept["acc2"]


def _ridge(signs: np.ndarray, target: np.ndarray) -> Deferral:
    """Of signs (n, signs) and gains (n,), in the signs' own units."""
    from sklearn.linear_model import RidgeCV

    varies = np.ptp(signs, axis=0) > 1e-9  # less is rounding
    weights, mean = np.zeros(len(SIGNS)), signs.mean(axis=0)
    if varies.any():
        sd = signs[:, varies].std(axis=0)
        weights[varies] = RidgeCV(PENALTIES).fit((signs - mean)[:, varies] / sd, target).coef_ / sd
    return Deferral(
        intercept=float(target.mean() - weights @ mean), weights=dict(zip(SIGNS, weights.tolist(), strict=True))
    )
