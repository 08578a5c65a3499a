"""The pages of the searches: what was chosen, what it is worth on data that it was not chosen by, and the rest."""

import re
import xml.etree.ElementTree as xml
from dataclasses import replace

import numpy as np
import pytest

from tests.cascade.recordings import drawn
from uacs.cascade.envelope import oracle_line, random_line
from uacs.cascade.objectives import Objective
from uacs.cascade.points import alone, point
from uacs.cascade.prices import Prices
from uacs.cascade.thresholds import Thresholds
from uacs.report.search_figures import Cloud, Curve
from uacs.report.search_page import (
    Heat,
    LambdaSweep,
    Repeat,
    Row,
    ThresholdView,
    Trial,
    UbmView,
    thresholds_page,
    ubm_page,
)
from uacs.report.search_text import thresholds_text, trial_text, ubm_text

PRICES = Prices(0.1, 1.0, 1.5, "model seconds")
VALID, TEST = drawn(200, 1), drawn(300, 2)


def row(name, tau, short="", chosen=False, **more):
    made = Thresholds(tau_small=tau, tau_large=0.4)
    points = {"valid": point(VALID, made, PRICES), "test": point(TEST, made, PRICES)}
    return Row(name, **points, tau_small=tau, tau_large=0.4, short=short, chosen=chosen, **more)


def model(name):
    return Row(f"{name} model alone", alone(VALID, name, PRICES), alone(TEST, name, PRICES))


def clouds(recording, exact=True):
    found = {}
    for metric in ("acc2", "mae"):
        some = oracle_line(recording, PRICES, metric)
        lines = {"random": random_line(recording, PRICES, metric, 0.4), "oracle": some, "trials": some, "tuned": some}
        found[metric] = Cloud(**lines, exact=some if exact else None)
    return found


@pytest.fixture(scope="module")
def view():
    lambdas, betas = np.linspace(0, 1, 5), np.linspace(-0.2, 0.2, 4)
    surface = np.add.outer(lambdas, betas)
    return ThresholdView(
        title="Thresholds for mosi, chosen on split valid",
        identity={"dataset": "mosi", "calibration": "runs/<b>march</b>"},
        objective=Objective(),
        prices=PRICES,
        knobs="each",
        trials=200,
        seconds=6.5,
        ratio=0.993,
        rows=[
            row("search (200 trials)", 0.5, chosen=True, setting="λ 0.40, β +0.00"),
            row("mean of <all>", 0.3, short="mean"),
            Row("risk, α 0.1, δ 0.1", note="no threshold keeps the error at 0.1", short="risk"),
        ],
        small=model("small"),
        large=model("large"),
        valid=clouds(VALID),
        test=clouds(TEST, exact=False),
        lambdas=LambdaSweep(lambdas, lambdas, lambdas, lambdas, paper=0.1),
        heat=Heat(lambdas, betas, surface, surface + 1, (0.5, 0.1)),
        repeats=[Repeat(s, 0.5, 0.4, row("", 0.5).valid, row("", 0.5).test) for s in (0, 1)],
        warnings=["right answers are <no> surer than wrong ones"],
    )


@pytest.fixture(scope="module")
def ubms():
    def trial(number, quality, status, note=""):
        settings = {"lr_text": 10.0**-number, "lr_audio": 1e-3, "seed": number}
        return Trial(number, settings, status, 4, quality, None if quality is None else 0.3, note)

    epochs = np.arange(1, 5)
    return UbmView(
        title="UBMs for mosi",
        identity={},
        objective=Objective("weight", 0.1),
        prices=PRICES,
        seconds=120.0,
        trials=[trial(2, 0.81, "stopped"), trial(3, 0.86, "finished"), trial(4, None, "failed", "the loss is <nan>")],
        chosen=3,
        rows=[row("trial 3", 0.5, chosen=True)],
        small=model("small"),
        large=model("large"),
        curves=[Curve(n, epochs, 0.8 + 0.01 * epochs, 0.1 * epochs, s) for n, s in ((2, "stopped"), (3, "finished"))],
        repeats=[Repeat(4, 0.5, 0.4, row("", 0.5).valid)],
    )


def words(page):
    return re.sub(r"\s+", " ", re.sub(r"<(style|svg).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL))


def figures(page):
    return [xml.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_the_first_sentence_says_what_was_chosen_and_what_it_is_worth(view):
    chosen, large = view.rows[0], view.large
    said = words(thresholds_page(view))
    low, high = chosen.test.intervals["acc2"]
    assert f"Acc2 {chosen.valid.metrics['acc2']:.1%}".replace("%", " %") in said
    assert f"{100 * chosen.test.metrics['acc2']:.1f} % ({100 * low:.1f} to {100 * high:.1f}) on test" in said
    assert f"The large model alone has {100 * large.valid.metrics['acc2']:.1f} %" in said
    assert "the cheapest with the large model's acc2" in said.replace("&#39;", "'")


def test_a_rule_that_comes_to_nothing_says_why(view):
    assert "risk, α 0.1, δ 0.1 no threshold keeps the error at 0.1" in words(thresholds_page(view))
    assert "no threshold keeps the error at 0.1" in thresholds_text(view)


def test_names_are_not_taken_for_html(view, ubms):
    for page in (thresholds_page(view), ubm_page(ubms)):
        assert not re.search(r"<(b|all|no|nan)>", page)
    assert "mean of &lt;all&gt;" in thresholds_page(view)


def test_the_figures_are_drawings_and_the_same_each_time(view, ubms):
    for page, data, count in ((thresholds_page, view, 4), (ubm_page, ubms, 2)):
        assert len(figures(page(data))) == count
        assert page(data) == page(data)


def test_without_test_data_it_is_said_that_validation_flatters(view):
    bare = [replace(r, test=None) for r in (*view.rows, view.small, view.large)]
    alone_ = replace(view, rows=bare[:-2], small=bare[-2], large=bare[-1], test={}, repeats=())
    page = thresholds_page(alone_)
    assert "There is no test data here" in page and len(figures(page)) == 3
    assert "95 %" not in thresholds_text(alone_)


def test_the_trials_stand_with_the_best_first_and_the_failed_say_why(ubms):
    said = words(ubm_page(ubms))
    trials = said[said.index("Trials trial") :]
    assert trials.index(" 3 0.001") < trials.index(" 2 0.01") < trials.index(" 4 0.0001")
    assert "failed: the loss is &lt;nan&gt;" in trials
    assert "1 finished, 1 stopped, 1 failed" in ubm_text(ubms)


def test_a_trial_is_told_by_its_epochs_and_its_end():
    row = {"trial": 7, "status": "running", "epoch": 3, "valid_mae": 0.8123, "quality": 0.8512, "time": 0.3}
    assert trial_text(row, "acc2", False, 2, 9).startswith("trial   7: epoch   3  valid MAE 0.812  cascade acc2 85.1")
    assert trial_text(row | {"status": "stopped"}, "acc2", True, 3, 9).endswith("stopped (3 of 9)")
    failed = row | {"status": "failed", "error": "the loss is nan", "epoch": None}
    assert "failed, the loss is nan  (4 of 9)" in trial_text(failed, "acc2", True, 4, 9)
