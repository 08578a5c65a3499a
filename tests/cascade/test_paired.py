"""Two runs side by side: McNemar by hand, intervals where the difference is planted, and who is left out."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uacs import metrics
from uacs.cascade.paired import compare, mcnemar
from uacs.errors import BadInput, Refused, WrongUse
from uacs.records import OUTCOME_SCHEMA

SCORES = st.floats(-3, 3).map(lambda x: round(x, 1))


def run(prediction, label, names=None, **columns):
    """An outcome table with these predictions (N,) and labels (N,); None is missing."""
    prediction, label = list(prediction), list(label)
    names = names or [f"s{i:04d}" for i in range(len(label))]
    given = {"sample_id": names, "label": label, "prediction": prediction} | columns
    status = dict.fromkeys(("large_status", "verify_status", "status"), "ok")
    rows = [status | {name: values[i] for name, values in given.items()} for i in range(len(label))]
    return pa.Table.from_pylist(rows, schema=OUTCOME_SCHEMA)


def planted(n=500, seed=3):
    """Labels, answers that are 0.3 off, and answers that are 0.5 off and of the wrong sign for one in ten."""
    draw = np.random.default_rng(seed)
    label = draw.choice([-1.0, 1.0], n) * draw.uniform(0.6, 2, n)
    first = label + draw.choice([-0.3, 0.3], n)
    second = np.where(draw.random(n) < 0.1, -label, label + draw.choice([-0.5, 0.5], n))
    return label, first, second


def test_mcnemar_by_hand():
    # eight to one of nine: 2 (C(9,0) + C(9,1)) / 2^9 = 20 / 512
    label = np.ones(20)
    first = np.where(np.arange(20) == 0, -1.0, 1.0)
    second = np.where((np.arange(20) >= 1) & (np.arange(20) <= 8), -1.0, 1.0)
    test = compare(run(first, label), run(second, label), "mosi", resamples=10).mcnemar
    assert (test.only_first, test.only_second) == (8, 1)
    assert test.p == pytest.approx(0.0390625)


def test_mcnemar_leaves_out_what_the_metric_does_not_count():
    nan = float("nan")
    test = mcnemar(np.array([1, nan, 1, 0]), np.array([0, 0, 1, nan]))
    assert (test.only_first, test.only_second, test.p) == (1, 0, 1.0)


def test_true_zeros_count_on_sims_alone():
    first, second = run([-1.0, 1.0], [0.0, 1.0]), run([1.0, 1.0], [0.0, 1.0])
    assert compare(first, second, "sims", resamples=10).mcnemar.only_first == 1
    assert compare(first, second, "mosi", resamples=10).mcnemar.only_first == 0


def test_a_run_does_not_differ_from_itself():
    label, first, _ = planted(60)
    result = compare(run(first, label), run(first, label), "mosi", resamples=50)
    assert result.mcnemar.p == 1.0
    for difference in result.metrics.values():
        assert (difference.difference, difference.low, difference.high) == (0, 0, 0)


def test_the_difference_is_first_minus_second_and_the_interval_holds_what_was_planted():
    label, first, second = planted()
    result = compare(run(first, label), run(second, label), "mosi", resamples=400)
    acc2, mae = result.metrics["acc2"], result.metrics["mae"]
    assert acc2.first == 1.0
    assert acc2.difference == pytest.approx(acc2.first - acc2.second)
    assert 0 < acc2.low < 0.1 < acc2.high
    # one in ten is off by 2 |label|, 2.6 on average; the others by 0.5
    assert mae.low < 0.3 - (0.9 * 0.5 + 0.1 * 2.6) < mae.high < 0
    assert set(result.metrics) == {"acc2", "f1", "acc2_has0", "f1_has0", "acc7", "acc5", "acc3", "mae", "corr"}


def test_the_interval_is_that_of_the_differences_sample_by_sample():
    label, first, second = planted()
    result = compare(run(first, label), run(second, label), "mosi", resamples=1000, seed=1)
    parts = [metrics.per_sample(answers, label, "mosi") for answers in (first, second)]
    for name in ("acc2", "mae"):
        low, high = metrics.bootstrap(parts[0][name] - parts[1][name], resamples=1000, seed=2)
        found = result.metrics[name]
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * (high - low))


@st.composite
def two_runs(draw):
    n = draw(st.integers(5, 40))
    return tuple(draw(st.lists(SCORES, min_size=n, max_size=n)) for _ in range(3))


@settings(max_examples=30)
@given(two_runs())
def test_swapping_the_runs_mirrors_everything(runs):
    label, first, second = runs
    one = compare(run(first, label), run(second, label), "mosi", resamples=60)
    two = compare(run(second, label), run(first, label), "mosi", resamples=60)
    assert (one.mcnemar.only_first, one.mcnemar.p) == (two.mcnemar.only_second, pytest.approx(two.mcnemar.p))
    for name, there in one.metrics.items():
        back = two.metrics[name]
        assert (there.first, there.second) == pytest.approx((back.second, back.first), nan_ok=True)
        mirrored = (-back.difference, -back.high, -back.low)
        assert (there.difference, there.low, there.high) == pytest.approx(mirrored, nan_ok=True, abs=1e-12)


@settings(max_examples=30)
@given(two_runs())
def test_the_difference_of_a_mean_lies_in_its_interval(runs):
    label, first, second = runs
    found = compare(run(first, label), run(second, label), "sims", resamples=300).metrics
    for name in ("acc2", "acc3", "acc5", "mae"):
        assert found[name].low - 1e-12 <= found[name].difference <= found[name].high + 1e-12


def test_the_order_of_the_rows_does_not_matter():
    label, first, second = planted(40)
    one, two = run(first, label), run(second, label)
    shuffled = two.take(np.random.default_rng(0).permutation(40))
    assert compare(one, shuffled, "mosi", resamples=50) == compare(one, two, "mosi", resamples=50)


def test_the_columns_compared_can_be_chosen():
    label = [1.0, -1.0, 1.0]
    table = run([1.0, -1.0, 1.0], label, y_small=[1.0, 1.0, -1.0], y_large=[1.0, -1.0, -1.0])
    test = compare(table, table, "mosi", ("y_large", "y_small"), resamples=10).mcnemar
    assert (test.only_first, test.only_second) == (1, 0)
    with pytest.raises(WrongUse, match="no system 'y_medium'"):
        compare(table, table, "mosi", ("y_large", "y_medium"))


def test_who_is_left_out_is_counted_by_why():
    first = run([1.0, None, 1.0, None, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, None, 1.0], list("abcdef"))
    second = run([2.0, 1.0, None, None, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, None, 1.0, 1.0], list("abcdegh"))
    result = compare(first, second, "mosi", resamples=10)
    assert result.n == 1
    assert result.left_out == {
        "only in the first": 1,
        "only in the second": 2,
        "unanswered in the first": 1,
        "unanswered in the second": 1,
        "unanswered in both": 1,
        "without a label": 1,
    }


def test_a_label_that_one_run_lacks_is_taken_from_the_other():
    result = compare(run([1.0, 1.0], [None, 1.0]), run([2.0, 2.0], [1.0, None]), "mosi", resamples=10)
    assert (result.n, result.left_out) == (2, {})


def test_labels_that_disagree_are_refused_by_name():
    with pytest.raises(Refused, match="sample 's0001' is labelled 1 in the first run and -1 in the second; "):
        compare(run([1.0, 1.0], [1.0, 1.0]), run([1.0, 1.0], [1.0, -1.0]), "mosi")


def test_a_third_in_float32_is_a_third():
    ours, theirs = run([1.0, 1.0], [1 / 3, 1.0]), run([1.0, 1.0], [float(np.float32(1 / 3)), 1.0])
    assert compare(ours, theirs, "mosi", resamples=10).n == 2


def test_nothing_to_compare_is_said():
    one = run([1.0], [1.0], ["a"])
    with pytest.raises(BadInput, match="no sample in common"):
        compare(one, run([1.0], [1.0], ["b"]), "mosi")
    with pytest.raises(BadInput, match="no labelled sample was answered by both runs .1 unanswered in the second"):
        compare(one, run([None], [1.0], ["a"]), "mosi")
    with pytest.raises(BadInput, match="sample 'a' is in one run more than once"):
        compare(one, run([1.0, 1.0], [1.0, 1.0], ["a", "a"]), "mosi")


def test_what_a_resample_cannot_tell_is_left_out_of_its_interval():
    # most resamples of three draw some sample twice, one in nine the same one thrice: no correlation there
    result = compare(
        run([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), run([1.0, 2.0, -3.0], [1.0, 2.0, 3.0]), "mosi", resamples=90
    )
    assert np.isfinite([result.metrics["corr"].low, result.metrics["corr"].high]).all()
    flat = compare(run([1.0, 1.0], [1.0, 2.0]), run([1.0, 2.0], [1.0, 2.0]), "mosi", resamples=20).metrics["corr"]
    assert np.isnan([flat.difference, flat.low, flat.high]).all()


def test_progress_reaches_the_end():
    calls = []
    one = run([1.0, -1.0], [1.0, 1.0])
    compare(one, one, "mosi", resamples=250, progress=lambda done, of: calls.append((done, of)))
    assert calls == [(100, 250), (200, 250), (250, 250)]
