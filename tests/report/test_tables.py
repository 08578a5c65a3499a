"""A table's cells as a page, a spreadsheet and a paper have them."""

import csv
import io

import numpy as np
import pytest

from uacs.cascade.intervals import Estimate
from uacs.report.tables import Column, Table, as_csv, as_latex, half, html, text

TABLE = Table(
    "t",
    "A title",
    [
        Column("who", "Who"),
        Column("acc2", "Acc2", "percent"),
        Column("gain", "gain", "points"),
        Column("acc2_paper", "Acc2, paper", "percent", paper=True),
    ],
    [
        ["a_b & c", Estimate(0.912, 0.9, 0.924, 3), Estimate(0.02, 0.01, 0.03, 3, 0.004), 0.918],
        ["<script>", Estimate(0.8, 0.7, 0.9, 1), Estimate(-0.02, -0.05, 0.01, 1), None],
    ],
    note="50 % of all.",
)


@pytest.mark.parametrize(
    ("cell", "kind", "said", "wide"),
    [
        (Estimate(0.912, 0.9, 0.924, 3), "percent", "91.2", "1.2"),
        (Estimate(-0.012, -0.03, 0.006, 3), "points", "-1.2", "1.8"),
        (Estimate(0.7464, 0.7, 0.7928, 3), "score", "0.746", "0.046"),
        (0.5, "percent", "50.0", ""),
        (1234, "count", "1,234", ""),
        (3.25, "mean", "3.2", ""),
        (None, "score", "", ""),
        ("words", "text", "words", ""),
        (np.nan, "score", "undefined", ""),
        (Estimate(np.nan, np.nan, np.nan, 3), "score", "undefined", ""),
    ],
)
def test_a_cell_in_words(cell, kind, said, wide):
    assert (text(cell, kind), half(cell, kind)) == (said, wide)


def test_a_page_shows_intervals_marks_sure_differences_and_obeys_no_name():
    first, second = (
        [html(cell, column) for cell, column in zip(row, TABLE.columns, strict=True)] for row in TABLE.rows
    )
    assert first[1] == '<td class="number" data-key="0.912" title="3 seeds">91.2<span class="half">±1.2</span></td>'
    assert "<b>+2.0</b>" in first[2] and "<b>" not in second[2]
    assert 'title="3 seeds, p = 0.004"' in first[2] and 'title="1 seed"' in second[2]
    assert 'class="paper number"' in first[3] and 'data-key=""' in second[3]
    assert "&lt;script&gt;" in second[0] and "<script>" not in "".join(second)


def test_a_spreadsheet_has_every_digit_and_both_ends():
    rows = list(csv.DictReader(io.StringIO(as_csv(TABLE))))
    assert rows[0]["acc2"] == "0.912" and rows[0]["acc2_low"] == "0.9" and rows[0]["acc2_seeds"] == "3"
    assert rows[1]["who"] == "<script>" and rows[1]["acc2_paper"] == "" and "acc2_paper_low" not in rows[0]
    assert rows[0]["gain_p"] == "0.004" and "acc2_p" not in rows[0]


def test_latex_has_no_sign_that_it_would_take_for_its_own():
    said = as_latex(TABLE)
    assert "a\\_b \\& c & $91.2_{\\pm 1.2}$ & $+2.0_{\\pm 1.0}$ & $91.8$ \\\\" in said
    assert "50 \\% of all." in said and "\\begin{tabular}{lrrr}" in said
    assert said.count("\\\\") == 3
