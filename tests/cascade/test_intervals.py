"""Intervals hold what they promise: the truth lies within 95 of 100, whether seeds or samples vary, or both."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uacs import metrics
from uacs.cascade.intervals import Estimate, dealt, estimates


def mean_of(values):
    return lambda seed, chosen: np.array([values[seed, chosen].mean()])


def test_of_one_seed_it_is_the_interval_of_a_mean():
    values = np.random.default_rng(0).normal(2, 1, (1, 400))
    (found,) = estimates(mean_of(values), 1, 400, groups=400)  # each sample left out in turn: the textbook's
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.966 * values.std(ddof=1) / 20, rel=1e-3)
    assert found.seeds == 1


def test_seeds_alone_give_student_of_a_few():
    values = np.tile([[1.0], [2.0], [3.0]], 50)  # no sample differs from another
    (found,) = estimates(mean_of(values), 3, 50)
    assert found.value == 2
    assert found.high - 2 == pytest.approx(4.303 / np.sqrt(3), rel=1e-3)  # t of two degrees of freedom, sd 1


def test_a_difference_is_surer_than_its_two_sides():
    draw = np.random.default_rng(1)
    shared = draw.normal(0, 5, 300)
    ours, theirs = shared + 0.3 + draw.normal(0, 0.5, (3, 300)), np.tile(shared, (3, 1))

    def figures(seed, chosen):
        first, second = ours[seed, chosen].mean(), theirs[seed, chosen].mean()
        return np.array([first, first - second])

    level, gain = estimates(figures, 3, 300)
    assert gain.high - gain.low < (level.high - level.low) / 5
    assert gain.sure and not level.sure


@pytest.mark.parametrize(
    ("seeds", "sd_seed", "sd_sample", "sd_both"),
    [(3, 0.0, 1.0, 1.0), (3, 0.05, 1.0, 1.0), (3, 0.5, 0.5, 0.5), (5, 0.05, 0.3, 0.3), (1, 0.0, 1.0, 0.0)],
    ids=["samples", "samples and seeds", "mostly seeds", "five seeds", "one seed"],
)
def test_the_truth_lies_within_as_often_as_promised(seeds, sd_seed, sd_sample, sd_both):
    draw, held, repeats, samples = np.random.default_rng(2), 0, 400, 300
    for _ in range(repeats):
        values = draw.normal(0, sd_seed, (seeds, 1)) + draw.normal(0, sd_sample, samples)
        values = values + draw.normal(0, sd_both, (seeds, samples))
        (found,) = estimates(mean_of(values), seeds, samples)
        held += found.low <= 0 <= found.high
    assert 0.92 <= held / repeats <= 0.995  # three standard errors of 400 draws about 0.95, and above it


def test_it_holds_for_acc2_and_for_corr_which_are_no_plain_means():
    draw, held, repeats, samples, seeds = np.random.default_rng(3), np.zeros(2), 300, 500, 3
    names = ("acc2", "corr")
    label = draw.normal(0, 1, 200_000)
    truth = metrics.score(label + draw.normal(0, 0.9, label.size), label, "mosi")
    for _ in range(repeats):
        y = draw.normal(0, 1, samples)
        said = y + draw.normal(0, 0.9, (seeds, samples))

        def figures(seed, chosen, y=y, said=said):
            found = metrics.score(said[seed, chosen], y[chosen], "mosi")
            return np.array([found[name] for name in names])

        found = estimates(figures, seeds, samples)
        held += [e.low <= truth[name] <= e.high for e, name in zip(found, names, strict=True)]
    assert ((held / repeats >= 0.92) & (held / repeats <= 0.995)).all(), held / repeats


def test_a_difference_that_is_none_is_found_by_chance_as_often_as_its_level_says():
    draw, found = np.random.default_rng(4), []
    for _ in range(400):
        values = draw.normal(0, 0.05, (3, 1)) + draw.normal(0, 1, 300) + draw.normal(0, 1, (3, 300))
        (estimate,) = estimates(mean_of(values), 3, 300)
        assert (estimate.p < 0.05) == estimate.sure
        found.append(estimate.p)
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.08 and 0.4 <= np.mean(found) <= 0.65


def test_what_is_undefined_has_no_interval_and_is_not_sure():
    (found,) = estimates(lambda seed, chosen: np.array([np.nan]), 2, 10)
    assert np.isnan([found.value, found.low, found.high, found.p]).all() and not found.sure
    assert Estimate(1.0, 0.5, 1.5, 3).sure and not Estimate(1.0, -0.1, 2.1, 3).sure


def test_where_a_group_leaves_nothing_there_is_no_interval_and_no_p():
    (found,) = estimates(lambda seed, chosen: np.array([1.0 if 3 in chosen else np.nan]), 1, 20)
    assert found.value == 1 and np.isnan([found.low, found.high, found.p]).all() and not found.sure
    (nothing,) = estimates(lambda seed, chosen: np.array([0.0 if 3 in chosen else np.nan]), 1, 20)
    assert nothing.value == 0 and np.isnan([nothing.low, nothing.p]).all()


def test_what_nothing_moves_is_not_sure_of_itself():
    """Two looks of two that both came right: nobody knows how many more would."""
    (found,) = estimates(lambda seed, chosen: np.array([1.0]), 2, 20)
    assert found.value == 1 and np.isnan([found.low, found.p]).all() and not found.sure
    (nothing,) = estimates(lambda seed, chosen: np.array([0.0]), 2, 20)
    assert (nothing.low, nothing.high, nothing.p) == (0, 0, 1)


def test_samples_that_resemble_each_other_are_left_out_together():
    draw, held, alone, repeats = np.random.default_rng(5), 0, 0, 300
    for _ in range(repeats):
        video = draw.integers(0, 30, 600)
        values = (draw.normal(0, 1, 600) + draw.normal(0, 0.4, 30)[video])[None]
        (found,), (naive,) = (estimates(mean_of(values), 1, 600, clusters) for clusters in (video, None))
        held += found.low <= 0 <= found.high
        alone += naive.low <= 0 <= naive.high
    assert 0.92 <= held / repeats <= 0.98 and alone / repeats < 0.8


@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.integers(1, 20))
def test_no_cluster_is_parted_and_groups_are_of_like_size(clusters, groups):
    numbers = np.array(clusters)
    of = dealt(numbers, groups)
    for cluster in set(clusters):
        assert len(set(of[numbers == cluster])) == 1
    sizes = np.bincount(of)
    assert len(sizes) == min(groups, len(set(clusters))) and sizes.min() > 0
    assert sizes.max() - sizes.min() <= np.bincount(numbers).max()
