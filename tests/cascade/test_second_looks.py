"""What second looks did, counted by hand, and what the other endings of the same samples score."""

import numpy as np
import pytest

from uacs import metrics
from uacs.cascade.replay import Answers
from uacs.cascade.second_looks import second_looks

NAN = float("nan")
# all unsure and in conflict but the last three: sure of themselves, agreed, never looked at again
Y_SMALL = np.array([1.0, -1.0, 2.0, -2.0, 0.5, 1.0, 1.0, 1.0])
Y_LARGE = np.array([-1.0, 1.0, -1.0, 1.0, -0.5, -1.0, 2.0, -1.0])
Y_VERIFY = np.array([1.0, 1.0, -0.4, -1.5, -0.52, 9.0, 9.0, NAN])
LABEL = np.array([1.0, 2.0, -1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
U_LARGE = np.array([0.9, 0.9, 0.9, 0.9, 0.9, 0.1, 0.9, 0.9])


def answers(**changed):
    same = np.full(len(LABEL), 0.9)
    said = dict(y_small=Y_SMALL, u_small=same, y_large=Y_LARGE, u_large=U_LARGE, y_verify=Y_VERIFY)
    return Answers(**{name: (said | changed)[name] for name in Answers.__dataclass_fields__})


def scored(found, ending):
    """Acc2 and MAE of one way to end the samples."""
    scores = metrics.per_sample(found.endings[ending], LABEL[found.at], "mosi")
    return np.nanmean(scores["acc2"]), scores["mae"].mean()


def test_each_look_by_hand():
    found = second_looks(answers(), LABEL, "mosi", tau_small=0.5, tau_large=0.5)
    assert found.n == 5
    # a: -1 -> 1, now right, as the small model said; b: 1 kept, right; c: -1 -> -0.4, right, between; d: 1 -> -1.5,
    # spoiled, between; e: the large model's, labelled 0, which Acc2 leaves out
    assert (found.changed, found.corrected, found.spoiled) == (2, 1, 1)
    assert (found.like_small, found.like_large, found.between) == (1, 2, 2)
    assert scored(found, "verify") == pytest.approx((3 / 4, (0 + 1 + 0.6 + 2.5 + 0.52) / 5))
    assert scored(found, "large") == pytest.approx((3 / 4, (2 + 1 + 0 + 0 + 0.5) / 5))
    assert scored(found, "small")[0] == 1 / 4
    # both equally unsure, so Eq. 15 is the middle: 0, 0, 0.5, -0.5, 0
    assert scored(found, "average")[1] == pytest.approx((1 + 2 + 1.5 + 1.5 + 0) / 5)


def test_who_was_not_due_does_not_count():
    assert second_looks(answers(), LABEL, "mosi", tau_small=0.95, tau_large=0.5).n == 0
    nothing = second_looks(answers(y_verify=np.full(len(LABEL), NAN)), LABEL, "mosi", 0.5, 0.5)
    assert nothing.n == 0 and {len(answers) for answers in nothing.endings.values()} == {0}
