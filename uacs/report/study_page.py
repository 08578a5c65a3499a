"""A study's report.html: tables to sort, figures to hover over, every decision to look at."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from uacs.report.study_figures import Picture
from uacs.report.tables import Table, html


@dataclass(frozen=True)
class Drawn:
    """A figure by its name in files, with a title and how to read it."""

    key: str
    title: str
    note: str
    svg: str
    picture: Picture


@dataclass(frozen=True)
class Finding:
    """A sentence that a study comes to, and the key of the table that it is from."""

    said: str
    table: str


@dataclass(frozen=True)
class Story:
    """Figure 5: one sample's decision, as `StudyPage.decisions` has it, the thresholds it met, and why it is shown."""

    decision: Mapping[str, object]
    tau_small: float
    tau_large: float
    seed: int
    why: str


@dataclass(frozen=True)
class StudyPage:
    """What the page shows. command makes the study anew.

    decisions has a mapping for each test sample: id, text, clip, label, y_small, u_small, y_large, u_large, said,
    y_verify, stage, asked, prediction, wrong; None where there is nothing.
    """

    title: str
    command: str
    identity: Mapping[str, object]
    versions: Mapping[str, str]
    large: Sequence[str]
    seeds: Sequence[int]
    test: int
    scored: int
    tables: Sequence[Table]
    pictures: Sequence[Drawn]
    story: Story | None
    decisions: Sequence[Mapping[str, object]]
    findings: Sequence[Finding]
    warnings: Sequence[str]


def page(study: StudyPage) -> str:
    """The page's text."""
    environment = Environment(loader=PackageLoader("uacs.report"), autoescape=select_autoescape(), trim_blocks=True)
    text = json.dumps(study.decisions, ensure_ascii=False, separators=(",", ":"))
    return environment.get_template("study.html").render(
        study=study,
        title=study.title,
        cell=html,
        decisions=Markup(text.replace("<", "\\u003c")),  # no text of a clip may end the script that holds it
        pictures={picture.key: picture for picture in study.pictures},
    )
