"""What a doubt is worth: how well it ranks mistakes, how well it is calibrated, what routing by it gains.

A doubt u is (N,), higher for less sure; a loss is (N,), 0 for none: a wrong polarity (1 or 0), or the absolute error.
Samples whose doubts are equal are taken in no order: each of a tie counts with the tie's mean. Samples without a loss
(NaN) are not counted.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

BINS = 10
ROUNDING = 1e-12


@dataclass(frozen=True)
class Reliability:
    """A diagram of B bins of probability: how many samples fall into each (B,), what they were expected to be on
    average and what they were, NaN in an empty one."""

    count: np.ndarray
    expected: np.ndarray
    observed: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: the bins' gaps, by their samples. Source: Naeini et al. 2015."""
        gaps = np.abs(np.nan_to_num(self.expected - self.observed))
        return float(self.count @ gaps / self.count.sum()) if self.count.any() else float("nan")


def reliability(probability: np.ndarray, happened: np.ndarray, bins: int = BINS) -> Reliability:
    """Of probabilities (N,) and whether it happened (N,), 1 or 0, in bins of equal width.

    >>> reliability(np.array([0.1, 0.1, 0.9, 0.9]), np.array([0, 1, 1, 1]), bins=2).ece  # gaps 0.4 and 0.1
    0.25
    """
    counted = np.isfinite(probability) & np.isfinite(happened)
    probability, happened = probability[counted], happened[counted]
    of = np.minimum((probability * bins).astype(int), bins - 1)
    count = np.bincount(of, minlength=bins)
    with np.errstate(invalid="ignore"):
        expected, observed = (np.bincount(of, values, bins) / count for values in (probability, happened))
    return Reliability(count, expected, observed)


def auroc(u: np.ndarray, loss: np.ndarray) -> float:
    """How likely a wrong sample's doubt is above a right one's, a tie counting half; NaN where there is but one kind.

    >>> auroc(np.array([0.1, 0.4, 0.3, 0.8]), np.array([0, 0, 1, 1]))  # of four pairs one is the wrong way round
    0.75
    """
    u, loss = _counted(u, loss)
    wrong = loss > 0
    pairs = wrong.sum() * (~wrong).sum()
    above = rankdata(u)[wrong].sum() - wrong.sum() * (wrong.sum() + 1) / 2
    return float(above / pairs) if pairs else float("nan")


def aurc(u: np.ndarray, loss: np.ndarray) -> float:
    """Area under the risk-coverage curve: the mean, over k, of the mean loss of the k surest.

    Source: Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural Networks".

    >>> aurc(np.array([1, 2, 3]), np.array([0, 1, 1]))  # (0 + 1/2 + 2/3) / 3
    0.38888888888888884
    """
    lost = np.cumsum(_by_doubt(u, loss))
    return float(np.mean(lost / np.arange(1, len(lost) + 1))) if len(lost) else float("nan")


def excess_aurc(u: np.ndarray, loss: np.ndarray) -> float:
    """AURC above that of the best order there is. Source: Geifman et al. 2018."""
    u, loss = _counted(u, loss)
    return aurc(u, loss) - aurc(loss, loss)


def augrc(u: np.ndarray, loss: np.ndarray) -> float:
    """Area under the generalised risk-coverage curve: the mean, over k, of the k surest's loss, all samples dividing.

    It is the risk of a silent mistake, and steady where few are kept. Source: Traub et al. 2024, arXiv 2407.01032.

    >>> augrc(np.array([1, 2, 3]), np.array([0, 1, 1]))  # (0 + 1/3 + 2/3) / 3
    0.3333333333333333
    """
    lost = np.cumsum(_by_doubt(u, loss))
    return float(np.mean(lost) / len(lost)) if len(lost) else float("nan")


def budget_curve(u: np.ndarray, kept: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The mean (N + 1,) over N samples if the 0, 1, ... N least sure are asked.

    kept and asked (N,) are what a sample counts if it is kept, and if it is asked about: its acc2 or its loss.
    """
    counted = np.isfinite(u) & np.isfinite(kept) & np.isfinite(asked)
    gained = _by_doubt(-u, asked - kept)
    return (kept[counted].sum() + np.append(0, np.cumsum(gained))) / max(counted.sum(), 1)


def apgr(u: np.ndarray, small: np.ndarray, large: np.ndarray) -> float:
    """Average performance gap recovered: of what the large model has over the small one, the part that routing by u
    keeps, in the mean over all shares asked. A coin's is a half, and a doubt can do better than the large model.

    Source: RouteLLM, arXiv 2406.18665. NaN where both models are equal.

    >>> apgr(np.array([3, 2, 1]), np.array([0, 1, 1]), np.array([1, 1, 1]))  # all of the gap is recovered by the first
    0.8333333333333334
    """
    curve = budget_curve(u, small, large)
    gap = curve[-1] - curve[0]
    return float(np.trapezoid(curve - curve[0]) / gap / (len(curve) - 1)) if abs(gap) > ROUNDING else float("nan")


def qnc(u: np.ndarray, small: np.ndarray, large: np.ndarray, higher: bool = True) -> float:
    """Quality-neutral cost: the least share to be asked for what is no worse than the better model alone.

    `higher` says that more of what is counted is better. The small model's price is taken for nothing, and of asking
    everyone the share is 1. Source: MMR-Bench, with shares in place of prices.

    >>> qnc(np.array([3, 2, 1, 0]), np.array([0, 1, 0, 1]), np.array([1, 1, 1, 0]))  # 3/4 alone, reached by one of four
    0.25
    """
    curve = budget_curve(u, small, large) * (1 if higher else -1)
    enough = np.flatnonzero(curve >= max(curve[0], curve[-1]) - ROUNDING)
    return float(enough[0] / (len(curve) - 1)) if len(curve) > 1 else float("nan")


def random_mean(share: float, kept: np.ndarray, asked: np.ndarray) -> float:
    """What a coin's choice of a share of the samples comes to, in the mean over all coins."""
    return float((1 - share) * np.nanmean(kept) + share * np.nanmean(asked))


def _by_doubt(u: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values from the surest to the least sure, each of a tie the tie's mean."""
    u, values = _counted(u, values)
    if not len(u):
        return values
    _, group = np.unique(u, return_inverse=True)
    mean = np.bincount(group, values) / np.bincount(group)
    return mean[np.sort(group)]


def _counted(u: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counted = np.isfinite(u) & np.isfinite(loss)
    return np.asarray(u, float)[counted], np.asarray(loss, float)[counted]
