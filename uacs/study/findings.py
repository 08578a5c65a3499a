"""What a study came to, in sentences: each with its interval, what that allows to be said, and where the figure is."""

from collections.abc import Sequence

import numpy as np

from uacs.cascade.intervals import Estimate
from uacs.report.study_page import Finding
from uacs.report.tables import Cell, Kind, Table, half, text
from uacs.study.tables import UACS
from uacs.study.view import View


def findings(view: View, tables: Sequence[Table], primary: str) -> list[Finding]:
    """The main ones, of the first large model; what a study lacks, or cannot tell, is left out.

    primary is how the cascade's own second looks are told.
    """
    of = {table.key: table for table in tables}
    found = [_against(of["table-differences"], of["table-iv"], view), _against_chance(of["table-vii"])]
    found.append(_near_zero(of["check-correlation"]))
    if "check-looks" in of:
        found.append(_looks(of["check-looks"], primary))
    if "check-carried" in of:
        found.append(_carried(of["check-carried"]))
    return [finding for finding in found if finding]


def _against(table: Table, times: Table, view: View) -> Finding:
    said = []
    for row in table.rows[:2]:
        acc2, mae = (_cell(table, row, name) for name in ("acc2", "mae"))
        gained = f"Acc2 {_told(acc2, 'points')} points{_verdict(acc2)}, MAE {_told(mae, 'difference')}{_verdict(mae)}"
        said.append(f"against {row[1]} {gained}")
    ours = next(row for row in times.rows if str(row[0]).startswith(UACS))
    share, relative = _cell(times, ours, "asked"), _cell(times, ours, "relative")
    price = f"It asks {view.name} about {_told(share, 'percent')} % of the clips"
    price += f", in {_told(relative, 'percent')} % of its model seconds" if relative is not None else ""
    return Finding(f"{UACS} {'; '.join(said)}. {price}.", table.key)


def _against_chance(table: Table) -> Finding | None:
    gain = next((_cell(table, row, "acc2_gain") for row in table.rows if "mean of all draws" in str(row[0])), None)
    if not isinstance(gain, Estimate) or np.isnan(gain.value):
        return None
    ours = Estimate(-gain.value, -gain.high, -gain.low, gain.seeds, gain.p)
    gained = f"Acc2 {_told(ours, 'points')} points{_verdict(ours)}"
    return Finding(f"Entropy against a coin at the same share: {gained}.", table.key)


def _near_zero(table: Table) -> Finding | None:
    row = next(row for row in table.rows if row[0] == "cbe")
    everywhere, near = _cell(table, row, "all"), _cell(table, row, "near")
    if not isinstance(everywhere, Estimate) or not isinstance(near, Estimate):
        return None
    said = f"Entropy and the error of the score: rank correlation {_told(everywhere, 'score')}"
    said += f", near 0 {_told(near, 'score')}"
    if near.high < 0:
        said += ": there the surest answers have the largest errors"
    return Finding(f"{said}.", table.key)


def _looks(table: Table, primary: str) -> Finding | None:
    row = next((row for row in table.rows if str(row[0]).partition(" ")[0] == primary), None)
    gain = _cell(table, row, "acc2_large") if row else None
    if row is None or not isinstance(gain, Estimate) or np.isnan(gain.value):
        return None
    n, corrected, spoilt = (float(_cell(table, row, name)) for name in ("n", "corrected", "spoiled"))  # type: ignore[arg-type]
    said = f"Of {n:.0f} second looks {corrected:.1f} corrected the large model's polarity and {spoilt:.1f} spoilt it; "
    said += f"against letting y_large stand, Acc2 of these {_told(gain, 'points')} points{_verdict(gain)}."
    return Finding(said, table.key)


def _carried(table: Table) -> Finding | None:
    """Where the cascade loses most."""
    lost = [(row, _cell(table, row, "acc2_loss"), _cell(table, row, "asked_drift")) for row in table.rows]
    known = [(row, l, d) for row, l, d in lost if isinstance(l, Estimate) and isinstance(d, Estimate) and l.value < 0]
    if not known:
        return None
    row, loss, drift = min(known, key=lambda one: one[1].value)
    said = f"Of the ways to spoil a clip '{row[0]}' costs the cascade most, at the thresholds of whole clips: Acc2 "
    said += f"{_told(loss, 'points')} points{_verdict(loss)}; the share asked moves by {_told(drift, 'points')} points"
    return Finding(f"{said}{_verdict(drift)}.", table.key)


def _cell(table: Table, row: Sequence[Cell], name: str) -> Cell:
    return row[[column.name for column in table.columns].index(name)]


def _told(cell: Cell, kind: Kind) -> str:
    wide = half(cell, kind)
    return text(cell, kind) + (f" ± {wide}" if wide else "")


def _verdict(cell: Cell) -> str:
    return "" if isinstance(cell, Estimate) and cell.sure else " (chance alone could do it)"
