"""One choice of thresholds on one recording: what it scores, whom it asks, what it costs."""

from dataclasses import dataclass

import numpy as np

from uacs import metrics
from uacs.cascade.prices import Prices
from uacs.cascade.recording import Recording
from uacs.cascade.replay import replay
from uacs.cascade.routing import SMALL, VERIFY, settle
from uacs.cascade.thresholds import Thresholds


@dataclass(frozen=True)
class Point:
    """A cascade on n scored samples.

    asked and second are shares of all samples; cost is the price of a sample, time that relative to the large
    model alone. intervals are 95 % bootstrap intervals over samples, of acc2 and mae.
    """

    n: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    asked: float
    second: float
    cost: float
    time: float


def point(recording: Recording, thresholds: Thresholds, prices: Prices) -> Point:
    """What thresholds make of a recording."""
    doubt = None
    if thresholds.deferral:
        doubt = thresholds.deferral.gain(recording.answers.y_small, recording.answers.u_small, recording.p_small)
    decision = replay(recording.answers, thresholds.tau_small, thresholds.tau_large, doubt).decision
    asked = float(np.mean(decision.stage > SMALL))
    second = float(np.mean((decision.stage == VERIFY) & recording.twice))
    return _scored(recording, decision.prediction, prices.of(asked, second), prices, asked, second)


def alone(recording: Recording, model: str, prices: Prices) -> Point:
    """The `small` or the `large` model about everyone, scored where it answered."""
    everyone = float(model == "large")
    y = getattr(recording.answers, f"y_{model}")
    return _scored(recording, y, prices.large if everyone else prices.small, prices, everyone, 0.0)


def goal(recording: Recording, metric: str) -> float:
    """The large model's metric on all that is scored: where it did not answer, the small answer stands."""
    everyone = np.ones(len(recording.label), bool)
    asked = settle(everyone, **vars(recording.answers), tau_large=np.inf).prediction
    known = recording.known
    return metrics.score(asked[known], recording.label[known], recording.dataset)[metric]


def _scored(
    recording: Recording, prediction: np.ndarray, cost: float, prices: Prices, asked: float, second: float
) -> Point:
    known = recording.known & np.isfinite(prediction)
    prediction, label = prediction[known], recording.label[known]
    shares = metrics.per_sample(prediction, label, recording.dataset)
    return Point(
        n=int(known.sum()),
        metrics=metrics.score(prediction, label, recording.dataset),
        intervals={name: metrics.bootstrap(values) for name, values in shares.items()},
        asked=asked,
        second=second,
        cost=float(cost),
        time=float(cost / prices.alone),
    )
