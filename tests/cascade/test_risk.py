"""The promise about what the small model keeps: by hand, over many draws, and beside MAPIE's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.risk_control import BinaryClassificationController

from uacs.cascade.recording import Recording
from uacs.cascade.replay import Answers
from uacs.cascade.risk import hypotheses, qualified, tau_small
from uacs.errors import BadInput

ALPHA, DELTA, N, DRAWS = 0.1, 0.1, 300, 500
BOUND = DELTA + 3 * np.sqrt(DELTA * (1 - DELTA) / DRAWS)  # three standard errors of a rate over the draws

U = np.array([0.1, 0.2, 0.3, 0.4])
WRONG = np.array([0, 0, 0, 1])


def test_p_is_the_chance_of_that_few_mistakes():
    found = hypotheses(U, WRONG, 0.5)
    # none of 0, 1, 2, 3 wrong: 1/2^kept; one or none of 4: (1 + 4) / 16
    assert found.p == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8, 5 / 16])
    assert found.kept.tolist() == [0, 1, 2, 3, 4] and found.wrong.tolist() == [0, 0, 0, 0, 1]
    assert [np.sum(tau >= U) for tau in found.tau] == found.kept.tolist()


def test_the_last_threshold_that_passes_is_taken():
    assert qualified(U, WRONG, 0.5, delta=0.25) == np.nextafter(0.4, 0)
    assert qualified(U, WRONG, 0.5, delta=0.32) == pytest.approx(0.4 + 0.05 * 0.3)  # everyone
    assert qualified(U, WRONG, 0.5, delta=0.06) is None  # 1/16 at best, were all right


def test_the_first_that_fails_ends_the_search():
    wrong = np.array([0, 0, 1, *[0] * 20])
    # two kept: 1/4; three: 4/8; all the others would pass again
    assert qualified(np.arange(23.0), wrong, 0.5, 0.25, least_kept=0) == np.nextafter(2.0, 0)


def test_one_early_mistake_does_not_end_it():
    wrong = np.arange(400) == 3
    assert qualified(np.arange(400.0), wrong, 0.1, 0.1) > 399
    assert qualified(np.arange(400.0), wrong, 0.1, 0.1, least_kept=0) is None


def test_equal_samples_stay_together():
    found = hypotheses(np.array([0.2, 0.1, 0.2, 0.2]), np.array([1, 0, 0, 0]), 0.5)
    assert found.kept.tolist() == [0, 1, 4] and found.wrong.tolist() == [0, 0, 1]


@given(st.lists(st.booleans(), min_size=1, max_size=120), *[st.floats(0.01, 0.99)] * 4)
def test_asking_less_never_lowers_the_threshold(wrong, alpha, more_alpha, delta, more_delta):
    u, wrong = np.arange(len(wrong), dtype=float), np.array(wrong)
    (low, high), (rare, often) = sorted((alpha, more_alpha)), sorted((delta, more_delta))
    taus = [qualified(u, wrong, *asked) for asked in ((low, rare), (low, often), (high, often))]
    taus = [-1 if tau is None else tau for tau in taus]
    assert taus == sorted(taus)


RATES = {
    "rising": lambda u: 0.02 + 0.38 * u**2,
    "the same and too high": lambda u: np.full_like(u, 0.101),
    "worst where surest": lambda u: np.where(u < 0.08, 0.25, np.where(u < 0.5, 0.05, 0.3)),
    "in steps": lambda u: 0.02 + 0.05 * np.ceil(u * 4),
}
GRID = (np.arange(20_000) + 0.5) / 20_000


def broken(rate, choose, told=lambda u: u):
    """In which share of draws the chosen threshold truly keeps more than alpha wrong; u is even over [0, 1]."""
    draw = np.random.default_rng(1)
    count = 0
    for _ in range(DRAWS):
        u = draw.random(N)
        tau = choose(told(u), draw.random(N) < rate(u))
        count += tau is not None and rate(GRID[tau >= told(GRID)]).mean() > ALPHA
    return count / DRAWS


@pytest.mark.parametrize("name", RATES)
def test_the_promise_is_kept_whatever_the_errors_look_like(name):
    assert broken(RATES[name], lambda u, wrong: qualified(u, wrong, ALPHA, DELTA)) <= BOUND


def test_the_promise_is_kept_among_ties():
    told = broken(RATES["rising"], lambda u, wrong: qualified(u, wrong, ALPHA, DELTA), lambda u: np.ceil(u * 8) / 8)
    assert told <= BOUND


def test_the_largest_threshold_that_looks_right_breaks_the_promise():
    def naive(u, wrong):
        found = hypotheses(u, wrong, ALPHA)
        fine = found.wrong <= ALPHA * found.kept
        return found.tau[fine][-1]

    assert broken(RATES["rising"], naive) > 2 * BOUND


@pytest.mark.filterwarnings("ignore:Fixed sequence testing requires a monotonic risk")
@pytest.mark.parametrize("seed", range(5))
def test_what_mapie_finds_valid_is_valid_here(seed):
    draw = np.random.default_rng(seed)
    u = draw.choice(np.arange(1, 1024), N, replace=False) / 1024  # so that 1 - u is exact
    wrong = draw.random(N) < 0.3 * u**3
    found = hypotheses(u, wrong, ALPHA)
    tested = found.kept >= N / 4
    greatest = np.array([u[u <= tau].max() for tau in found.tau[tested]])

    theirs = BinaryClassificationController(
        predict_function=lambda u: np.stack([u, 1 - u], axis=-1),
        risk="precision",  # of "the small model is right", said of those that it keeps
        target_level=1 - ALPHA,
        confidence_level=1 - DELTA,
        list_predict_params=1 - greatest,
        fwer_method="fixed_sequence",
    ).calibrate(u, ~wrong)
    assert len(theirs.valid_predict_params)
    assert np.all(found.p[tested] <= theirs.p_values[:, 0] + 1e-12)
    assert (1 - theirs.valid_predict_params).max() <= qualified(u, wrong, ALPHA, DELTA)


def of(u, y, label, dataset="mosi"):
    nobody = np.full(len(u), np.nan)
    return Recording(dataset, Answers(y, u, nobody, nobody, nobody), label, np.zeros((len(u), 3)), nobody == 0)


def test_wrong_is_what_acc2_counts_as_wrong():
    u, y = np.arange(40.0), np.full(40, 1.0)
    label = np.where(u < 10, 0.0, 1.0)
    assert tau_small(of(u, y, label), 0.1, 0.1) > 39  # MOSI leaves a label of zero out
    with pytest.raises(BadInput, match="the surest 22 have 10 wrong"):
        tau_small(of(u, y, label, "sims"), 0.1, 0.1)  # and SIMS has it negative


def test_no_threshold_says_why_not():
    u = np.arange(100.0)
    wrong = u % 5 == 0
    with pytest.raises(BadInput) as error:
        tau_small(of(u, np.where(wrong, -1.0, 1.0), np.ones(100)), 0.1, 0.05)
    said = str(error.value)
    assert "error at 0.1 with probability 0.95" in said
    assert "of 100 samples the surest 29 have 6 wrong (20.7%)" in said
    assert "raise --alpha or --delta" in said and "\n" not in said


def test_too_few_samples_are_told_what_all_of_them_show():
    with pytest.raises(BadInput, match=r"of 10 samples the surest 10 have 0 wrong \(0.0%\), which p = 0.35"):
        tau_small(of(np.arange(10.0), np.ones(10), np.ones(10)), 0.1, 0.1)
