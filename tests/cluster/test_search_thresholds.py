"""λ and β by Ray Tune: near the exact sweep, the same by seed, and taken up where it stopped."""

import numpy as np
import pandas as pd
import pytest

from tests.cascade.recordings import drawn
from uacs.cascade.objectives import Objective, hypervolume
from uacs.cascade.points import point
from uacs.cascade.prices import Prices
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.search_thresholds import Ledger, Problem, ThresholdSearch, eq19, search
from uacs.cluster.tuning import shared_knobs
from uacs.errors import BadInput

PRICES = Prices(0.01, 1.0, 1.2)
SMALL, FRONT = drawn(150), Objective()


def searched(ledger, trials=12, seed=3, knobs="each", objective=FRONT, made=SMALL, told=None):
    problem = Problem.of(made, objective, PRICES, knobs)
    return search(problem, ThresholdSearch(knobs=knobs, trials=trials), seed, Ledger(ledger), told)


def rows(ledger, but=()):
    return pd.read_parquet(ledger).drop(columns=list(but))


@pytest.mark.parametrize(
    ("knobs", "objective"), [("each", Objective()), ("each", Objective("weight", 0.1)), ("shared", Objective())]
)
def test_a_search_comes_near_the_exact_sweep(ray_cluster, tmp_path, objective, knobs):
    made = drawn(200)
    exact = Problem.of(made, objective, PRICES, knobs).exact()
    found = searched(tmp_path / "ledger", 40, 0, knobs, objective, made)
    worst = exact.quality[np.argmin(exact.time)], exact.time.max()
    whole = hypervolume(exact.quality, exact.time, *worst)
    assert hypervolume(found.quality, found.time, *worst) >= 0.98 * whole > 0
    large = Problem.of(made, objective, PRICES, knobs).large
    ours, theirs = (
        objective.utility(of.quality, of.time, large)[objective.choose(of.quality, of.time, large)]
        for of in (found, exact)
    )
    assert ours >= theirs - 0.01 * abs(theirs)


def test_what_a_point_promises_is_what_its_thresholds_make(ray_cluster, tmp_path):
    found = searched(tmp_path / "ledger", 3)
    for at in (0, len(found.time) // 2, len(found.time) - 1):
        thresholds = Thresholds(tau_small=found.tau_small[at], tau_large=found.tau_large[at])
        replayed = point(SMALL, thresholds, PRICES)
        assert (found.quality[at], found.time[at]) == (pytest.approx(replayed.metrics["acc2"]), replayed.time)


def test_a_seed_gives_the_same_trials_and_another_others(ray_cluster, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        searched(tmp_path / name, trials=64, seed=seed)
    a, b, c = (rows(tmp_path / name, ["seconds", "seed"]) for name in "abc")
    assert a.equals(b) and len(a) == 64
    assert a[:60].equals(c[:60]) and not a.equals(c)  # the first are laid out, whatever the seed


def test_a_search_that_was_cut_off_repeats_no_trial_that_was_done(ray_cluster, tmp_path):
    def stop(done, of):
        if done == 7:
            raise BadInput("stopped")

    with pytest.raises(BadInput, match="stopped"):
        searched(tmp_path / "cut", told=stop)
    before = rows(tmp_path / "cut")
    assert len(before) == 7
    searched(tmp_path / "cut")
    searched(tmp_path / "whole")
    after = rows(tmp_path / "cut")
    assert after[:7].equals(before)  # with the seconds that they took
    assert after.drop(columns="seconds").equals(rows(tmp_path / "whole", ["seconds"]))


def test_more_trials_go_on_from_those_that_there_are(ray_cluster, tmp_path):
    searched(tmp_path / "ledger", trials=9)
    before = rows(tmp_path / "ledger")
    searched(tmp_path / "ledger", trials=12)
    after = rows(tmp_path / "ledger")
    assert after[:9].equals(before) and len(after) == 12


def test_every_shared_pair_of_knobs_is_in_the_exact_sweep_of_them():
    problem = Problem.of(SMALL, Objective(), PRICES, "shared")
    exact = set(zip(problem.exact().quality.round(9), problem.exact().time.round(9), strict=True))
    draw = np.random.default_rng(0)
    for lambda_, beta in zip(draw.uniform(0, 1, 50), draw.normal(0, 0.3, 50), strict=True):
        taus = [float(eq19(fit, lambda_, beta)) for fit in problem.fits]
        found = point(SMALL, Thresholds(tau_small=taus[0], tau_large=taus[1]), PRICES)
        assert (round(found.metrics["acc2"], 9), round(found.time, 9)) in exact
        assert shared_knobs(problem.fits, *taus) == (pytest.approx(lambda_), pytest.approx(beta))


def test_shared_knobs_reach_less_than_a_pair_for_each():
    each, shared = (Problem.of(SMALL, Objective(), PRICES, knobs).exact() for knobs in ("each", "shared"))
    assert 0 < len(shared.time) < len(each.time)


@pytest.mark.parametrize(("model", "kind"), [("small", "wrong"), ("large", "wrong"), ("small", "right")])
def test_a_model_that_is_never_wrong_or_never_right_has_no_lambda(model, kind):
    made = drawn(40)
    always = made.label if kind == "wrong" else -made.label
    setattr_ = {f"y_{model}": always}
    made = type(made)(
        made.dataset, type(made.answers)(**(vars(made.answers) | setattr_)), made.label, made.p_small, made.twice
    )
    with pytest.raises(BadInput, match=f"the {model} model has no {kind} answer among 40 .* --rule quantile"):
        Problem.of(made, Objective(), PRICES, "each")
