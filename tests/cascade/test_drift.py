"""Drift by hand, what can never happen, and how often the alarm is false and true where that is known."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cascade.recordings import drawn
from uacs.cascade import drift
from uacs.cascade.deferral import Deferral
from uacs.cascade.drift import FEWEST, Drift, Reference, Shadow, by_chance, in_standard_errors, psi
from uacs.cascade.outcomes import build
from uacs.cascade.thresholds import Thresholds, explained, of_table
from uacs.errors import BadInput
from uacs.records import LargeOutput, Sample, SmallOutput

NAN = float("nan")


def of(u, tau_small=0.5) -> Reference:
    u = np.asarray(u, float)
    return Reference.of(u, u, tau_small)


def after(reference, u, tau_small=0.5, size=1000):
    """What a window says after answers that are as unsure as u."""
    window = Drift(reference, size)
    for value in np.asarray(u, float).tolist():
        window.add(value, value > tau_small)
    return window.read()


# --- the reference


def test_a_hundred_samples_in_tenths():
    found = of(np.random.default_rng(0).permutation(100), tau_small=69)
    assert found.edges == [9.5, 19.5, 29.5, 39.5, 49.5, 59.5, 69.5, 79.5, 89.5]
    assert (found.n, found.counts, found.escalated) == (100, [10] * 10, 0.3)


def test_equal_values_stay_together_wherever_they_are():
    assert (of([0] * 60 + [1] * 40).edges, of([0] * 60 + [1] * 40).counts) == ([0.5], [60, 40])
    assert of([0] + [1] * 99).counts == [1, 99]  # no tenth ends there, but there is no other gap
    assert (of([0.7] * 30).edges, of([0.7] * 30).counts) == ([], [30])
    assert of([0.7]).n == 1


def test_a_sample_that_was_not_answered_is_in_no_group():
    found = Reference.of(np.array([0.1, NAN, 0.9]), np.array([0.1, NAN, 0.9]), 0.5)
    assert (found.n, found.escalated) == (2, 0.5)
    with pytest.raises(BadInput, match="answered no sample"):
        of([NAN, NAN])


def test_the_share_is_by_what_tau_small_is_held_against_and_the_tenths_by_u():
    recording = drawn(200)
    answers = recording.answers
    deferral = Deferral(intercept=0.0, weights={"strength": 1.0})  # the gain is |y|
    found = explained(recording, 1.0, 0.4, "given", deferral=deferral).reference
    assert found.escalated == np.mean(np.abs(answers.y_small) > 1.0) != np.mean(answers.u_small > 1.0)
    assert found.edges == of(answers.u_small).edges


def test_thresholds_of_a_table_have_what_they_were_calibrated_on(tmp_path):
    u, p = [0.1, 0.2, 0.8, 0.9, NAN], (0.2, 0.3, 0.5)
    small = [SmallOutput(1.0, one, p) for one in u[:4]] + [SmallOutput(NAN, NAN, (NAN,) * 3, error="no audio")]
    large = [LargeOutput(1.0, 0.3, "ok")] * 5
    samples = [Sample(f"s{i}", "well", label=label) for i, label in enumerate([1.0, None, 1.0, -1.0, 1.0])]
    found = of_table(build(samples, small, large, large))
    # tau_small = ((0.1 + 0.8) / 2 + 0.9) / 2 = 0.675; a sample counts here without a label, too
    assert found.tau_small == pytest.approx(0.675)
    assert (found.reference.n, found.reference.counts, found.reference.escalated) == (4, [1, 1, 1, 1], 0.5)
    found.save(tmp_path / "thresholds.json")
    assert Thresholds.load(tmp_path / "thresholds.json") == found
    assert set(json.loads((tmp_path / "thresholds.json").read_text())["reference"]) == {"edges", "counts", "escalated"}


def test_thresholds_without_a_reference_are_read_and_written_as_before(tmp_path):
    Thresholds(tau_small=0.5, tau_large=0.5).save(tmp_path / "thresholds.json")
    assert "reference" not in (tmp_path / "thresholds.json").read_text()
    assert Thresholds.load(tmp_path / "thresholds.json").reference is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"edges": [0.2, 0.1], "counts": [1, 1, 1]},
        {"edges": [0.1, 0.1], "counts": [1, 1, 1]},
        {"edges": [0.1], "counts": [1]},
        {"edges": [0.1], "counts": [1, 0]},
        {"edges": [], "counts": []},
        {"edges": [0.1], "counts": [1, 1], "escalated": 1.1},
        {"edges": [0.1], "counts": [1, 1], "n": 2},
        {"edges": [i / 10 for i in range(10)], "counts": [1] * 11},
    ],
)
def test_a_reference_that_does_not_hold_together_is_refused(tmp_path, wrong):
    text = json.dumps({"tau_small": 0.5, "tau_large": 0.5, "reference": {"escalated": 0.5} | wrong})
    with pytest.raises(BadInput, match="thresholds.json: reference"):
        Thresholds.read(text, tmp_path / "thresholds.json")


# --- the numbers


def test_psi_by_hand():
    # ε = 0.5 / 20; q = 0.5 both, p = 0.025 / 1.05 = 1/42 and 41/42: 2 · 20/42 · ln(41) / 2
    assert psi(np.array([10, 10]), np.array([0, 20])) == pytest.approx(20 / 42 * np.log(41))
    # so many that ε hardly counts: (0.75 - 0.5) ln(1.5) + (0.25 - 0.5) ln(0.5) = 0.25 ln(3)
    many = np.array([10**9, 10**9])
    assert psi(many, np.array([5, 15]) * 10**8) == pytest.approx(0.25 * np.log(3))


def test_a_bell_curve_moved_by_half_its_deviation_has_a_psi_of_a_quarter():
    # δ² = 0.25 for densities; ten groups see a little less
    grid = np.random.default_rng(0).normal(0, 1, 200_000)
    reference = of(grid)
    counts = np.histogram(grid + 0.5, [-np.inf, *reference.edges, np.inf])[0]
    assert psi(np.array(reference.counts), counts) == pytest.approx(0.25, abs=0.015)


def test_what_chance_allows_by_hand():
    # χ² of one degree of freedom is a squared normal, which is beyond ±3.8906 once in 10,000
    assert by_chance(100, 100, 2) == pytest.approx(0.02 * 3.8906**2, rel=1e-4)
    assert by_chance(100, 300, 2) == pytest.approx(0.04 / 3 * 3.8906**2, rel=1e-4)
    assert by_chance(100, 100, 1) == 0.0


def test_a_shares_distance_in_standard_errors_by_hand():
    # (0.4 · 100 + 0.6 · 300) / 400 = 0.55; sqrt(0.55 · 0.45 · (1/100 + 1/300)); half a sample of either is 2/300
    z = (0.2 - 2 / 300) / np.sqrt(0.55 * 0.45 * 4 / 300)
    assert in_standard_errors(0.4, 100, 0.6, 300) == pytest.approx(z)
    assert in_standard_errors(0.6, 300, 0.4, 100) == pytest.approx(-z)
    assert in_standard_errors(0.4, 100, 0.401, 300) == 0.0  # less than half a sample
    assert in_standard_errors(0.0, 100, 0.0, 300) == in_standard_errors(1.0, 100, 1.0, 300) == 0.0


COUNTS = st.integers(1, 10).flatmap(
    lambda k: st.tuples(
        st.lists(st.integers(1, 500), min_size=k, max_size=k), st.lists(st.integers(0, 500), min_size=k, max_size=k)
    )
)


@given(COUNTS)
def test_psi_is_finite_never_negative_and_the_same_both_ways(counts):
    expected, seen = map(np.array, counts)
    seen[0] += 1
    found = psi(expected, seen)
    assert np.isfinite(found) and found >= 0
    assert found == pytest.approx(psi(seen, expected))


@given(st.lists(st.integers(1, 500), min_size=1, max_size=10), st.integers(1, 50))
def test_psi_is_zero_for_the_same_shares_of_however_many(counts, times):
    assert psi(np.array(counts), np.array(counts) * times) == 0.0


# --- the window


def test_nothing_is_said_of_few():
    reference = of(np.arange(100) / 100)
    for n in (0, FEWEST - 1):
        found = after(reference, [9.0] * n)
        assert (found.n, found.expected, found.alarm) == (n, reference.escalated, False)
        assert found.psi is found.psi_by_chance is found.escalated is found.z is None
    found = after(reference, [9.0] * FEWEST)
    assert found.escalated == 1.0 and found.shifted and found.off and found.alarm


def test_an_answer_without_an_uncertainty_is_none():
    window = Drift(of([0.1, 0.9]))
    for u in (NAN, float("inf"), -float("inf")):
        window.add(u, True)
    assert window.read().n == 0


def test_a_window_that_could_never_speak_is_refused():
    with pytest.raises(ValueError, match="199 answers never says anything"):
        Drift(of([0.1, 0.9]), FEWEST - 1)


def test_an_alarm_goes_when_clips_are_again_as_they_were():
    u = np.arange(1000) / 1000
    window = Drift(of(u))
    for value in (u / 4).tolist():
        window.add(value, value > 0.5)
    assert window.read().alarm
    for value in np.random.default_rng(0).permutation(u).tolist():
        window.add(value, value > 0.5)
    found = window.read()
    assert (found.n, found.psi, found.escalated, found.z, found.alarm) == (1000, 0.0, 0.499, 0.0, False)


@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.50001, 0.9, 3.0, NAN]), min_size=200, max_size=450))
def test_a_window_says_what_its_last_answers_alone_would_say(u):
    reference = of([0, 0, 0, 0.1, 0.5, 0.5, 0.9])
    known = [value for value in u if np.isfinite(value)]
    assert after(reference, u, size=FEWEST) == after(reference, known[-FEWEST:], size=FEWEST)


# --- the alarm


def test_equal_values_rounded_otherwise_are_no_shift():
    u = np.repeat([0.0, 0.3, 0.6, 1.0], [600, 200, 150, 50])
    draw = np.random.default_rng(0)
    found = after(of(u + draw.normal(0, 1e-7, 1000)), u + draw.normal(0, 1e-6, 1000))
    assert found.psi == 0.0 and not found.alarm
    assert after(of([0.7] * 300), [0.7] * 300).psi == 0.0


def shapes(draw):
    """Uncertainties as they come: even, mostly sure, mostly one of few values."""
    yield "even", lambda n: draw.uniform(0, np.log(3), n)
    yield "sure", lambda n: draw.beta(0.3, 2, n) * np.log(3)
    yield "few values", lambda n: draw.choice([0.0, 0.2, 0.4, 1.0], n, p=[0.55, 0.25, 0.15, 0.05])


@pytest.mark.parametrize(("n", "false"), [(20, 1), (80, 0), (400, 0)])
def test_hardly_an_alarm_is_false_where_nothing_changed(n, false):
    """Counted in 200 windows of 1,000 for each of three shapes: two alarms at 1 in 10,000 make 0.12 of 600."""
    draw = np.random.default_rng(n)
    anew = resampled = by_the_rule_of_thumb = 0
    for _, sample in shapes(draw):
        for _ in range(200):
            u = sample(n)
            tau_small = float(u.mean())
            reference = of(u, tau_small)
            found = after(reference, sample(1000), tau_small)
            anew += found.alarm
            by_the_rule_of_thumb += found.psi >= 0.25
            resampled += after(reference, draw.choice(u, 1000), tau_small).alarm
    assert (anew, resampled) == (false, 0)
    if n == 20:
        assert by_the_rule_of_thumb > 100  # why chance is allowed for


def test_chance_is_exceeded_no_oftener_than_it_says(monkeypatch):
    monkeypatch.setattr(drift, "CHANCE", 0.01)  # so that 2,000 draws are enough: 20 are above, give or take
    draw, above = np.random.default_rng(7), 0
    for _ in range(2000):
        reference = of(draw.normal(0, 1, 300))
        counts = np.histogram(draw.normal(0, 1, 1000), [-np.inf, *reference.edges, np.inf])[0]
        above += psi(np.array(reference.counts), counts) > by_chance(300, 1000, 10)
    assert above <= 20 + 3 * np.sqrt(20)


def test_a_shift_that_leaves_the_share_alone_is_found_by_the_tenths():
    u = np.random.default_rng(1).uniform(0, 1, 400)
    sharper = np.where(u > 0.5, 0.5 + (u - 0.5) / 4, u / 4)  # nobody crosses 0.5
    found = after(of(u), np.tile(sharper, 3))
    assert found.shifted and not found.off and found.alarm


def test_a_share_that_is_off_is_found_before_the_tenths_shift():
    # of 1,000 either way: 0.62 handed on where 0.5 were; (0.12 - 0.001) / sqrt(0.56 · 0.44 · 2 / 1000) = 5.4
    u = np.arange(1000) / 1000 + 0.0005
    found = after(of(u), np.concatenate([u[:500:50].repeat(38), u[500::50].repeat(62)]))
    assert (found.escalated, found.z) == (0.62, pytest.approx(0.119 / np.sqrt(0.56 * 0.44 * 2 / 1000)))
    assert found.off and not found.shifted and found.alarm


def test_a_difference_that_does_not_matter_is_no_alarm_however_sure():
    u = np.arange(100_000) / 100_000
    found = after(of(u), np.concatenate([u[:46_000], u[50_000:]]), size=96_000)
    assert found.z > 8 and found.escalated - found.expected == pytest.approx(0.02, abs=0.002) and not found.alarm


@pytest.mark.parametrize(("n", "alarm"), [(20, False), (1000, True)])
def test_a_small_reference_allows_for_its_own_error(n, alarm):
    # 0.3 expected and 0.45 seen: of 20 that is 1.1 standard errors, of 1,000 it is 6.9
    u = (np.arange(n) + 0.5) / n
    live = np.concatenate([np.linspace(0, 0.7, 550), np.linspace(0.70001, 1, 450)])
    found = after(of(u, 0.7), live, 0.7)
    assert (found.expected, found.escalated, found.off) == (pytest.approx(0.3), 0.45, alarm)


# --- the shadow


def test_a_shadow_counts_other_polarities_and_averages_the_distance():
    shadow = Shadow()
    assert (shadow.read().n, shadow.read().mean_difference) == (0, None)
    assert shadow.add(1.0, 0.4) is True
    assert shadow.add(0.5, -0.5) is False
    assert shadow.add(0.2, 0.04) is False  # neutral agrees only with neutral
    assert shadow.add(-0.01, 0.03) is True
    assert shadow.add(NAN, 1.0) is None and shadow.add(1.0, NAN) is None
    found = shadow.read()
    assert (found.n, found.disagree) == (4, 2)
    assert found.mean_difference == pytest.approx((0.6 + 1.0 + 0.16 + 0.04) / 4)
