"""A threshold with a promise: of what the small model keeps, no more than a share alpha is wrong.

"Learn then Test" (Angelopoulos et al. 2021, arXiv 2110.01052) for one question: how far up may tau_small go, so
that with probability 1 - delta over the draw of the calibration samples the error rate among u <= tau_small is
alpha or less? That holds for samples from where those came from; what the cascade makes of the others is not in it.

Every value of u that occurs gives a hypothesis: "of the surer ones, more than alpha are wrong". They are tested
from the surest upwards, at level delta each, and the first that is not rejected ends the search. The promise
breaks only if the first true one is rejected, so their number needs no correction.

That is exact although the hypotheses are drawn along with the samples. Cut u where the error rate so far crosses
alpha: between two cuts alpha of the samples are wrong on average. Which hypothesis is the first true one depends
only on how many samples lie between which cuts, and given those numbers its errors are a binomial draw at rate
alpha or more. No shape of the error rate is asked for, but that u has no ties; with ties, that the error rate so
far does not fall as u grows.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from uacs import metrics
from uacs.cascade.recording import Recording
from uacs.cascade.sweep import BEYOND
from uacs.errors import BadInput

LEAST_KEPT = 0.25
"""Share of the samples at which the tests begin. Begun any earlier, one early mistake would end the search."""


@dataclass(frozen=True)
class Hypotheses:
    """A hypothesis for each threshold, tau rising: `wrong` of the `kept` samples with u <= tau are, and p. All (M,)."""

    tau: np.ndarray
    kept: np.ndarray
    wrong: np.ndarray
    p: np.ndarray


def hypotheses(u: np.ndarray, wrong: np.ndarray, alpha: float) -> Hypotheses:
    """Of u and wrong (N,), the exact tests of "the error rate among u <= tau is above alpha".

    p is the chance of that few wrong ones if the rate were alpha. A threshold is just below a value of u, so
    that equal samples stay together. The last is above them all and stands for keeping everyone: what is unsurer
    than all of these, and handed on, is taken to be no less often wrong.

    >>> hypotheses(np.array([0.3, 0.1, 0.3]), np.array([1, 0, 0]), 0.5).p  # none kept; 0 of 1 wrong; 1 of 3 wrong
    array([1. , 0.5, 0.5])
    """
    order = np.argsort(u, kind="stable")
    u = u[order]
    first = np.flatnonzero(np.diff(u, prepend=-np.inf) > 0)
    kept = np.append(first, len(u))
    errors = np.append(0, np.cumsum(wrong[order]))[kept]
    above = u[-1] + (BEYOND * (u[-1] - u[0]) or BEYOND)
    tau = np.append(np.nextafter(u[first], -np.inf), above)
    return Hypotheses(tau, kept, errors.astype(int), binom.cdf(errors, kept, alpha))


def qualified(
    u: np.ndarray, wrong: np.ndarray, alpha: float, delta: float, least_kept: float = LEAST_KEPT
) -> float | None:
    """The greatest tau whose error rate among u <= tau is shown to be alpha or less; None where none is.

    u and wrong are (N,), a boolean or 0 and 1. The tests begin where a share `least_kept` of the samples is kept,
    or where it takes no mistake at all to pass, if that is later; neither depends on u or wrong.
    """
    if not len(u):
        return None
    found = hypotheses(u, wrong, alpha)
    begun = _begun(found, alpha, delta, least_kept)
    passed = np.logical_and.accumulate(found.p[begun] <= delta)
    return float(found.tau[begun][passed][-1]) if passed.any() else None


def tau_small(recording: Recording, alpha: float, delta: float) -> float:
    """`qualified` for a small model's polarity, as its dataset's Acc2 counts it. Raises `BadInput` where none is."""
    right = metrics.per_sample(recording.answers.y_small, recording.label, recording.dataset)["acc2"]
    counted = np.isfinite(right) & np.isfinite(recording.answers.u_small)
    u, wrong = recording.answers.u_small[counted], right[counted] == 0
    tau = qualified(u, wrong, alpha, delta)
    if tau is not None:
        return tau
    if not len(u):
        raise BadInput("no sample counts towards acc2 and has a small answer, so no threshold can be tested")
    found = hypotheses(u, wrong, alpha)
    at = np.append(np.flatnonzero(_begun(found, alpha, delta)), len(found.p) - 1)[0]
    kept, errors = found.kept[at], found.wrong[at]
    raise BadInput(
        f"no threshold keeps the error at {alpha:g} with probability {1 - delta:g}: of {len(u)} samples the surest "
        f"{kept} have {errors} wrong ({errors / kept:.1%}), which p = {found.p[at]:.2g} is above delta {delta:g} for; "
        "raise --alpha or --delta, or give more samples"
    )


def _begun(found: Hypotheses, alpha: float, delta: float, least_kept: float = LEAST_KEPT) -> np.ndarray:
    """Which hypotheses are tested, (M,): those that a lack of errors could reject, of enough samples."""
    return (binom.cdf(0, found.kept, alpha) <= delta) & (found.kept >= least_kept * found.kept[-1])
