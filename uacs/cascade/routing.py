"""Who answers each sample (Eq. 13-17), for whole arrays at once.

`decide` is the cascade; the functions under it are one equation each. Arrays are (N,) in input
order, or (K, N) where thresholds are (K, 1); uncertainties are entropies in nats, and an answer that
was not given is NaN.
"""

from typing import Literal

import numpy as np

from uacs.cascade.uncertainty import polarity
from uacs.records import STAGES, Decision

EPSILON = 1e-12  # Eq. 15
SMALL, LARGE, AVERAGE, VERIFY = range(len(STAGES))
FAILED = -1

Verify = Literal["due", "conflict", "never"]
"""Which samples the large model looks at twice: `due` as Algorithm 1 says, `conflict` all on whose
polarity the models differ (so that replay can stand in for any thresholds), `never` none."""


def decide(y_small, u_small, y_large, u_large, y_verify, tau_small, tau_large, doubt=None) -> Decision:
    """Algorithm 1 over answers that were already given; `doubt` takes u_small's place in Eq. 13 if it is given."""
    asked = escalated(u_small if doubt is None else doubt, tau_small)
    return settle(asked, y_small, u_small, y_large, u_large, y_verify, tau_large)


def settle(asked, y_small, u_small, y_large, u_large, y_verify, tau_large) -> Decision:
    """Stages 2 and 3 for the samples that are `asked` about, a boolean mask; the others keep y_small.

    The stage is which of ŷ1..ŷ4 was due. Where its answer is missing, the answer is y_large, else
    y_small, and `answer_from` says so; a sample due for the large model without any answer from it is
    `degraded`. A sample without a small answer is settled by nobody.
    """
    y_small, y_large, y_verify = (np.asarray(a, float) for a in (y_small, y_large, y_verify))
    answered = np.isfinite(y_large) & np.isfinite(u_large)
    agree = polarity(y_small) == polarity(y_large)

    failed = ~(np.isfinite(y_small) & np.isfinite(u_small))
    stage = np.select(
        [failed, ~asked, ~answered, sure(u_large, tau_large), agree],
        [FAILED, SMALL, LARGE, LARGE, AVERAGE],
        VERIFY,
    )
    answer_from = np.where((stage == VERIFY) & ~np.isfinite(y_verify), LARGE, stage)
    degraded = (stage == LARGE) & ~answered
    answer_from = np.where(degraded, SMALL, answer_from)

    average = weighted_average(y_small, u_small, y_large, u_large)
    prediction = np.choose(answer_from + 1, [np.nan, y_small, y_large, average, y_verify])  # Eq. 17
    return Decision(stage, answer_from, prediction, degraded)


def escalated(doubt, tau_small) -> np.ndarray:
    """Eq. 13: whom the small model hands on, by u_small or what stands for it. A tie is accepted."""
    return np.asarray(doubt) > tau_small


def sure(u_large, tau_large) -> np.ndarray:
    """Eq. 14: whose stage-2 answer stands by itself. A tie is accepted."""
    return np.asarray(u_large) <= tau_large


def weighted_average(y_small, u_small, y_large, u_large) -> np.ndarray:
    """Eq. 15: the surer model weighs more; multiplied out so that no entropy is divided by.

    >>> round(weighted_average(2.0, 0.2, 1.0, 0.6), 6)  # w_small = (1/0.2) / (1/0.2 + 1/0.6) = 0.75
    1.75
    """
    w_small = (u_large + EPSILON) / (u_small + u_large + 2 * EPSILON)
    return w_small * y_small + (1 - w_small) * y_large


def second_look(y_small, y_large, u_large, tau_large, verify: Verify) -> np.ndarray:
    """Which samples of an escalated chunk stage 3 is asked about (Eq. 16), as a (N,) mask.

    Neutral agrees with neutral alone. A sample without a stage-2 answer is not asked again.
    """
    conflict = np.isfinite(y_large) & np.isfinite(u_large) & (polarity(y_small) != polarity(y_large))
    if verify == "never":
        return np.zeros_like(conflict)
    return conflict if verify == "conflict" else conflict & ~sure(u_large, tau_large)
