"""Tables of figures with their intervals: as HTML, CSV and LaTeX, each from the same cells."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from markupsafe import Markup, escape

from uacs.cascade.intervals import Estimate

Kind = Literal["text", "percent", "points", "score", "difference", "count", "mean", "seconds"]
"""percent and points are of fractions; points and difference are signed; score has three digits, a
mean of counts one."""

Cell = str | float | int | Estimate | None

SIGNED = ("points", "difference")
DIGITS = {"percent": 1, "points": 1, "score": 3, "difference": 3, "count": 0, "mean": 1, "seconds": 2}


@dataclass(frozen=True)
class Column:
    """A column's name in files, its heading, how its cells are written, and whether the paper says what is in it."""

    name: str
    heading: str
    kind: Kind = "text"
    paper: bool = False


@dataclass(frozen=True)
class Table:
    """A table of a study: what it is named in files, its title, its rows, and the command that makes it.

    note says how to read it; ours are the rows that stand out. A cell that is None has nothing to say.
    """

    key: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    command: str = ""
    ours: Sequence[int] = field(default_factory=tuple)


def text(cell: Cell, kind: Kind) -> str:
    """A cell without its interval.

    >>> text(0.8567, "percent"), text(-0.012, "points"), text(0.7464, "score"), text(None, "score")
    ('85.7', '-1.2', '0.746', '')
    """
    value = cell.value if isinstance(cell, Estimate) else cell
    if value is None or isinstance(value, str):
        return value or ""
    if np.isnan(value):
        return "undefined"
    scaled = 100 * value if kind in ("percent", "points") else value
    sign = "+" if kind in SIGNED else ""
    return f"{scaled:{sign},.{DIGITS.get(kind, 3)}f}"


def half(cell: Cell, kind: Kind) -> str:
    """Half of a cell's interval; empty where it has none."""
    if not isinstance(cell, Estimate) or not np.isfinite(cell.high - cell.low):
        return ""
    width = (cell.high - cell.low) / 2 * (100 if kind in ("percent", "points") else 1)
    return f"{width:,.{max(1, DIGITS.get(kind, 3))}f}"


def html(cell: Cell, column: Column) -> Markup:
    """A table's cell, which sorts by its value."""
    classes = " ".join(filter(None, ("paper" if column.paper else "", "words" if column.kind == "text" else "number")))
    value = cell.value if isinstance(cell, Estimate) else cell
    key = "" if value is None or value != value else value  # what says nothing sorts last
    wide = half(cell, column.kind)
    interval = Markup('<span class="half">±{}</span>').format(wide) if wide else ""
    sure = isinstance(cell, Estimate) and column.kind in SIGNED and cell.sure
    shown = Markup("<b>{}</b>").format(text(cell, column.kind)) if sure else escape(text(cell, column.kind))
    tip = ""
    if isinstance(cell, Estimate):
        tested = f", p = {cell.p:.2g}" if column.kind in SIGNED and np.isfinite(cell.p) else ""
        tip = Markup(' title="{} seed{}{}"').format(cell.seeds, "" if cell.seeds == 1 else "s", tested)
    return Markup('<td class="{}" data-key="{}"{}>{}{}</td>').format(classes, key, tip, shown, interval)


def as_csv(table: Table) -> str:
    """With full digits; an estimate has columns for its ends and its seeds, and a difference for its p."""
    spread = [any(isinstance(row[i], Estimate) for row in table.rows) for i in range(len(table.columns))]
    further = [_further(column.kind) if wide else () for column, wide in zip(table.columns, spread, strict=True)]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head: list[str] = []
    for column, ends in zip(table.columns, further, strict=True):
        head += [column.name, *(f"{column.name}_{end}" for end in ends)]
    writer.writerow(head)
    for row in table.rows:
        cells: list[object] = []
        for cell, ends in zip(row, further, strict=True):
            if isinstance(cell, Estimate):
                cells += [cell.value, *(getattr(cell, end) for end in ends)]
            else:
                cells += ["" if cell is None else cell, *("" for _ in ends)]
        writer.writerow(cells)
    return file.getvalue()


def _further(kind: Kind) -> tuple[str, ...]:
    return ("low", "high", "seeds", "p") if kind in SIGNED else ("low", "high", "seeds")


def as_latex(table: Table) -> str:
    """For booktabs: each figure with half its interval behind it."""
    sides = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    lines = [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_tex(table.title)}. {_tex(table.note)}}}",
        f"\\label{{tab:{table.key}}}",
        f"\\begin{{tabular}}{{{sides}}}",
        "\\toprule",
        " & ".join(_tex(column.heading) for column in table.columns) + " \\\\",
        "\\midrule",
    ]
    for row in table.rows:
        cells = [_tex_cell(cell, column.kind) for cell, column in zip(row, table.columns, strict=True)]
        lines.append(" & ".join(cells) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}", ""])


def _tex_cell(cell: Cell, kind: Kind) -> str:
    if isinstance(cell, str):
        return _tex(cell)
    wide = half(cell, kind)
    said = text(cell, kind).replace(",", "{,}")
    return f"${said}_{{\\pm {wide}}}$" if wide else f"${said}$" if said not in ("", "undefined") else said


def _tex(words: str) -> str:
    for sign, code in (("\\", "\\textbackslash "), ("&", "\\&"), ("%", "\\%"), ("_", "\\_"), ("#", "\\#")):
        words = words.replace(sign, code)
    return words.replace("λ", "$\\lambda$").replace("±", "$\\pm$").replace("τ", "$\\tau$")
