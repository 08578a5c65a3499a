"""The page of an adapter's training: which step was kept, what it is worth, what is left out, all on one page."""

import math
import re
import xml.etree.ElementTree as xml

import pytest

from uacs.report.training_page import page

MANIFEST = {
    "format": 1,
    "base": "/models/HumanOmni-7B",
    "base_fingerprint": "4f7f5574a3cc484b",
    "dataset": "mosi",
    "like": "mosi",
    "score_range": (-3.0, 3.0),
    "readout": "trie",
    "prompts": "c123a2c7d72d",
    "second_looks": False,
    "data": {"train": "e8af6e001321f204", "valid": "d4bdbdaeb3cc2150"},
}
ASKED = {"readout": "trie", "hints": "numbers", "frames": None, "device": "cuda", "towers": {"gate": "/my bert"}}


def step(number, **more):
    """300 positions a second, a quarter of what is computed padding."""
    rates = {"loss": 2 / number, "lr": 2e-5, "positions": 600, "padding": 0.25, "seconds": 2.0}
    return rates | {"step": number} | more


def look(at, mae, acc2, unanswered=0, **more):
    judged = {"judged": mae + unanswered / 10, "seconds": 15.0}
    return {"step": at, "mae": mae, "acc2": acc2, "unanswered": unanswered} | judged | more


def record(steps=None, looks=None, kept=1, **more):
    looks = looks or [look(10, 0.9, 0.8), look(20, 0.7, 0.8567), look(40, 0.75, 0.86)]
    return {
        "base": "/models/HumanOmni-7B",
        "dataset": "mosi",
        "settings": {"epochs": 1, "lr": 2e-5, "betas": (0.9, 0.999), "best_by": "mae", "mllm": ASKED},
        "workers": 2,
        "deepspeed": "zero2",
        "samples": {"train": 1284, "valid": 229},
        "best": looks[kept],
        "steps": steps or [step(1 + k) for k in range(40)],
        "validations": looks,
        "notes": [],
    } | more


@pytest.fixture(scope="module")
def html():
    return page(record(), MANIFEST)


def words(html):
    return re.sub(r"\s+", " ", re.sub(r"<(style|svg).*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL))


def figures(html):
    return [xml.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def in_figures(html):
    return " ".join(" ".join(figure.itertext()) for figure in figures(html))


def test_the_kept_step_is_told_with_its_worth_and_what_it_cost(html):
    said = re.sub(r" ([,.:;])", r"\1", words(html))
    assert "Adapter over HumanOmni-7B on mosi" in said
    assert "Step 20 of 40 is kept: MAE 0.700, Acc2 85.7 % on split valid, all 229 samples answered" in said
    assert "80 s in training and 45 s in validation; 300 positions a second, 25 % padding" in said


def test_the_kept_step_is_marked_in_the_table_and_in_every_figure(html):
    (ours,) = re.findall(r'<tr class="ours">(.*?)</tr>', html, re.DOTALL)
    assert words(ours).split() == ["20", "(kept)", "0.700", "85.7", "0", "15.0"]
    assert len(figures(html)) == 3
    assert in_figures(html).count("kept: step 20") == 3


def test_samples_without_an_answer_are_told_and_drawn_and_count_as_wrong():
    html = page(record(looks=[look(20, 0.5, 0.9, 7), look(40, 0.7, 0.8, 3)]), MANIFEST)
    assert "3 of 229 samples unanswered" in words(html)
    assert "MAE, unanswered as wrong" in words(html)
    assert "0.500 90.0 7 1.200 15.0" in words(html)
    assert "unanswered, of 229" in in_figures(html)


def test_where_all_were_answered_nothing_is_drawn_of_it(html):
    assert "unanswered" not in in_figures(html)
    assert "as wrong" not in words(html)


def test_padding_is_weighed_by_what_was_computed():
    steps = [step(1, positions=100, padding=0.0), step(2, positions=100, padding=0.75)]
    said = words(page(record(steps, [look(2, 0.7, 0.8)], 0), MANIFEST))
    assert "60.0 % was padding, 0 to 75 % a step" in said  # 200 of 500


def test_what_is_left_out_is_told_as_text_and_the_rest_is_counted():
    notes = [f"sample '{k}': <script>alert({k})</script>; left out" for k in range(23)]
    html = page(record(notes=notes), MANIFEST)
    assert "&lt;script&gt;alert(19)&lt;/script&gt;; left out" in html
    assert "<script" not in html
    assert "alert(20)" not in html
    assert "and 3 more in training.json" in words(html)


def test_names_are_not_taken_for_html():
    html = page(record(dataset="<i>mine</i>", base="hub/<u>x", deepspeed="<s>.json"), MANIFEST | {"base": "<b>b"})
    assert not re.search(r"<[ibus]>", html)
    assert "Adapter over hub/&lt;u&gt;x on &lt;i&gt;mine&lt;/i&gt;" in html


def test_the_page_needs_nothing_else(html):
    assert not re.search(r"<(script|link|img|iframe|image)\b|@import", html)
    assert all(at.startswith("#") for at in re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", html))
    assert all(at.startswith("#") for at in re.findall(r"url\(([^)]*)\)", html))


def test_how_to_ask_it_names_what_its_answers_depend_on(html):
    said = words(html)
    assert "--mllm ADAPTER --out RUN --set mllm.readout=trie --set &#39;mllm.towers.gate=/my bert&#39;" in said
    assert "--set mllm.device" not in said and "--set mllm.hints" not in said


def test_settings_and_manifest_are_written_for_people(html):
    said = words(html)
    for told in ("lr 2e-5", "betas 0.9, 0.999", "mllm.towers.gate /my bert", "scores -3 to 3", "workers 2"):
        assert f" {told} " in said.replace("  ", " ")
    assert "checksums train e8af6e001321f204, valid d4bdbdaeb3cc2150" in said
    assert "format" not in said


def test_one_step_and_one_look_make_a_page():
    html = page(record([step(1)], [look(1, 0.7, 0.8)], 0), MANIFEST)
    assert re.search(r"Step 1 of 1 is kept", words(html))
    assert len(figures(html)) == 3
    assert "mean of" not in in_figures(html)


@pytest.mark.filterwarnings("error")
def test_what_is_no_number_is_a_gap_and_a_dash():
    looks = [look(1, math.nan, math.nan, 229, judged=3.0), look(8, 0.7, math.nan, 1)]
    steps = [step(1 + k, loss=math.nan if k in (0, 5) else 1.0) for k in range(8)]
    for kept in (0, 1):
        html = page(record(steps, looks, kept), MANIFEST)
        assert not re.search(r"\bnan\b", words(html) + in_figures(html), re.IGNORECASE)
        assert len(figures(html)) == 3
    nothing = [one | {"loss": math.nan} for one in steps]
    assert len(figures(page(record(nothing, looks[:1], 0), MANIFEST))) == 3


def test_the_same_record_makes_the_same_page(html):
    assert page(record(), MANIFEST) == html
