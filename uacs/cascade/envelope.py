"""What routing makes of two models at worst and at best: a coin's choice, and that of one who knows the labels.

Between the two lies all that an uncertainty can be worth. Run time is relative to the large model alone
(`Prices.alone`); qualities are acc2 and mae, of which each sample has its own share (`metrics.per_sample`).
"""

from dataclasses import dataclass

import numpy as np

from uacs import metrics
from uacs.cascade import routing
from uacs.cascade.prices import Prices
from uacs.cascade.recording import Recording


@dataclass(frozen=True)
class Line:
    """Quality against run time, as P points by rising time: (P,) both."""

    time: np.ndarray
    quality: np.ndarray


def random_line(recording: Recording, prices: Prices, metric: str, tau_large: float) -> Line:
    """Whom to ask is a coin's choice; stages 2 and 3 stay as they are.

    Expected quality and run time are straight in the share that is asked, so two points say it: nobody, everyone.
    """
    nobody, everyone = (
        routing.settle(np.full(len(recording.label), asked), **vars(recording.answers), tau_large=tau_large)
        for asked in (False, True)
    )
    asked = np.mean(everyone.stage != routing.FAILED)
    second = np.mean((everyone.stage == routing.VERIFY) & recording.twice)
    quality = [np.nanmean(_share(recording, decision.prediction, metric)) for decision in (nobody, everyone)]
    return Line(_time(prices, np.array([0.0, asked]), np.array([0.0, second])), np.array(quality))


def oracle_line(recording: Recording, prices: Prices, metric: str) -> Line:
    """Who knows the labels asks first where asking gains most, and never where it loses; no second looks.

    A point for each number of samples asked that gains; from the last one the line is flat as far as the price
    of everyone. Who is asked gets the large answer: a fused one may be better than both, so stage 3 can come to
    lie above this line.
    """
    small = _share(recording, recording.answers.y_small, metric)
    large = _share(recording, recording.answers.y_large, metric)
    gain = np.nan_to_num(small - large if metric == "mae" else large - small)
    gain = np.sort(gain[gain > 0])[::-1]
    counted = np.isfinite(small).sum()
    better = np.concatenate([[0.0], np.cumsum(gain)]) / max(counted, 1)
    quality = np.nanmean(small) + (-better if metric == "mae" else better)
    asked = np.arange(len(quality)) / len(recording.label)
    if asked[-1] < 1:
        asked, quality = np.append(asked, 1.0), np.append(quality, quality[-1])
    return Line(_time(prices, asked, 0.0), quality)


def _share(recording: Recording, prediction: np.ndarray, metric: str) -> np.ndarray:
    """What each sample adds to a metric, (N,), NaN where it is not scored."""
    label = np.where(recording.known, recording.label, np.nan)
    return metrics.per_sample(prediction, label, recording.dataset)[metric]


def _time(prices: Prices, asked: np.ndarray, second: np.ndarray | float) -> np.ndarray:
    return prices.of(asked, second) / prices.alone
