"""What routing can do at best and with a coin, by hand."""

import numpy as np
import pytest

from uacs.cascade.baselines import random_routing
from uacs.cascade.envelope import oracle_line, random_line
from uacs.cascade.prices import Prices
from uacs.cascade.recording import Recording
from uacs.cascade.replay import Answers

PRICES = Prices(small=1.0, large=10.0, verify=20.0)
NONE = np.nan


def recording(label, y_small, y_large, u_large=None, y_verify=None, twice=None) -> Recording:
    n = len(label)
    u_large = np.zeros(n) if u_large is None else np.array(u_large, float)
    y_verify = np.full(n, NONE) if y_verify is None else np.array(y_verify, float)
    answers = Answers(np.array(y_small, float), np.full(n, 0.5), np.array(y_large, float), u_large, y_verify)
    twice = np.ones(n, bool) if twice is None else np.array(twice)
    return Recording("mosi", answers, np.array(label, float), np.full((n, 3), 1 / 3), twice)


# the small model is right about two of four, the large one about three; it mends two and spoils one
FOUR = recording(label=[1, 1, -1, -1], y_small=[1, -1, 1, -1], y_large=[1, 1, -1, 1])


def test_a_coin_goes_straight_from_the_small_model_to_everyone_asked():
    line = random_line(FOUR, PRICES, "acc2", tau_large=1.0)
    assert line.time == pytest.approx([0.1, 1.1])
    assert line.quality == pytest.approx([0.5, 0.75])


def test_a_coin_pays_for_second_looks_and_has_their_answers():
    # all unsure: two agree and are averaged, two do not and are asked again, one of them at no cost
    unsure = recording(
        [1, 1, -1, -1], [1, -1, 1, -1], [1, 1, -1, -1], [9] * 4, y_verify=[0, -1, -1, 0], twice=[1, 1, 0, 1]
    )
    line = random_line(unsure, PRICES, "acc2", tau_large=1.0)
    assert line.time[-1] == pytest.approx((1 + 10 + 20 / 4) / 10)
    assert line.quality[-1] == 0.75  # the second look was wrong about the second


def test_half_of_the_coins_line_is_what_random_draws_come_to():
    draw = np.random.default_rng(0)
    label = draw.choice([-1.0, 1.0], 60)
    some = recording(
        label, label * draw.choice([-1, 1], 60), label * draw.choice([-1, 1, 1], 60), draw.uniform(size=60)
    )
    line = random_line(some, PRICES, "mae", tau_large=0.5)
    drawn = np.abs(random_routing(some.answers, 30, 0.5, draws=4000) - label).mean()
    assert drawn == pytest.approx(line.quality.mean(), abs=0.005)


def test_an_oracle_asks_where_it_mends_and_then_no_more():
    line = oracle_line(FOUR, PRICES, "acc2")
    assert line.quality == pytest.approx([0.5, 0.75, 1.0, 1.0])
    assert line.time == pytest.approx([0.1, 0.35, 0.6, 1.1])


def test_an_oracle_takes_the_largest_gain_in_mae_first():
    # errors 2, 1, 0 become 0.5, 0, 3: gains 1.5 and 1, then a loss
    line = oracle_line(recording([1, 1, 1], [3, 2, 1], [1.5, 1, -2]), PRICES, "mae")
    assert line.quality == pytest.approx(np.array([3, 1.5, 0.5, 0.5]) / 3)
    assert line.time == pytest.approx([0.1, 0.1 + 1 / 3, 0.1 + 2 / 3, 1.1])


def test_where_every_question_gains_the_oracles_line_ends_with_the_last():
    line = oracle_line(recording([1, -1], [-1, 1], [1, -1]), PRICES, "acc2")
    assert line.quality == pytest.approx([0, 0.5, 1])
    assert line.time == pytest.approx([0.1, 0.6, 1.1])


def test_samples_that_cannot_be_scored_are_paid_for_and_not_counted():
    # one without a label, one neutral (MOSI's Acc2 leaves it out), one that the large model did not answer
    some = recording([1, NONE, 0, 1], [-1, 1, 1, -1], [1, 1, 1, NONE])
    oracle, coin = oracle_line(some, PRICES, "acc2"), random_line(some, PRICES, "acc2", 1.0)
    assert oracle.quality == pytest.approx([0, 0.5, 0.5])
    assert oracle.time == pytest.approx([0.1, 0.1 + 1 / 4, 1.1])
    assert coin.quality == pytest.approx([0, 0.5])
    assert coin.time == pytest.approx([0.1, 1.1])
