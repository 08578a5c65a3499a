"""Figures over seeds, against what they are by hand and by the functions that single runs are scored by."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uacs import metrics
from uacs.cascade import routing
from uacs.report.tables import Table
from uacs.study import checks, curves, tables
from uacs.study.cells import Answered, Cell
from uacs.study.view import View, predictions


def labels(n):
    draw = np.random.default_rng(100)
    label = np.where(draw.random(n) < 0.5, -1, 1) * draw.uniform(0.2, 3, n)
    label[:: max(n // 12, 2)] = 0.0
    return label


def answered(n, seed):
    """A small model that is right in four of five and mostly knows it; a large one that is right in nine of ten, the
    same for all seeds, and second looks that know the label."""
    label, draw, of_all = labels(n), np.random.default_rng(seed), np.random.default_rng(n)
    right, right_large = draw.random(n) < 0.8, of_all.random(n) < 0.9
    u = np.where(right, draw.uniform(0, 0.7, n), draw.uniform(0.3, 1.0, n))
    names = ("cbe", "ptd", "error", "margin")
    told = {name: u if name == "cbe" else draw.uniform(0, 1, n) for name in names}
    return Answered(
        sample_ids=[f"v_{i}" for i in range(n)],
        label=label,
        y=np.where(right, label, -label) + draw.normal(0, 0.3, n),
        p=draw.dirichlet([1, 2, 2], n),
        u=told,
        told=told,
        y_large=np.where(right_large, label, -label),
        u_large=np.where(right_large, of_all.uniform(0, 0.6, n), of_all.uniform(0.4, 1, n)),
        seconds_small=np.full(n, 0.01),
        seconds_large=of_all.uniform(0.5, 2.0, n),
        y_verify=dict.fromkeys(names, label),
        seconds_verify=np.full(n, 0.5),
    )


N = 686  # as many as the paper's figures of MOSI are of


def without_looks(cell):
    return Cell(cell.seed, cell.name, cell.like, cell.valid, Answered(**{**vars(cell.test), "y_verify": {}}))


def view_of(n=N, seeds=(1, 2, 3), dataset="mosi", like="mosi"):
    cells = [Cell(seed, "HumanOmni", like, answered(120, seed + 50), answered(n, seed)) for seed in seeds]
    return View(dataset, cells, 0.5, 0.0)


@pytest.fixture(scope="module")
def view():
    return view_of()


def cells_of(table: Table, name: str):
    at = [column.name for column in table.columns].index(name)
    return {str(row[0]): row[at] for row in table.rows}


def test_rows_are_means_over_the_seeds_of_what_each_scores(view):
    table = tables.comparison([view])
    each = [metrics.score(cell.test.y, view.label, "mosi") for cell in view.cells]
    for name in ("acc7", "acc2", "f1", "mae", "corr"):
        found = cells_of(table, name)["UBM"]
        assert found.value == pytest.approx(np.mean([scores[name] for scores in each])) and found.seeds == 3
    assert cells_of(table, "acc2_paper")["U-ACS with HumanOmni"] == pytest.approx(0.918)
    assert cells_of(table, "mae_paper")["DLF (cited)"] == 0.731 and cells_of(table, "mae")["DLF (cited)"] is None


def test_the_paper_is_cited_for_its_own_datasets_alone():
    other = tables.comparison([view_of(dataset="mine")])
    assert not any(column.paper for column in other.columns) and "DLF (cited)" not in cells_of(other, "acc2")
    assert not view_of(n=100).published  # a part of MOSI is not what the paper's figures are of
    chinese = tables.comparison([view_of(n=457, dataset="sims", like="sims")])
    assert chinese.key == "table-iii" and cells_of(chinese, "acc3_paper")["U-ACS with HumanOmni"] == 0.731


def test_run_time_is_what_the_stages_cost(view):
    found = cells_of(tables.efficiency([view]), "seconds")
    by_hand = []
    for cell, decision in zip(view.cells, view.decisions(), strict=True):
        asked, twice = decision.stage > routing.SMALL, decision.stage == routing.VERIFY
        by_hand.append(N * 0.01 + cell.test.seconds_large[asked].sum() + twice.sum() * 0.5)
    assert found["U-ACS with HumanOmni"].value == pytest.approx(np.mean(by_hand))
    assert found["HumanOmni"].value == pytest.approx(view.cells[0].test.seconds_large.sum())
    assert found["UBM"].value == pytest.approx(N * 0.01)
    paper = cells_of(tables.efficiency([view]), "relative_paper")
    assert paper["U-ACS with HumanOmni"] == pytest.approx(125.76 / 379.18)


def test_samples_per_component_add_up(view):
    (row,) = [row for row in tables.volume([view]).rows if row[0] == "HumanOmni"]
    n, small, asked, large, average, verify = row[1:]
    assert n == N == pytest.approx(small + asked) and asked == pytest.approx(large + average + verify)


def test_a_coins_mean_is_the_mean_of_all_coins():
    view = view_of(n=8, seeds=(1,))
    count = 3
    everyone = []
    for chosen in combinations(range(8), count):
        asked = np.isin(np.arange(8), chosen)
        everyone.append(metrics.score(view.asking(0, asked).prediction, view.label, "mosi"))
    shares = tables.expected_shares(view, 0, count / 8)
    found = metrics.of_sums({name: metrics.total(name, of) for name, of in shares.items()}, ("acc2", "mae", "acc7"))
    for name in ("acc2", "mae", "acc7"):
        assert found[name] == pytest.approx(np.mean([scores[name] for scores in everyone]))


def test_another_large_model_has_rows_of_its_own(view):
    other = View("mosi", [Cell(c.seed, "VideoLLaMA2", c.like, c.valid, c.test) for c in view.cells], 0.5, 0.0)
    assert tables.other_models([view]) is None
    found = cells_of(tables.other_models([view, other]), "acc2")
    assert {"HumanOmni", "U-ACS with HumanOmni", "VideoLLaMA2", "U-ACS with VideoLLaMA2", "difference"} == found.keys()
    gain = found["U-ACS with VideoLLaMA2"].value - found["VideoLLaMA2"].value
    assert found["difference"].value == pytest.approx(gain)  # the last one's, all being answered
    paper = cells_of(tables.comparison([view, other]), "acc2_paper")
    assert paper["U-ACS with VideoLLaMA2"] == pytest.approx(0.905)
    times = cells_of(tables.efficiency([view, other]), "relative_paper")
    assert times["U-ACS with VideoLLaMA2"] == pytest.approx(520.41 / 1046.23) and len(times) == 5


def test_draws_come_to_the_closed_form(view):
    table = tables.ablations(view, draws=400)
    drawn, all_of = (cells_of(table, name) for name in ("acc2", "mae"))
    for found in (drawn, all_of):
        few = found["without uncertainty: at random, mean of 400 draws"].value
        assert few == pytest.approx(found["without uncertainty: at random, mean of all draws"].value, abs=0.01)


def test_ablations_are_paired_and_at_the_share_that_they_name(view):
    table = tables.ablations(view, draws=20)
    asked, gain = cells_of(table, "asked"), cells_of(table, "acc2_gain")
    ours = asked["U-ACS: entropy (cbe)"].value
    assert gain["U-ACS: entropy (cbe)"] is None
    for name in ("ptd", "error", "margin"):
        assert asked[f"{name}, at the share of cbe"].value == pytest.approx(ours)
    scores = cells_of(table, "acc2")
    for title, difference in gain.items():
        if difference is not None:
            assert difference.value == pytest.approx(scores[title].value - scores["U-ACS: entropy (cbe)"].value)


@given(st.integers(0, 60))
def test_as_many_are_asked_as_are_wanted_and_none_is_surer_than_who_is_not(count):
    cell = view_of(n=60, seeds=(4,)).cells[0]
    doubt = np.round(cell.test.u["cbe"], 1)  # with ties
    asked = cell.most_doubtful(doubt, count)
    assert asked.sum() == count
    if 0 < count < 60:
        assert doubt[asked].min() >= doubt[~asked].max()


def test_thresholds_are_eq_19s(view):
    cell = view.cells[0]
    valid = cell.valid
    same = (np.sign(valid.y) == np.sign(valid.label)) & (np.abs(valid.y) >= 0.05) & (np.abs(valid.label) >= 0.05)
    near = (np.abs(valid.y) < 0.05) & (np.abs(valid.label) < 0.05)
    apart = ~same & ~near
    tau = 0.5 * valid.u["ptd"][same].mean() + 0.5 * valid.u["ptd"][apart].mean()
    assert cell.thresholds("ptd", 0.5)[0] == pytest.approx(tau)


def test_entropy_against_a_coin_is_the_cascades_own_difference(view):
    table = checks.against_chance(view, shares=(0.0, 0.3, 1.0))
    rows = {row[0]: row for row in table.rows}
    for share in (0.0, 1.0):  # where there is nothing to choose
        assert rows[share][3].value == pytest.approx(0) and rows[share][6].value == pytest.approx(0)
    assert rows[0.3][3].value == pytest.approx(rows[0.3][1].value - rows[0.3][2].value)
    assert rows[0.3][3].value > 0  # these doubts do know


def test_at_the_share_of_cbe_nothing_but_the_choice_differs(view):
    everyone = [np.arange(N, dtype=float) for _ in view.cells]
    for cell, ours, theirs in zip(view.cells, view.decisions(), view.matched(everyone), strict=True):
        both = (ours.stage > routing.SMALL) & (theirs.stage > routing.SMALL)
        assert both.any() and (ours.prediction[both] == theirs.prediction[both]).all()
        assert np.sum(theirs.stage > routing.SMALL) == np.sum(ours.stage > routing.SMALL)
        assert (theirs.stage[-10:] > routing.SMALL).all() and cell.test.u["cbe"].shape == (N,)


def test_differences_count_the_polarities_that_differ(view):
    table = tables.differences([view])
    row = dict(zip([column.name for column in table.columns], table.rows[1], strict=True))
    assert row["rival"] == "UBM alone"
    gained = (row["only_cascade"] - row["only_rival"]) / np.sum(view.label != 0)
    assert row["acc2"].value == pytest.approx(gained) and row["acc2"].value > 0


def test_under_sims_rules_an_error_is_of_what_lies_within_the_range():
    view = view_of(n=120, dataset="sims", like="sims")
    table = checks.correlation(view)
    mean = dict(zip([column.name for column in table.columns], table.rows[0], strict=True))["error"]
    mae = np.mean([metrics.score(y, view.label, "sims")["mae"] for y in view.small])
    assert mean.value == pytest.approx(mae)
    intensity = checks.intensity(view, shares=(0.2,))
    assert min((row[3].value, row[1]) for row in intensity.rows)[1] == "an oracle of the error"


def test_clips_of_a_video_count_together_where_there_are_enough_videos(view):
    ids = [f"video{i // 20}_{i % 20}" for i in range(N)]
    of_videos = [
        Cell(c.seed, c.name, c.like, c.valid, Answered(**{**vars(c.test), "sample_ids": ids})) for c in view.cells
    ]
    grouped = View("mosi", of_videos, 0.5, 0.0)
    assert len(set(grouped.videos.tolist())) == 35 and np.ptp(np.bincount(grouped.videos)) <= 14
    few = [
        Cell(c.seed, c.name, c.like, c.valid, Answered(**{**vars(c.test), "sample_ids": [f"v_{i}" for i in range(N)]}))
        for c in view.cells
    ]
    assert View("mosi", few, 0.5, 0.0).videos is None  # one video: its clips are all that there is


def test_few_validation_samples_leave_the_learned_routers_out(view):
    cells = [Cell(c.seed, c.name, c.like, answered(12, c.seed), c.test) for c in view.cells]
    found = checks.intensity_routers(View("mosi", cells, 0.5, 0.0))
    assert "expected gain in error" not in found and "an oracle of the error" in found


def test_an_oracle_of_the_error_is_what_no_router_beats(view):
    table = checks.intensity(view, shares=(0.2,))
    mae = {row[1]: row[3].value for row in table.rows}
    assert min(mae, key=mae.get) == "an oracle of the error"
    assert {"entropy (cbe)", "expected error, by a head (ptd)", "expected gain in error"} <= mae.keys()


def test_a_sure_answer_may_hide_an_error_near_zero():
    """Labels near 0 that are answered by 2, the surer the farther off: the correlation there is negative."""
    view = view_of(seeds=(1,))
    cell = view.cells[0]
    near = np.abs(view.label) <= 0.5
    u = np.where(near, 1 - np.abs(cell.test.y - view.label) / 10, np.abs(cell.test.y - view.label) / 10)
    test = Answered(**{**vars(cell.test), "u": {"cbe": u}})
    table = checks.correlation(View("mosi", [Cell(1, "x", "mosi", cell.valid, test)], 0.5, 0.0))
    (row,) = table.rows
    assert row[2].value == pytest.approx(-1) and row[3].value == pytest.approx(1)


def test_second_looks_that_know_the_label_correct_and_never_spoil(view):
    table = checks.looks(view, ["numbers", "words"])
    assert checks.looks(View("mosi", [without_looks(cell) for cell in view.cells], 0.5, 0.0), ["numbers"]) is None
    (row,) = table.rows  # nobody was told in words
    found = dict(zip([column.name for column in table.columns], row, strict=True))
    assert found["n"] > 0 and found["spoiled"] == 0 and found["corrected"] > 0
    assert found["acc2_large"].value >= 0 and found["mae_large"].value < 0


def test_curves_begin_with_the_small_model_and_end_with_everyone(view):
    by_metric = curves.budget(view)
    for name in ("acc2", "mae"):
        ours = {curve.name: curve for curve in by_metric[name]}
        alone = np.mean([metrics.score(y, view.label, "mosi")[name] for y in view.small])
        everyone = [cell.settle(np.ones(N, bool), "cbe", cell.thresholds("cbe", 0.5)[1]) for cell in view.cells]
        most = np.mean([metrics.score(d.prediction, view.label, "mosi")[name] for d in everyone])
        for curve in ours.values():
            assert curve.y[0] == pytest.approx(alone)
        assert ours["cbe"].y[-1] == pytest.approx(most) == pytest.approx(ours["a coin"].y[-1])
        better = np.argmax if name == "acc2" else np.argmin
        at = better([curve.y[6] for curve in by_metric[name]])
        assert by_metric[name][at].name == "an oracle"


def test_the_sweep_over_lambda_is_the_replay_at_each(view):
    found = curves.lambda_sweep(view)
    own = View("mosi", view.cells, 0.3, 0.0)
    cascade = predictions(own.decisions())
    by_hand = np.mean([metrics.score(y, view.label, "mosi")["acc2"] for y in cascade])
    assert found.acc2.y[2] == pytest.approx(by_hand) and found.used == 0.5
    assert (np.diff(found.cost) <= 1e-9).all()  # the more weight wrong answers have, the fewer are asked


def test_samples_that_a_seed_could_not_answer_are_scored_for_none():
    view = view_of(seeds=(1, 2))
    y = view.cells[0].test.y.copy()
    y[:5] = np.nan
    cells = [Cell(1, "x", "mosi", view.cells[0].valid, Answered(**{**vars(view.cells[0].test), "y": y})), view.cells[1]]
    assert len(View("mosi", cells, 0.5, 0.0).known) == N - 5
