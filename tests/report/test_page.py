"""What a report says beside its numbers."""

import numpy as np
import pytest

from uacs.cascade.outcomes import build, with_decision
from uacs.cascade.summary import summarise
from uacs.cascade.thresholds import Fit, Thresholds
from uacs.records import NOT_ASKED, LargeOutput, Sample, SmallOutput
from uacs.report import page as report
from uacs.report.text import metrics_text, missing_text, number

P = (0.2, 0.3, 0.5)
THRESHOLDS = Thresholds(tau_small=0.5, tau_large=0.5)
MANIFEST = {"identity": {"split": "test", "ubm": "ab"}, "versions": {"uacs": "0.1"}}


@pytest.fixture
def table():
    draw = np.random.default_rng(0)
    label = draw.choice([-1.0, 1.0], 60)
    samples = [Sample(f"<b>{i}", "x", label=float(label[i])) for i in range(60)]
    small = [SmallOutput(float(y * draw.choice([1, 1, -1])), float(draw.uniform()), P, 0.001) for y in label]
    large = [
        LargeOutput(float(y), 0.3, "ok", 0.1) if s.u > 0.5 else NOT_ASKED for s, y in zip(small, label, strict=True)
    ]
    asked = next(i for i, s in enumerate(small) if s.u > 0.5)
    large[asked] = LargeOutput(status="unparsable", seconds=0.1, error="sample 'x': answered 'well', not a number")
    return with_decision(build(samples, small, large, [NOT_ASKED] * 60), 0.5, 0.5)


def page(table, thresholds):
    summary = summarise(table, "mosi", thresholds, 1.0)
    return report.page(MANIFEST, summary, table, thresholds), summary


def test_problems_are_listed_and_nothing_of_a_sample_is_markup(table):
    html, _ = page(table, Thresholds(tau_small=0.5, tau_large=0.5))
    assert "answered &#39;well&#39;" in html
    assert "&lt;b&gt;" in html and "<b>" not in html


def test_a_large_model_asked_about_some_says_so(table):
    html, summary = page(table, Thresholds(tau_small=0.5, tau_large=0.5))
    assert "covers only the samples it was asked about" in html
    assert "What the cascade adds" not in html
    assert summary["cost"]["large"] == pytest.approx(60 * 0.1)


def test_an_uncertainty_that_cannot_route_is_a_warning(table):
    wrong = Fit(lambda_=0.5, beta=0, mu_same=0.9, mu_opposite=0.2, n_same=5, n_opposite=5)
    html, _ = page(table, Thresholds(tau_small=0.5, tau_large=0.5, small=wrong, warnings=["be careful"]))
    assert "its uncertainty cannot route" in html and "be careful" in html


def test_the_text_shows_shares_and_failures(table):
    text = metrics_text(summarise(table, "mosi", Thresholds(tau_small=0.5, tau_large=0.5), 1.0))
    assert "1 degraded" in text
    assert text.splitlines()[0].startswith("small ")


def test_numbers_are_printed_as_the_field_prints_them():
    assert number("acc2", 0.8567) == "85.7"
    assert number("mae", 0.7464) == "0.746"
    assert number("corr", None) == "-"


def test_a_failure_that_shows_in_the_numbers_is_a_warning_on_the_page_and_in_the_text(table):
    nobody = with_decision(table, 2.0, 0.5)
    thresholds = Thresholds(tau_small=2.0, tau_large=0.5)
    html, summary = page(nobody, thresholds)
    (warning,) = summary["warnings"]
    assert warning.startswith("under-escalation: nothing was sent on")
    assert f'<div class="warning">{warning}</div>' in html
    assert f"warning: {warning}" in metrics_text(summary)
    assert page(table, Thresholds(tau_small=0.5, tau_large=0.5))[1]["warnings"] == []


def test_a_replay_says_what_it_could_not_know():
    assert missing_text({"large": 0, "verify": 0}) == ""
    assert missing_text({"large": 0, "verify": 3}) == "3 samples had no second look and keep y_large"
    assert "2 samples had no large answer and keep y_small" in missing_text({"large": 2, "verify": 3})


def test_second_looks_without_an_answer_are_no_calls_and_said(table):
    first = [LargeOutput(-row["y_small"], 0.9, "ok", 0.1) for row in table.to_pylist()]
    samples = [Sample(row["sample_id"], "x", label=row["label"]) for row in table.to_pylist()]
    small = [SmallOutput(row["y_small"], 0.9, P, 0.001) for row in table.to_pylist()]
    without = [LargeOutput(status="unavailable")] * 60
    html, summary = page(with_decision(build(samples, small, first, without), 0.5, 0.5), THRESHOLDS)
    assert summary["second_looks"] == {"due": 60, "asked": 0}
    text = metrics_text(summary)
    assert "60 of 60 second looks had no answer; y_large stands there" in text
    assert text.splitlines()[5].split()[-2] == "60"  # large calls: no second among them
    assert "60 of which there was no answer" in " ".join(html.split())
