"""How sure an answer is (Eq. 8, 12), and which way it points (Eq. 6)."""

import numpy as np
from scipy.special import entr

from uacs.records import Polarity

NEUTRAL_ZONE = 0.05
"""Scores closer to zero than this are neutral when two answers are compared.

The paper leaves open how a polarity is read off a score; this equals rounding to one decimal, as the
models print them, and reproduces the case study, where 0.0 and -0.2 conflict.
"""


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Shannon entropy in nats (Eq. 8, 12): 0 when certain, ln K when all K are equal.

    probabilities (..., K), each row summing to 1; returns (...).

    >>> entropy(np.array([[1, 0, 0], [1/3, 1/3, 1/3]])).round(3)
    array([0.   , 1.099])
    """
    return entr(probabilities).sum(axis=-1)


def polarity(score: np.ndarray) -> np.ndarray:
    """The `Polarity` id of each score, with a dead zone of `NEUTRAL_ZONE` about zero; NaN is neutral.

    >>> polarity(np.array([-0.2, 0.0, 0.04, 0.05]))
    array([1, 0, 0, 2])
    """
    score = np.asarray(score, float)
    return np.select(
        [score <= -NEUTRAL_ZONE, score >= NEUTRAL_ZONE],
        [int(Polarity.NEGATIVE), int(Polarity.POSITIVE)],
        int(Polarity.NEUTRAL),
    )


def training_class(label: np.ndarray) -> np.ndarray:
    """The class that the UBM's classifier learns (Eq. 6): neutral is exactly zero.

    >>> training_class(np.array([-0.01, 0.0, 2.0]))
    array([1, 0, 2])
    """
    label = np.asarray(label, float)
    return np.select([label < 0, label > 0], [int(Polarity.NEGATIVE), int(Polarity.POSITIVE)], int(Polarity.NEUTRAL))
