"""What stage 3 is worth: how often a second look changes, corrects, spoils or copies, and what else would have done.

Only samples count that were due for it at some tau_large and have an answer of it on record: both models unsure, their
polarities different (Eq. 16). For the same samples there are three other ways to end: keep y_small, take y_large as
without cross-verification, or average as if the models agreed (Eq. 15).
"""

from dataclasses import dataclass

import numpy as np

from uacs import metrics
from uacs.cascade import routing
from uacs.cascade.replay import Answers
from uacs.cascade.uncertainty import polarity

SAME = 0.05
"""Scores nearer than this are one to a model that prints one decimal."""


@dataclass(frozen=True)
class SecondLooks:
    """Of n second looks how many changed y_large's polarity, corrected a wrong one, spoiled a right one (as Acc2 counts
    them), repeated y_small's or y_large's score, or lay strictly between both.

    at (n,) are their places among the samples; endings are the answers (n,) of the looks (`verify`), and those that
    would have stood instead: `large`, `average`, `small`.
    """

    at: np.ndarray
    endings: dict[str, np.ndarray]
    changed: int
    corrected: int
    spoiled: int
    like_small: int
    like_large: int
    between: int

    @property
    def n(self) -> int:
        """How many there were."""
        return len(self.at)


def second_looks(answers: Answers, label: np.ndarray, dataset: str, tau_small: float, tau_large: float) -> SecondLooks:
    """Of N recorded answers and labels (N,), NaN where there is none; a sample without a label counts for no score."""
    decision = routing.decide(**vars(answers), tau_small=tau_small, tau_large=tau_large)
    at = np.flatnonzero((decision.stage == routing.VERIFY) & np.isfinite(answers.y_verify))
    small, large, again = (y[at] for y in (answers.y_small, answers.y_large, answers.y_verify))
    average = routing.weighted_average(small, answers.u_small[at], large, answers.u_large[at])
    before, after = (metrics.per_sample(y, label[at], dataset)["acc2"] for y in (large, again))
    like_small, like_large = (np.abs(again - y) < SAME for y in (small, large))
    inside = (np.minimum(small, large) < again) & (again < np.maximum(small, large))
    return SecondLooks(
        at=at,
        endings={"verify": again, "large": large, "average": average, "small": small},
        changed=int(np.sum(polarity(again) != polarity(large))),
        corrected=int(np.sum((before == 0) & (after == 1))),
        spoiled=int(np.sum((before == 1) & (after == 0))),
        like_small=int(np.sum(like_small)),
        like_large=int(np.sum(like_large)),
        between=int(np.sum(inside & ~like_small & ~like_large)),
    )
