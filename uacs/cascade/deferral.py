"""Learned deferral: hand a sample on by what that is predicted to gain, rather than by entropy alone.

After "Calibrate-Then-Delegate" (arXiv 2604.14251): the small model's answer has more to go by than its entropy,
and a sample on which the large model is no better is not worth the price, however unsure the small one is.
"""

from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat

from uacs.cascade.uncertainty import polarity
from uacs.records import SmallOutput


def _margin(y: np.ndarray, u: np.ndarray, p: np.ndarray) -> np.ndarray:
    """By how much the likeliest class leads the next."""
    ordered = np.sort(p, axis=-1)
    return ordered[..., -1] - ordered[..., -2]


SIGNS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "entropy": lambda y, u, p: u,
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
        """The expected gain of asking, (N,), for small answers y, u (N,) and p (N, 3); NaN where there is none."""
        signs = {name: SIGNS[name](y, u, p) for name in self.weights}
        total = self.intercept + sum(weight * signs[name] for name, weight in self.weights.items())
        return np.where(np.isfinite(u) & np.isfinite(y), total, np.nan)


def doubts(outputs: list[SmallOutput], deferral: Deferral | None) -> np.ndarray:
    """What Eq. 13 holds tau_small against, (N,) for N small answers: u, or a deferral's gain."""
    y, u = np.array([output.y for output in outputs]), np.array([output.u for output in outputs])
    return u if deferral is None else deferral.gain(y, u, np.array([output.p for output in outputs]).reshape(-1, 3))
