"""Eq. 6, 8 and 12 by hand."""

import numpy as np
import pytest

from uacs.cascade.uncertainty import entropy, polarity, training_class
from uacs.records import Polarity


def test_entropy_by_hand():
    # -(0.5 ln 0.5 + 0.25 ln 0.25 + 0.25 ln 0.25) = 1.5 ln 2
    assert entropy(np.array([0.5, 0.25, 0.25])) == pytest.approx(1.5 * np.log(2))


def test_entropy_is_zero_when_certain_and_ln_3_when_all_are_equal():
    assert entropy(np.array([0.0, 1.0, 0.0])) == 0
    assert entropy(np.full(3, 1 / 3)) == pytest.approx(np.log(3))


def test_the_papers_case_study_conflicts():
    # Figure 5: the UBM says 0.0 at 1.10 = ln 3, the MLLM -0.2; that is a conflict
    assert polarity(0.0) == Polarity.NEUTRAL
    assert polarity(-0.2) == Polarity.NEGATIVE
    assert round(float(entropy(np.full(3, 1 / 3))), 2) == 1.10


def test_scores_closer_to_zero_than_a_twentieth_are_neutral_for_routing():
    assert polarity(np.array([-0.05, -0.049, 0.049, 0.05])).tolist() == [1, 0, 0, 2]


def test_only_exact_zero_is_neutral_for_training():
    assert training_class(np.array([-0.01, 0.0, 0.01])).tolist() == [1, 0, 2]
