"""The page of a study: all figures on it, tables that sort, spots that tell, decisions to look through."""

import csv
import json
import re
from dataclasses import replace

import pytest

from tests.browser import CHROMIUM, browsing
from tests.cluster.chaos import wait_until
from uacs.report import study_page
from uacs.report.study_page import Finding, StudyPage
from uacs.study import results
from uacs.study.decisions import decisions

COMMAND = "uacs study data --config study.yaml --out runs/study"


@pytest.fixture(scope="module")
def report(looking_study):
    return results.write(looking_study, COMMAND)


@pytest.fixture(scope="module")
def tab(report, tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with browsing(tmp_path_factory.mktemp("chromium")) as found:
        found.open(report.as_uri(), 1200)
        yield found


def test_each_table_and_figure_is_on_the_page_and_in_files(report, looking_study):
    text, out = report.read_text(), looking_study.out
    tables = json.loads((out / "results.json").read_text())["tables"]
    assert {"table-ii", "table-differences", "table-iv", "table-vii", "table-ix"} < {table["key"] for table in tables}
    for table in tables:
        assert f'id="{table["key"]}"' in text
        rows = list(csv.reader((out / "tables" / f"{table['key']}.csv").open()))
        assert len(rows) == 1 + len(table["rows"])
        assert "\\toprule" in (out / "tables" / f"{table['key']}.tex").read_text()
    drawn = re.findall(r'<section id="(figure-[a-z0-9]+)">', text)
    for name in drawn:
        if name == "figure-5":
            continue
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (out / "figures" / f"{name}.svg").read_text().startswith("<svg")
    assert {"figure-3", "figure-4", "figure-budget", "figure-chance", "figure-reliability"} < set(drawn)
    assert COMMAND in text and "One seed: intervals are of the samples alone" in text


def test_the_same_study_gives_the_same_bytes(report, looking_study):
    before = {path: path.read_bytes() for path in looking_study.out.glob("*/*.*")} | {report: report.read_bytes()}
    results.write(looking_study, COMMAND)
    assert {path for path, content in before.items() if path.read_bytes() != content} == set()


def test_recorded_answers_and_a_carried_threshold_are_told(recorded_study):
    text = results.write(recorded_study, COMMAND).read_text()
    assert "answers were recorded elsewhere" in text
    rows = {row[0]: row for row in csv.reader((recorded_study.out / "tables" / "check-carried.csv").open())}
    assert {"whole clips", "no sound", "noise on the UBM's features", "itself, split valid"} < rows.keys()
    assert "told of another UBM&#39;s answers" in text
    assert "ev, at its own thresholds (seeds: 1)" in text
    assert "DLF (cited)" not in text  # MOSI's rules and name, but not its test split


def test_a_table_sorts_by_a_head_either_way(tab):
    column = "[...document.querySelectorAll('#table-vii tbody tr')].map(r => r.cells[2].dataset.key)"
    head = "document.querySelectorAll('#table-vii th')[2]"
    tab.run(f"{head}.click()")
    falling = [float(key) for key in tab.run(column) if key]
    assert falling == sorted(falling, reverse=True)
    tab.run(f"{head}.click()")
    assert [float(key) for key in tab.run(column) if key] == sorted(falling)
    assert tab.run(f"{head}.getAttribute('aria-sort')") == "ascending"


def test_a_spot_tells_its_figure_where_it_is_drawn(tab):
    spot = "document.querySelector('#figure-3 [data-tip]')"
    tab.run(f"{spot}.scrollIntoView({{block: 'center'}})")
    x, y = tab.run(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({spot}.getBoundingClientRect())")
    tab.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    wait_until(lambda: tab.run("document.querySelector('#tip').style.display") == "block", 10)
    assert re.fullmatch(r"Acc2, λ = 0\.1: [\d.]+ ± [\d.]+", tab.run("document.querySelector('#tip').textContent"))


def test_decisions_are_found_and_opened_with_their_clip(tab, looking_study):
    tab.run("document.querySelector('#stage').value = 'verify'")
    tab.run("document.querySelector('#stage').dispatchEvent(new Event('change'))")
    stages = tab.run("[...document.querySelectorAll('#rows tr')].map(r => r.cells[8].textContent)")
    assert stages and set(stages) == {"verify"}
    tab.run("document.querySelector('#rows tr').click()")
    assert "told at the second look" in tab.run("document.querySelector('#one').innerText")
    wait_until(lambda: tab.run("document.querySelector('#one video').readyState") >= 1, 20)  # the file is there
    assert not tab.said


def test_no_words_of_a_clip_can_end_the_script():
    hostile = "</script><script>document.title = 'owned'</script>"
    decision = {"id": hostile, "text": hostile, "said": hostile, "label": 1.0, "prediction": -1.0}
    page = study_page.page(
        StudyPage(
            title=hostile,
            command=hostile,
            identity={"ubm": hostile},
            versions={},
            large=[hostile],
            seeds=[1],
            test=1,
            scored=1,
            tables=[],
            pictures=[],
            story=None,
            decisions=[decision],
            findings=[Finding(hostile, "a")],
            warnings=[hostile],
        )
    )
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data and json.loads(data[1]) == [decision]
    assert "<script>document" not in page


def test_the_page_may_go_without_what_is_said(looking_study):
    mute = looking_study.settings.model_copy(update={"transcripts": False})
    rows = decisions(replace(looking_study, settings=mute), results.view(looking_study, "tiny"))
    assert len(rows) == 40 and {row["text"] for row in rows} == {""}
