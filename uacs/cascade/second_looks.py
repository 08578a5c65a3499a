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
class Ending:
    """Another way to end: its acc2 and mae on the samples, and the second look's less its own with 95 % intervals."""

    values: dict[str, float]
    gained: dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class SecondLooks:
    """Of n second looks how many changed y_large's polarity, corrected a wrong one, spoiled a right one (as Acc2 counts
    them), repeated y_small's or y_large's score, or lay strictly between both; what they score, and what else would."""

    n: int
    changed: int
    corrected: int
    spoiled: int
    like_small: int
    like_large: int
    between: int
    values: dict[str, float]
    instead: dict[str, Ending]


def second_looks(answers: Answers, label: np.ndarray, dataset: str, tau_small: float, tau_large: float) -> SecondLooks:
    """Of N recorded answers and labels (N,), NaN where there is none; a sample without a label counts for no score."""
    decision = routing.decide(**vars(answers), tau_small=tau_small, tau_large=tau_large)
    at = np.flatnonzero((decision.stage == routing.VERIFY) & np.isfinite(answers.y_verify))
    small, large, again = (y[at] for y in (answers.y_small, answers.y_large, answers.y_verify))
    average = routing.weighted_average(small, answers.u_small[at], large, answers.u_large[at])
    scored = {
        name: metrics.per_sample(y, label[at], dataset)
        for name, y in (("verify", again), ("large", large), ("average", average), ("small", small))
    }
    ours, before = scored.pop("verify"), scored["large"]["acc2"]
    like_small, like_large = (np.abs(again - y) < SAME for y in (small, large))
    inside = (np.minimum(small, large) < again) & (again < np.maximum(small, large))
    return SecondLooks(
        n=len(at),
        changed=int(np.sum(polarity(again) != polarity(large))),
        corrected=int(np.sum((before == 0) & (ours["acc2"] == 1))),
        spoiled=int(np.sum((before == 1) & (ours["acc2"] == 0))),
        like_small=int(np.sum(like_small)),
        like_large=int(np.sum(like_large)),
        between=int(np.sum(inside & ~like_small & ~like_large)),
        values=_means(ours),
        instead={name: _ending(ours, theirs) for name, theirs in scored.items()},
    )


def _ending(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> Ending:
    apart = {name: ours[name] - theirs[name] for name in ours}
    gained = {name: (_means(apart)[name], *metrics.bootstrap(values)) for name, values in apart.items()}
    return Ending(_means(theirs), gained)


def _means(values: dict[str, np.ndarray]) -> dict[str, float]:
    """NaN where nothing counts."""
    return {name: float(np.nanmean(of)) if np.isfinite(of).any() else float("nan") for name, of in values.items()}
