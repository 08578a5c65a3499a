"""Eq. 13-17 and Algorithm 1: by hand, and what can never happen."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uacs.cascade import routing
from uacs.cascade.replay import Answers, replay
from uacs.cascade.routing import AVERAGE, FAILED, LARGE, SMALL, VERIFY, second_look, weighted_average

NAN = float("nan")
TAU_SMALL, TAU_LARGE = 0.59, 0.48  # the case study's


def decide(y_small=1.0, u_small=1.0, y_large=-1.0, u_large=1.0, y_verify=-0.5):
    decision = routing.decide(
        *(np.array([v]) for v in (y_small, u_small, y_large, u_large, y_verify)), TAU_SMALL, TAU_LARGE
    )
    return decision.stage[0], decision.answer_from[0], decision.prediction[0], decision.degraded[0]


def test_the_papers_case_study_goes_to_the_second_look():
    assert decide(0.0, 1.10, -0.2, 0.51, -0.5) == (VERIFY, VERIFY, -0.5, False)


def test_a_sure_small_answer_stands():
    assert decide(u_small=0.2)[:3] == (SMALL, SMALL, 1.0)


def test_a_sure_large_answer_stands():
    assert decide(u_large=0.3)[:3] == (LARGE, LARGE, -1.0)


def test_agreement_is_averaged_by_hand():
    # w_small = (1/1.0) / (1/1.0 + 1/0.5) = 1/3; 1/3 * 1.0 + 2/3 * 2.5 = 2.0
    stage, source, prediction, _ = decide(1.0, 1.0, 2.5, 0.5)
    assert (stage, source) == (AVERAGE, AVERAGE)
    assert prediction == pytest.approx(2.0)


def test_a_tie_is_accepted_at_both_thresholds():
    assert decide(u_small=TAU_SMALL)[0] == SMALL
    assert decide(u_large=TAU_LARGE)[0] == LARGE


def test_neutral_agrees_with_neutral_alone():
    assert decide(y_small=0.04, y_large=-0.04)[0] == AVERAGE
    assert decide(y_small=0.04, y_large=-0.2)[0] == VERIFY


def test_a_missing_second_look_falls_back_to_the_large_answer():
    assert decide(y_verify=NAN) == (VERIFY, LARGE, -1.0, False)


def test_a_missing_large_answer_falls_back_to_the_small_one_and_is_degraded():
    assert decide(y_large=NAN, u_large=NAN, y_verify=NAN) == (LARGE, SMALL, 1.0, True)


def test_without_a_small_answer_nobody_settles_the_sample():
    stage, source, prediction, degraded = decide(y_small=NAN, u_small=NAN)
    assert (stage, source, degraded) == (FAILED, FAILED, False)
    assert np.isnan(prediction)


def test_the_average_trusts_the_surer_model():
    # w_small = (1/0.2) / (1/0.2 + 1/0.6) = 0.75
    assert weighted_average(2.0, 0.2, 1.0, 0.6) == pytest.approx(1.75)


def test_the_average_of_two_certain_answers_is_their_mean():
    assert weighted_average(2.0, 0.0, 1.0, 0.0) == pytest.approx(1.5)


def test_the_second_look_is_for_unsure_conflicts_alone():
    y_small, y_large = np.array([1.0, 1.0, 1.0, 1.0]), np.array([-1.0, -1.0, 2.0, NAN])
    u_large = np.array([1.0, 0.1, 1.0, NAN])
    assert second_look(y_small, y_large, u_large, TAU_LARGE, "due").tolist() == [True, False, False, False]
    assert second_look(y_small, y_large, u_large, NAN, "conflict").tolist() == [True, True, False, False]
    assert not second_look(y_small, y_large, u_large, TAU_LARGE, "never").any()


SCORE = st.floats(-3, 3)
ENTROPY = st.floats(0, 1.1)
TAU = st.floats(-0.1, 1.2)


def maybe(values):
    return st.one_of(values, st.just(NAN))


@st.composite
def recorded(draw):
    n = draw(st.integers(1, 20))
    rows = st.lists(st.tuples(SCORE, ENTROPY, maybe(SCORE), ENTROPY, maybe(SCORE)), min_size=n, max_size=n)
    columns = np.array(draw(rows)).T
    columns[3][np.isnan(columns[2])] = NAN
    return Answers(*columns)


@given(recorded(), TAU, TAU)
def test_every_sample_is_settled_exactly_once_by_an_answer_that_exists(answers, tau_small, tau_large):
    decision = replay(answers, tau_small, tau_large).decision
    assert set(decision.stage.tolist()) <= {SMALL, LARGE, AVERAGE, VERIFY}
    assert np.isfinite(decision.prediction).all()
    sources = np.stack([answers.y_small, answers.y_large, decision.prediction, answers.y_verify])
    taken = sources[decision.answer_from, np.arange(len(decision.stage))]
    assert np.array_equal(taken, decision.prediction)


@given(recorded(), TAU, TAU, st.floats(0, 2))
def test_a_higher_small_threshold_escalates_nobody_new(answers, tau_small, tau_large, step):
    before = replay(answers, tau_small, tau_large).decision.stage == SMALL
    after = replay(answers, tau_small + step, tau_large).decision.stage == SMALL
    assert np.all(after[before])


@given(recorded(), TAU, TAU)
def test_the_average_lies_between_the_two_answers(answers, tau_small, tau_large):
    decision = replay(answers, tau_small, tau_large).decision
    mean = decision.stage == AVERAGE
    low = np.minimum(answers.y_small, answers.y_large)[mean] - 1e-9
    high = np.maximum(answers.y_small, answers.y_large)[mean] + 1e-9
    assert np.all((low <= decision.prediction[mean]) & (decision.prediction[mean] <= high))


@given(recorded(), TAU, TAU)
def test_stage_3_is_asked_about_all_samples_that_replay_may_want_it_for(answers, tau_small, tau_large):
    due = (
        replay(replace(answers, y_verify=np.ones_like(answers.y_small)), tau_small, tau_large).decision.stage == VERIFY
    )
    asked = second_look(answers.y_small, answers.y_large, answers.u_large, NAN, "conflict")
    assert np.all(asked[due])


@given(recorded(), st.lists(st.tuples(TAU, TAU), min_size=1, max_size=5))
def test_many_thresholds_at_once_equal_one_at_a_time(answers, pairs):
    taus = np.array(pairs)
    together = replay(answers, taus[:, 0], taus[:, 1])
    for k, (tau_small, tau_large) in enumerate(pairs):
        alone = replay(answers, tau_small, tau_large)
        assert np.array_equal(together.decision.prediction[k], alone.decision.prediction)
        assert np.array_equal(together.decision.stage[k], alone.decision.stage)
        assert together.missing_large[k] == alone.missing_large
        assert together.missing_verify[k] == alone.missing_verify
