"""Rules for thresholds: each by hand, or against every other choice."""

import numpy as np
import pytest

from uacs import metrics
from uacs.cascade.objectives import Objective
from uacs.cascade.points import alone, point
from uacs.cascade.prices import Prices
from uacs.cascade.recording import Recording
from uacs.cascade.replay import Answers, replay
from uacs.cascade.routing import SMALL, VERIFY
from uacs.cascade.rules import RULES, RuleSettings, choose
from uacs.cascade.thresholds import Thresholds, explained
from uacs.errors import BadInput, WrongUse

NAN = float("nan")
CALLS = Prices(0.0, 1.0, 1.0)
FRONT = Objective()


def of(y_small, u_small, y_large, u_large, label, dataset="mosi"):
    arrays = [np.array(a, float) for a in (y_small, u_small, y_large, u_large)]
    n = len(label)
    answers = Answers(*arrays, np.full(n, NAN))
    return Recording(dataset, answers, np.array(label, float), np.tile([0.1, 0.3, 0.6], (n, 1)), np.ones(n, bool))


# small: right at 0.1 and 0.3, wrong at 0.8 and 1.0; large: right at 0.2, 0.2 and 0.5, wrong at 0.6
FOUR = of([1, 1, 1, -1], [0.1, 0.3, 0.8, 1.0], [1, 1, -1, -1], [0.2, 0.2, 0.5, 0.6], [2, 1, -1, 1])


def drawn(n=240, seed=0):
    """Both models unsure where they are wrong, more or less."""
    draw = np.random.default_rng(seed)
    label = draw.choice([-1.0, 1.0], n) * draw.uniform(0.4, 3, n)
    u_small, u_large = draw.uniform(0, 1.1, n), draw.uniform(0, 0.8, n)
    y_small = np.where(draw.random(n) < 0.95 - 0.4 * u_small, 1, -1) * label + draw.normal(0, 0.3, n)
    y_large = np.where(draw.random(n) < 0.97 - 0.2 * u_large, 1, -1) * label + draw.normal(0, 0.2, n)
    return of(y_small, u_small, y_large, u_large, label)


def by(rule, recording=FOUR, objective=FRONT, **settings):
    return choose(rule, recording, RuleSettings(**settings), objective, CALLS)


def test_means_is_eq_19():
    found = by("means", lambda_=0.25, beta=0.05)
    assert found.tau_small == pytest.approx(0.75 * 0.2 + 0.25 * 0.9 + 0.05)
    assert found.tau_large == pytest.approx(0.75 * 0.3 + 0.25 * 0.6 + 0.05)
    assert found.small and (found.small.lambda_, found.small.beta, found.rule) == (0.25, 0.05, "means")


def test_mean_is_of_everyone_with_or_without_a_label():
    found = by("mean", of([1, 1, -1], [0.1, 0.3, 0.8], [1, 1, NAN], [0.2, 0.4, NAN], [2, -1, NAN]), beta=0.1)
    assert (found.tau_small, found.tau_large) == pytest.approx((0.4 + 0.1, 0.3 + 0.1))


def two_groups(right, wrong):
    """A small model with these u where right and wrong; the large one has two of each, and they cross at 0.5."""
    n = len(right) + len(wrong)
    y = [1.0] * len(right) + [-1.0] * len(wrong)
    return of(y, [*right, *wrong], [1, 1, -1, -1] + [NAN] * (n - 4), [0.2, 0.4, 0.6, 0.8] + [NAN] * (n - 4), [1.0] * n)


def test_gaussians_of_one_height_cross_midway():
    found = by("gaussian", two_groups([0.1, 0.3], [0.7, 0.9]))
    assert (found.tau_small, found.tau_large) == pytest.approx((0.5, 0.5))
    assert found.warnings == []


def test_the_more_frequent_answers_push_the_crossing_away():
    # means 0.2 and 0.8, both sd 0.1: midway plus sd^2 ln(4/2) / (0.8 - 0.2)
    found = by("gaussian", two_groups([0.1, 0.1, 0.3, 0.3], [0.7, 0.9]))
    assert found.tau_small == pytest.approx(0.5 + 0.01 * np.log(2) / 0.6)


def test_gaussians_that_do_not_cross_between_the_means_give_the_mean_at_the_end():
    # eight right to two wrong, and the two means within a standard deviation
    found = by("gaussian", two_groups([0.1, 0.9] * 4, [0.2, 1.0]))
    assert found.tau_small == pytest.approx(0.6)
    assert "right is likelier" in found.warnings[0] and "small model" in found.warnings[0]
    found = by("gaussian", two_groups([0.1, 0.9], [0.2, 1.0] * 4))
    assert found.tau_small == pytest.approx(0.5)
    assert "wrong is likelier" in found.warnings[0]


def test_gaussians_in_the_wrong_order_or_of_no_width_give_the_middle():
    found = by("gaussian", two_groups([0.7, 0.9], [0.1, 0.3]))
    assert found.tau_small == pytest.approx(0.5) and "no surer" in found.warnings[0]
    found = by("gaussian", two_groups([0.25, 0.25], [0.75, 0.75]))
    assert found.tau_small == pytest.approx(0.5) and "no Gaussian" in found.warnings[0]


@pytest.mark.parametrize(
    ("u", "share", "above"),
    [
        (range(10), 0.3, 3),
        (range(100), 0.29, 29),  # 0.29 x 100 is 28.999999999999996
        (range(10), 0.39, 3),
        ([1, 2, 2, 2, 3], 0.5, 1),  # two and a half: the three twos stay together
        ([1, 2, 2, 2, 3], 0.8, 4),
        (range(10), 0.0, 0),
        (range(10), 1.0, 10),
        ([5, 5, 5, 5], 0.9, 0),
    ],
)
def test_quantile_hands_on_a_share_and_never_more(u, share, above):
    u = np.array(u, float)
    n = len(u)
    found = by(
        "quantile", of([1.0, -1.0] * (n // 2) + [1.0] * (n % 2), u, np.ones(n), u[::-1], np.ones(n)), share=share
    )
    assert np.sum(u > found.tau_small) == np.sum(u > found.tau_large) == above


@pytest.mark.parametrize(
    "objective",
    [
        FRONT,
        Objective("weight", 0.2),
        Objective("budget", 0.3),
        Objective("floor", 0.8),
        Objective("weight", 0.5, "mae"),
    ],
)
def test_exact_is_as_good_as_any_pair(objective):
    recording = drawn(24)
    large = alone(recording, "large", CALLS).metrics[objective.metric]

    def worth(tau_small, tau_large):
        decision = replay(recording.answers, tau_small, tau_large).decision
        quality = metrics.score(decision.prediction, recording.label, "mosi")[objective.metric]
        return objective.utility(quality, np.mean(decision.stage > SMALL) + np.mean(decision.stage == VERIFY), large)

    found = by("exact", recording, objective)
    u_small, u_large = recording.answers.u_small, recording.answers.u_large
    others = [worth(one, two) for one in [-1, *u_small] for two in [-1, *u_large]]
    assert worth(found.tau_small, found.tau_large) == pytest.approx(max(others))


def test_risk_keeps_its_promise_here_and_leaves_tau_large_to_eq_19():
    recording = drawn(400)
    found = by("risk", recording, alpha=0.25, delta=0.2)
    answers = recording.answers
    kept = answers.u_small <= found.tau_small
    assert kept.sum() > 100
    assert np.mean(answers.y_small[kept] * recording.label[kept] < 0) < 0.25
    assert found.tau_large == by("means", recording).tau_large


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_a_file_that_says_how_it_was_made(rule, tmp_path):
    recording = drawn()
    found = by(rule, recording, alpha=0.3)
    assert found.rule == rule
    assert by(rule, recording, alpha=0.3) == found
    found.save(tmp_path / "thresholds.json")
    assert Thresholds.load(tmp_path / "thresholds.json") == found
    asked = point(recording, found, CALLS).asked
    assert (found.reference.n, found.reference.escalated) == (len(recording.label), pytest.approx(asked))
    for model, made_of, tau in (("small", found.small, found.tau_small), ("large", found.large, found.tau_large)):
        if model == "small" and found.deferral:
            assert made_of is None
            continue
        between = (1 - made_of.lambda_) * made_of.mu_same + made_of.lambda_ * made_of.mu_opposite
        assert between + made_of.beta == pytest.approx(tau)


def test_explained_finds_lambda_and_leaves_the_rest_to_beta():
    # small: means 0.2 and 0.9; large: 0.3 and 0.6
    found = explained(FOUR, 0.55, 0.7, "given", ["look here"])
    assert found.small and (found.small.lambda_, found.small.beta) == pytest.approx((0.5, 0.0))
    assert found.large and (found.large.lambda_, found.large.beta) == pytest.approx((1.0, 0.1))
    assert found.warnings == ["look here"]


def test_explained_without_two_means_counts_from_the_mean_of_all():
    only_right = of([1, 1, 1], [0.1, 0.2, 0.6], [1, -1, NAN], [0.3, 0.3, NAN], [1, 1, 1])
    found = explained(only_right, 0.5, 0.4, "given")
    assert found.small and (found.small.lambda_, found.small.beta) == pytest.approx((0.5, 0.2))
    assert found.large and (found.large.lambda_, found.large.beta) == pytest.approx((0.5, 0.1))  # equal means
    assert (found.large.n_same, found.large.n_opposite) == (1, 1)


@pytest.mark.parametrize("rule", ["means", "gaussian"])
def test_a_rule_of_two_means_refuses_one_group(rule):
    with pytest.raises(BadInput) as error:
        by(rule, of([1, -1], [0.1, 0.2], [1, 1], [0.3, 0.3], [1, -1]))
    said = str(error.value)
    assert "the small model has no wrong answer among 2 labelled samples" in said
    assert "--rule quantile or mean" in said and "\n" not in said


def test_no_such_rule_names_those_that_there_are():
    with pytest.raises(WrongUse, match="no rule 'median'; there is means, mean, gaussian, quantile"):
        by("median")


def test_settings_are_checked_at_the_door():
    assert RuleSettings.model_validate({"lambda": 0.2}).lambda_ == 0.2
    for wrong in (
        {"lambda": 1.5},
        {"share": -0.1},
        {"alpha": 0},
        {"alpha": 1},
        {"delta": 1},
        {"beta": NAN},
        {"tau": 1},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RuleSettings.model_validate(wrong)


def test_learned_thresholds_are_held_against_gains():
    recording = drawn(300, seed=3)
    found = by("learned", recording, Objective("budget", 0.3))
    answers = recording.answers
    gains = found.deferral.gain(answers.y_small, answers.u_small, recording.p_small)
    stage = replay(answers, found.tau_small, found.tau_large, gains).decision.stage
    assert np.array_equal(stage > 0, gains > found.tau_small)
    assert 0.2 < np.mean(stage > 0) < 0.4
