"""Each signature of failure on a table made to show it, and silence where nothing is wrong."""

from itertools import chain

import pyarrow as pa
import pytest

from uacs.cascade.signatures import signatures
from uacs.records import OUTCOME_SCHEMA

NAN = float("nan")
CHEAP = {"small": 1.0, "large": 100.0, "uacs": 40.0}
UNTIMED = {"small": 1.0, "large": None, "uacs": None}


def rows(count, stage="small", label=1.0, small=1.0, large=None, verify=None):
    """`count` equal samples."""
    row = {
        "label": label,
        "y_small": small,
        "y_large": large,
        "large_status": "not_asked" if large is None else "ok",
        "y_verify": verify,
        "verify_status": "not_asked" if verify is None else "ok",
        "stage": stage,
        "status": "ok",
    }
    return [row] * count


def table(*groups):
    """An outcome table of groups of rows."""
    numbered = [{"sample_id": f"s{i}"} | row for i, row in enumerate(chain(*groups))]
    return pa.Table.from_pylist(numbered, schema=OUTCOME_SCHEMA)


def against_large(difference, low, high):
    return {"large": {"acc2": {"value": 0.9, "difference": difference, "low": low, "high": high}}}


HEALTHY = table(
    rows(55),
    rows(5, small=-1.0),
    rows(15, "large", small=-1.0, large=1.2),
    rows(9, "large", large=1.2),
    rows(8, "verify", small=-1.0, large=0.5, verify=1.1),
    rows(8, "verify", small=1.0, large=-0.5, verify=0.6),
)


@pytest.mark.parametrize("compared", [None, against_large(0.01, -0.02, 0.04), against_large(-0.01, -0.03, 0.01)])
@pytest.mark.parametrize("cost", [CHEAP, UNTIMED])
def test_a_healthy_run_is_silent(cost, compared):
    assert signatures(HEALTHY, "mosi", cost, compared) == []


def test_model_seconds_near_the_large_models_are_said():
    (said,) = signatures(HEALTHY, "mosi", {"small": 1.0, "large": 100.0, "uacs": 80.0}, None)
    assert said.startswith("over-escalation") and "80 of the 100 model seconds" in said and "(80%)" in said
    assert "raise λ or β" in said
    assert signatures(HEALTHY, "mosi", {"small": 1.0, "large": 100.0, "uacs": 79.9}, None) == []


@pytest.mark.parametrize("uacs", [None, NAN])
def test_without_times_the_calls_count(uacs):
    # 60 first calls and 20 second ones for 100 samples
    groups = rows(40), rows(40, "large", small=-1.0, large=1.0), rows(20, "verify", -1.0, 1.0, 0.5, -1.0)
    (said,) = signatures(table(*groups), "mosi", {"small": 1.0, "large": NAN, "uacs": uacs}, None)
    assert "60 first and 20 second calls of the large model for 100 samples" in said
    assert signatures(table(rows(1), *groups), "mosi", {"large": NAN, "uacs": uacs}, None) == []


def test_a_second_look_that_was_due_and_never_asked_is_no_call():
    groups = rows(40), rows(40, "large", small=-1.0, large=1.0), rows(20, "verify", -1.0, 1.0, -0.5)
    assert signatures(table(*groups), "mosi", UNTIMED, None) == []


def test_an_acc2_below_the_large_models_is_said_with_its_interval():
    (said,) = signatures(HEALTHY, "mosi", CHEAP, against_large(-0.031, -0.052, -0.011))
    assert said.startswith("under-escalation") and "lower λ or β" in said
    assert "lies 3.1 points below the large model's (95 % interval -5.2 to -1.1)" in said


def test_an_uncertainty_that_singles_out_nothing_is_said():
    groups = rows(80), rows(20, small=-1.0), rows(80, "large", large=1.0), rows(20, "large", small=-1.0, large=1.0)
    (said,) = signatures(table(*groups), "mosi", CHEAP, None)
    assert "wrong on 20% of the 100 samples sent on and on 20% of the 100 kept" in said
    assert signatures(table(*groups), "mosi", CHEAP, against_large(0.0, -0.02, 0.02)) == []  # the measure is known


def test_too_few_samples_decide_nothing():
    few_wrong = rows(100), rows(15, small=-1.0), rows(90, "large", large=1.0), rows(14, "large", small=-1.0, large=1.0)
    few_sent = rows(200), rows(40, small=-1.0), rows(9, "large", large=1.0)
    few_labelled = (
        rows(85),
        rows(15, small=-1.0),
        rows(84, "large", large=1.0),
        rows(15, "large", small=-1.0, large=1.0),
    )
    for groups in (few_wrong, few_sent, few_labelled):
        assert signatures(table(*groups), "mosi", CHEAP, None) == []


def test_nothing_sent_on_is_said_where_answers_are_wrong():
    (said,) = signatures(table(rows(17), rows(3, small=-1.0)), "mosi", CHEAP, None)
    assert "nothing was sent on" in said and "3 of 20 samples wrong" in said
    assert signatures(table(rows(20)), "mosi", CHEAP, None) == []


def test_true_zeros_are_wrong_answers_on_sims_alone():
    zeros = table(rows(5, label=0.0, small=1.0))
    assert signatures(zeros, "mosi", CHEAP, None) == []
    assert "5 of 5 samples wrong" in signatures(zeros, "sims", CHEAP, None)[0]


def test_second_looks_that_copy_are_counted_by_whom_they_copy():
    copies = (
        rows(100),
        rows(6, "verify", None, -0.4, 0.5, 0.5),
        rows(2, "verify", None, 1.0, -1.0, 1.05),  # within half a decimal
        rows(1, "verify", None, 0.02, -0.02, 0.0),  # both: the large model's
    )
    (said,) = signatures(table(*copies, rows(1, "verify", None, 0.5, -0.5, 0.0)), "mosi", CHEAP, None)
    assert "9 of 10 second looks" in said and "(7 the large model's, 2 the small model's)" in said
    assert "may induce copying" in said
    assert signatures(table(*copies, rows(2, "verify", None, 0.5, -0.5, 0.0)), "mosi", CHEAP, None) == []


def test_nine_second_looks_are_too_few_to_speak_of_copying():
    assert signatures(table(rows(90), rows(9, "verify", None, -0.4, 0.5, 0.5)), "mosi", CHEAP, None) == []


def test_second_looks_that_turn_right_answers_wrong_are_said():
    def harmed(count):
        spoilt = rows(count, "verify", small=-1.0, large=1.0, verify=-0.3)
        return table(rows(90), spoilt, rows(1, "verify", small=1.0, large=-1.0, verify=0.4))

    (said,) = signatures(harmed(8), "mosi", CHEAP, None)  # eight to one: p = 0.039
    assert said.startswith("stage 3 costs accuracy")
    assert "8 right answers of the large model wrong and 1 wrong ones right (McNemar's p 0.039)" in said
    assert signatures(harmed(7), "mosi", CHEAP, None) == []  # seven to one: p = 0.070


def test_second_looks_that_mend_are_welcome():
    mended = rows(20, "verify", small=1.0, large=-1.0, verify=0.4)
    assert signatures(table(rows(80), mended), "mosi", CHEAP, None) == []


@pytest.mark.parametrize("cost", [CHEAP, UNTIMED, {}])
@pytest.mark.parametrize("compared", [None, {}, against_large(NAN, NAN, NAN)])
def test_an_empty_or_unlabelled_table_has_nothing_to_say(cost, compared):
    unlabelled = table(rows(60, label=None), rows(20, "large", None, 1.0, -1.0), rows(5, None, None, None))
    assert signatures(table([]), "mosi", cost, compared) == []
    assert signatures(unlabelled, "sims", cost, compared) == []


def test_second_looks_that_were_not_due_do_not_count():
    due = rows(12, "verify", small=1.0, large=-1.0, verify=0.4)
    undue = rows(30, small=1.0, large=-1.0, verify=-0.9) + rows(30, "large", small=-1.0, large=1.0, verify=-1.0)
    assert signatures(table(rows(100), due, undue), "mosi", CHEAP, None) == []
