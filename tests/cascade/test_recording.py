"""What a search may go by, and what it is refused."""

import numpy as np
import pyarrow as pa
import pytest

from tests.cascade.recordings import drawn
from uacs.cascade.outcomes import build
from uacs.cascade.points import alone, point
from uacs.cascade.prices import CALLS, OWN, SECONDS, Prices, prices
from uacs.cascade.recording import Recording
from uacs.cascade.thresholds import Thresholds
from uacs.errors import BadInput, WrongUse
from uacs.records import NOT_ASKED, LargeOutput, Sample, SmallOutput

P = (0.2, 0.3, 0.5)


def table(label, large=None, seconds=float("nan")) -> pa.Table:
    """Small answers of 1 everywhere; large ones as given, of 1 by default."""
    n = len(label)
    samples = [Sample(str(i), "text", None, None, None, label[i], "valid") for i in range(n)]
    small = [SmallOutput(1.0, 0.1 * i, P, 0.01) for i in range(n)]
    answered = LargeOutput(1.0, 0.5, "ok", seconds)
    return build(samples, small, large or [answered] * n, [NOT_ASKED] * n)


def test_a_table_in_which_not_everyone_was_asked_is_refused():
    with pytest.raises(BadInput, match="1 of 2 labelled samples were never asked .* `uacs evaluate --all-stages`"):
        Recording.of(table([1.0, -1.0], [NOT_ASKED, LargeOutput(1.0, 0.5, "ok")]), "mosi")


def test_a_table_without_large_answers_is_refused():
    nobody = [LargeOutput(status="unavailable")] * 2
    with pytest.raises(BadInput, match="the large model answered no labelled sample"):
        Recording.of(table([1.0, -1.0], nobody), "mosi")


@pytest.mark.parametrize(("label", "missing"), [([1.0, 0.5], "negative"), ([-1.0, 0.0], "positive")])
def test_labels_of_one_polarity_are_refused(label, missing):
    with pytest.raises(BadInput, match=f"no label among 2 is {missing}"):
        Recording.of(table(label), "mosi")


def test_a_table_without_labels_is_refused():
    with pytest.raises(BadInput, match="no sample has both a label and a small answer"):
        Recording.of(table([None, None]), "mosi")


def test_second_looks_that_recorded_answers_cannot_give_cost_nothing():
    samples = [Sample(str(i), "t", None, None, None, label, "valid") for i, label in enumerate([1.0, -1.0])]
    small = [SmallOutput(1.0, 0.9, P), SmallOutput(-1.0, 0.9, P)]
    large = [LargeOutput(-1.0, 0.9, "ok"), LargeOutput(1.0, 0.9, "ok")]
    looks = [LargeOutput(status="unavailable"), LargeOutput(-1.0, 0.1, "ok")]
    made = Recording.of(build(samples, small, large, looks), "mosi")
    found = point(made, Thresholds(tau_small=0.0, tau_large=0.0), Prices(0, 1, 1))
    assert (found.asked, found.second, found.time) == (1.0, 0.5, 1.5)


def test_another_small_model_has_no_second_looks_and_pays_for_them():
    made = drawn(50)
    other = made.with_small(made.answers.y_small, made.answers.u_small, made.p_small)
    assert np.isnan(other.answers.y_verify).all() and other.twice.all()
    taus = Thresholds(tau_small=0.2, tau_large=0.2)
    ours, theirs = (point(of, taus, Prices(0, 1, 1)) for of in (made, other))
    assert ours.time == theirs.time
    assert ours.metrics["acc2"] != theirs.metrics["acc2"]


def test_prices_are_the_mean_seconds_measured():
    measured = prices(table([1.0, -1.0], [LargeOutput(1.0, 0.5, "ok", s) for s in (0.2, 0.4)]))
    assert measured.large == pytest.approx(0.3) and measured.small == pytest.approx(0.01)
    assert measured.unit == SECONDS
    assert measured.verify == measured.large  # none was timed: as long as a first look


def test_answers_without_seconds_are_counted():
    assert prices(table([1.0, -1.0])) == Prices(0.0, 1.0, 1.0, CALLS)


def test_own_prices_take_the_place_of_the_seconds():
    timed = table([1.0], [LargeOutput(1.0, 0.5, "ok", 0.2)])
    assert prices(timed, {"small": 1, "large": 20, "verify": 30}) == Prices(1, 20, 30, OWN)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"huge": 1.0}, "no stage of that name"),
        ({"large": -1.0}, "a price is 0 or more"),
        ({"small": 0.0, "large": 0.0, "verify": 0.0}, "the large model costs 0 a sample"),
        ({"large": 2.0}, "must name small, verify as well"),
    ],
)
def test_prices_that_make_no_sense_are_refused(given, said):
    with pytest.raises(WrongUse, match=said):
        prices(table([1.0]), given)


def test_a_model_alone_costs_its_own_price_and_is_scored_where_it_answered():
    made = Recording.of(table([1.0, -1.0], [LargeOutput(1.0, 0.5, "ok"), LargeOutput(status="timeout")]), "mosi")
    at = Prices(1.0, 10.0, 10.0)
    small, large = (alone(made, model, at) for model in ("small", "large"))
    assert (small.n, small.metrics["acc2"], small.time) == (2, 0.5, 0.1)
    assert (large.n, large.metrics["acc2"], large.time) == (1, 1.0, 1.0)
