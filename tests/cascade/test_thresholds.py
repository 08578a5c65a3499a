"""Eq. 18-19 by hand, and the file they live in."""

import json

import numpy as np
import pytest

from uacs.cascade.thresholds import Thresholds, fit, same_and_opposite
from uacs.errors import BadInput

U = np.array([0.1, 0.3, 0.8, 1.0, 0.5])
PREDICTION = np.array([1.0, -2.0, 1.0, -0.2, 0.0])
LABEL = np.array([2.0, -1.0, -1.0, 0.0, 0.0])


def test_groups_leave_two_neutrals_out():
    same, opposite = same_and_opposite(PREDICTION, LABEL)
    assert same.tolist() == [True, True, False, False, False]
    assert opposite.tolist() == [False, False, True, True, False]


def test_the_threshold_lies_between_the_two_means_by_lambda():
    tau, made_of, warnings = fit(U, PREDICTION, LABEL, lambda_=0.25, beta=0.05)
    # mu_same = (0.1 + 0.3) / 2 = 0.2, mu_opposite = (0.8 + 1.0) / 2 = 0.9
    assert tau == pytest.approx(0.75 * 0.2 + 0.25 * 0.9 + 0.05)
    assert (made_of.mu_same, made_of.mu_opposite) == pytest.approx((0.2, 0.9))
    assert (made_of.sd_same, made_of.sd_opposite) == pytest.approx((0.1, 0.1))
    assert (made_of.n_same, made_of.n_opposite) == (2, 2)
    assert warnings == []


def test_without_wrong_answers_the_papers_first_rule_holds_and_is_said():
    tau, made_of, warnings = fit(U[:2], PREDICTION[:2], LABEL[:2], beta=0.1)
    assert tau == pytest.approx(0.2 + 0.1)
    assert made_of.mu_opposite is None
    assert "no wrong answer" in warnings[0]


def test_an_uncertainty_that_orders_nothing_is_said():
    _, _, warnings = fit(1 - U, PREDICTION, LABEL)
    assert "no surer" in warnings[0]


def test_the_file_round_trips(tmp_path):
    tau, made_of, _ = fit(U, PREDICTION, LABEL)
    saved = Thresholds(tau_small=tau, tau_large=0.5, rule="means", small=made_of, ubm="ab12")
    saved.save(tmp_path / "thresholds.json")
    assert Thresholds.load(tmp_path / "thresholds.json") == saved
    assert json.loads((tmp_path / "thresholds.json").read_text())["small"]["lambda"] == 0.5


def test_two_taus_are_enough(tmp_path):
    (tmp_path / "t.json").write_text('{"tau_small": 0.4, "tau_large": 0.6}')
    assert Thresholds.load(tmp_path / "t.json").tau_large == 0.6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"tau_small": 0.4}', "tau_large"),
        ('{"tau_small": 0.4, "tau_large": "x"}', "tau_large"),
        ('{"tau_small": 0.4, "tau_large": 0.5, "tua": 1}', "tua"),
        ("tau_small: 0.4", "not JSON"),
    ],
)
def test_a_wrong_file_is_named_with_its_field(tmp_path, text, said):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(BadInput, match=said) as error:
        Thresholds.load(tmp_path / "t.json")
    assert str(tmp_path / "t.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named():
    with pytest.raises(BadInput, match="nowhere.json"):
        Thresholds.load("nowhere.json")
