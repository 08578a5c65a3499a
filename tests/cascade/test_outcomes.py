"""The outcome table: what goes in comes out, and what failed is never averaged in."""

import numpy as np
import pyarrow as pa
import pytest

from uacs.cascade import baselines
from uacs.cascade.outcomes import build, column, with_decision
from uacs.cascade.replay import Answers, replay
from uacs.cascade.summary import summarise
from uacs.cascade.thresholds import Thresholds
from uacs.records import NOT_ASKED, OUTCOME_SCHEMA, LargeOutput, Sample, SmallOutput

NAN = float("nan")
P = (0.2, 0.3, 0.5)


def table():
    samples = [Sample(f"s{i}", "hello", label=label) for i, label in enumerate([2.0, -1.0, 1.0, -2.0, 1.0])]
    small = [
        SmallOutput(1.5, 0.1, P, 0.01),
        SmallOutput(0.5, 0.9, P, 0.01),
        SmallOutput(-0.5, 0.9, P, 0.01),
        SmallOutput(-1.0, 0.9, P, 0.01),
        SmallOutput(NAN, NAN, (NAN, NAN, NAN), error="sample 's4': audio holds NaN"),
    ]
    large = [
        NOT_ASKED,
        LargeOutput(-1.2, 0.1, "ok", 0.5),
        LargeOutput(0.8, 0.9, "ok", 0.5),
        LargeOutput(status="unparsable", seconds=0.5, error="said 'well'"),
        NOT_ASKED,
    ]
    verify = [NOT_ASKED, NOT_ASKED, LargeOutput(1.1, 0.3, "ok", 0.4), NOT_ASKED, NOT_ASKED]
    return with_decision(build(samples, small, large, verify), 0.5, 0.5)


def test_each_row_says_who_settled_it():
    outcomes = table()
    assert outcomes.schema == OUTCOME_SCHEMA
    assert outcomes["stage"].to_pylist() == ["small", "large", "verify", "large", None]
    assert outcomes["answer_from"].to_pylist() == ["small", "large", "verify", "small", None]
    assert outcomes["prediction"].to_pylist() == [1.5, -1.2, 1.1, -1.0, None]
    assert outcomes["status"].to_pylist() == ["ok", "ok", "ok", "degraded", "error"]
    assert outcomes["error"].to_pylist()[3:] == ["said 'well'", "sample 's4': audio holds NaN"]


def test_replay_of_a_recorded_table_equals_the_live_decision():
    outcomes = table()
    again = replay(Answers.of(outcomes), 0.5, 0.5)
    assert np.array_equal(again.decision.prediction, column(outcomes, "prediction"), equal_nan=True)
    assert (again.missing_large, again.missing_verify) == (1, 0)


def test_the_summary_counts_failures_and_scores_the_rest():
    summary = summarise(table(), "mosi", Thresholds(tau_small=0.5, tau_large=0.5), wall=3.0)
    assert summary["n"] == 5
    assert (summary["errors"], summary["degraded"]) == (1, 1)
    assert summary["stages"] == {"small": 1, "large": 2, "average": 0, "verify": 1}
    assert summary["answer_from"] == {"small": 2, "large": 1, "average": 0, "verify": 1}
    assert summary["metrics"]["uacs"]["n"] == 4
    assert summary["metrics"]["uacs"]["acc2"] == 1.0
    assert summary["metrics"]["small"]["acc2"] == 0.5
    assert summary["metrics"]["large"]["n"] == 2
    assert summary["metrics"]["large"]["unanswered"] == 3
    assert summary["seconds"] == pytest.approx({"wall": 3.0, "small": 0.04, "large": 1.5, "verify": 0.4})
    assert summary["cost"]["uacs"] == pytest.approx(0.04 + 1.5 + 0.4)
    assert summary["cost"]["large"] == pytest.approx(5 * 0.5)
    assert summary["near_thresholds"] == []


def test_samples_at_a_threshold_are_listed():
    near = summarise(table(), "mosi", Thresholds(tau_small=0.9 - 1e-6, tau_large=0.1 + 1e-6), wall=1.0)[
        "near_thresholds"
    ]
    assert near == ["s1", "s2", "s3"]


def test_systems_are_compared_only_where_the_large_model_was_asked_about_everything():
    assert "compared" not in summarise(table(), "mosi", Thresholds(tau_small=0.5, tau_large=0.5), wall=1.0)


def full_table(n=400, seed=1, untimed=False):
    """Both models answer all; each is right by chance of its own, and unsure exactly where it is wrong."""
    draw = np.random.default_rng(seed)
    label = draw.choice([-1.0, 1.0], n)
    right_small, right_large = draw.random(n) < 0.8, draw.random(n) < 0.9
    samples = [Sample(f"s{i:03d}", "x", label=float(label[i])) for i in range(n)]
    small = [
        SmallOutput(float(label[i] if right_small[i] else -label[i]), 0.1 if right_small[i] else 1.0, P)
        for i in range(n)
    ]
    large = [
        LargeOutput(float(label[i] if right_large[i] else -label[i]), 0.1, "ok", NAN if untimed else 1.0)
        for i in range(n)
    ]
    return with_decision(build(samples, small, large, [NOT_ASKED] * n), 0.5, 0.5), right_small, right_large


def test_random_routing_at_the_same_share_is_what_arithmetic_says():
    outcomes, right_small, right_large = full_table()
    compared = baselines.compare(outcomes, "mosi", 0.5)
    share = np.mean(~right_small)
    expected = (1 - share) * right_small.mean() + share * right_large.mean()
    assert compared["random"]["acc2"]["value"] == pytest.approx(expected, abs=0.005)


def test_an_answer_that_failed_does_not_remove_the_comparison():
    outcomes, right_small, right_large = full_table()
    column_ = outcomes.schema.get_field_index("y_large")
    y_large = [None, *outcomes["y_large"].to_pylist()[1:]]
    outcomes = outcomes.set_column(column_, outcomes.schema.field(column_), pa.array(y_large, pa.float64()))
    compared = baselines.compare(with_decision(outcomes, 0.5, 0.5), "mosi", 0.5)
    assert compared["large"]["acc2"]["value"] == pytest.approx(right_large[1:].mean())
    assert compared["small"]["acc2"]["value"] == pytest.approx(right_small.mean())


def test_recorded_answers_without_a_time_give_no_cost():
    summary = summarise(full_table(untimed=True)[0], "mosi", Thresholds(tau_small=0.5, tau_large=0.5), wall=1.0)
    assert (summary["cost"]["uacs"], summary["cost"]["large"]) == (None, None)


def test_the_cascade_is_compared_sample_by_sample():
    outcomes, right_small, right_large = full_table()
    compared = baselines.compare(outcomes, "mosi", 0.5)
    ours = np.mean(right_small | right_large)
    assert compared["small"]["acc2"]["difference"] == pytest.approx(ours - right_small.mean())
    assert compared["large"]["acc2"]["difference"] == pytest.approx(ours - right_large.mean())
    for rival in compared.values():
        assert rival["acc2"]["low"] < rival["acc2"]["difference"] < rival["acc2"]["high"]


def test_random_routing_escalates_exactly_as_many():
    outcomes, *_ = full_table(n=50)
    answers = Answers.of(outcomes)
    marked = Answers(
        answers.y_small * 0 + 1.0, answers.u_small, answers.y_large * 0 + 2.0, answers.u_large, answers.y_verify
    )
    draws = baselines.random_routing(marked, 7, 0.5, draws=5)
    assert ((draws == 2.0).sum(axis=1) == 7).all()
    assert len({tuple(row) for row in draws.tolist()}) == 5
