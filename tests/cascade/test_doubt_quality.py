"""Each measure of a doubt against numbers worked by hand, against its definition on random ones, and its limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from uacs.cascade.doubt_quality import (
    apgr,
    augrc,
    aurc,
    auroc,
    budget_curve,
    excess_aurc,
    qnc,
    random_mean,
    reliability,
)

NAN = float("nan")
SEVERAL = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=40)


def test_ece_by_hand():
    # 0.1 and 0.3 in the first bin (mean 0.2, one of two happened: gap 0.3), 0.9 in the last (gap 0.1), NaN in none
    found = reliability(np.array([0.1, 0.3, 0.9, NAN]), np.array([0, 1, 1, 1]), bins=2)
    assert found.count.tolist() == [2, 1]
    assert found.expected.tolist() == pytest.approx([0.2, 0.9]) and found.observed.tolist() == [0.5, 1.0]
    assert found.ece == pytest.approx((2 * 0.3 + 1 * 0.1) / 3)
    assert reliability(np.array([1.0]), np.array([1])).count[-1] == 1
    assert np.isnan(reliability(np.array([]), np.array([])).ece)


def test_aurc_and_augrc_by_hand():
    u, wrong = np.array([0.9, 0.1, 0.2, 0.8]), np.array([1.0, 0.0, 1.0, 0.0])
    # surest first: right, wrong, right, wrong: risks 0, 1/2, 1/3, 2/4; of all four 0, 1/4, 1/4, 2/4
    assert aurc(u, wrong) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert augrc(u, wrong) == pytest.approx((0 + 1 / 4 + 1 / 4 + 2 / 4) / 4)
    # at best right, right, wrong, wrong: 0, 0, 1/3, 2/4
    assert excess_aurc(u, wrong) == pytest.approx(aurc(u, wrong) - (1 / 3 + 2 / 4) / 4)
    assert np.isnan(aurc(np.array([]), np.array([]))) and np.isnan(augrc(np.array([NAN]), np.array([1.0])))


def test_routing_by_hand():
    # asked from the least sure: 0 -> 1, 1 -> 1, 1 -> 0, 0 -> 1: of four 2, 3, 3, 2, 3 are right
    u, small, large = np.array([4, 3, 2, 1]), np.array([0, 1, 1, 0]), np.array([1, 1, 0, 1])
    assert budget_curve(u, small, large) * 4 == pytest.approx([2, 3, 3, 2, 3])
    # recovered 0, 1, 1, 0, 1 of the gap of one: (1/2 + 1 + 1/2 + 1/2) / 4
    assert apgr(u, small, large) == pytest.approx(2.5 / 4)
    assert qnc(u, small, large) == 1 / 4
    # an error: 2 -> 1, 0 -> 0, 1 -> 1: 3, 2, 2, 2 in all, so the large model's 2 takes one of three
    assert qnc(np.array([3, 2, 1]), np.array([2, 0, 1]), np.array([1, 0, 1]), higher=False) == pytest.approx(1 / 3)
    assert np.isnan(apgr(u, small, small)) and qnc(u, small, small) == 0


def test_a_coin_recovers_half_and_its_mean_is_the_straight_line():
    draw = np.random.default_rng(0)
    small, large = draw.random(60) < 0.6, draw.random(60) < 0.9
    small, large = small.astype(float), large.astype(float)
    curves = [budget_curve(draw.random(60), small, large) for _ in range(4000)]
    straight = [random_mean(share, small, large) for share in np.linspace(0, 1, 61)]
    assert np.mean(curves, axis=0) == pytest.approx(straight, abs=0.005)
    assert apgr(np.zeros(60), small, large) == pytest.approx(0.5)


def test_who_has_no_loss_or_no_doubt_is_not_counted():
    u, loss = np.array([1.0, 2.0, NAN, 3.0]), np.array([0.0, NAN, 1.0, 1.0])
    assert aurc(u, loss) == aurc(np.array([1.0, 3.0]), np.array([0.0, 1.0]))
    assert auroc(u, loss) == 1.0
    assert budget_curve(u, loss, 1 - loss) == pytest.approx(budget_curve(u[[0, 3]], loss[[0, 3]], 1 - loss[[0, 3]]))


@given(SEVERAL)
def test_ties_count_as_all_their_orders_on_average(rows):
    u, loss = np.array([u for u, _ in rows], float), np.array([wrong for _, wrong in rows], float)
    draw = np.random.default_rng(0)
    apart = [u + draw.uniform(0, 0.5, len(u)) for _ in range(400)]
    assert augrc(u, loss) == pytest.approx(np.mean([augrc(other, loss) for other in apart]), abs=0.05)
    if 0 < loss.sum() < len(loss):
        assert auroc(u, loss) == pytest.approx(roc_auc_score(loss, u))
        assert excess_aurc(u, loss) + 1e-12 >= 0


@given(SEVERAL)
def test_nothing_depends_on_order_or_on_a_rising_scale(rows):
    u, loss = np.array([u for u, _ in rows], float), np.array([wrong for _, wrong in rows], float)
    for measure in (aurc, augrc, lambda u, loss: qnc(u, 1 - loss, np.ones(len(loss)))):
        assert measure(u, loss) == pytest.approx(measure(np.exp(u)[::-1], loss[::-1]), nan_ok=True)
