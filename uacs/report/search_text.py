"""A search's outcome as text: what its command prints at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

from uacs.cascade.points import Point
from uacs.report.search_page import Row, ThresholdView, UbmView
from uacs.report.text import number

COMPARED = ("acc2", "mae")


def thresholds_text(view: ThresholdView) -> str:
    """The choices on validation and test, the wanted one first, and how near the search came to the exact sweep."""
    lines = [f"wanted: {view.objective.text()}", "", *_table([*view.rows, view.small, view.large])]
    if view.ratio is not None:
        lines += [
            "",
            f"the search's front is worth {view.ratio:.1%} of the best that its knobs can reach (hypervolume)",
        ]
    if view.prices.unit == "large calls":
        lines.append("run time is looks of the large model: the answers carry no seconds (see --price)")
    return "\n".join(lines)


def ubm_text(view: UbmView) -> str:
    """The chosen trial's cascade beside those of others, then how the trials ended."""
    rows = [row for row in (*view.rows, view.small, view.large) if row]
    ended = {
        status: sum(trial.status == status for trial in view.trials) for status in ("finished", "stopped", "failed")
    }
    told = ", ".join(f"{count} {status}" for status, count in ended.items() if count)
    return "\n".join([f"wanted: {view.objective.text()}", f"trials: {told}", "", *_table(rows)])


def trial_text(row: Mapping[str, Any], metric: str, last: bool, over: int, of: int) -> str:
    """A line for an epoch of a trial, and for its end; `over` of `of` trials have ended."""
    name = f"trial {row['trial']:3}" if row["status"] != "repeat" else f"trial {row['trial']:3}, seed {row['seed']}"
    if row["epoch"] is None or row["status"] == "failed":
        return f"{name}: {row['status']}, {row['error']}  ({over} of {of})"
    told = f"{name}: epoch {row['epoch']:3.0f}  valid MAE {row['valid_mae']:.3f}"
    told += f"  cascade {metric} {number(metric, row['quality'])} in {row['time']:.1%} of the run time"
    return f"{told}  {row['status']} ({over} of {of})" if last else told


def _table(rows: Sequence[Row]) -> list[str]:
    """A line for each row; columns of the test split where there is one, with 95 % intervals."""
    tested = any(row.test for row in rows)
    width = max(len(row.name) for row in rows) + 2
    head = f"{'':{width}}{'tau':>15}" + "".join(f"{name:>8}" for name in ("acc2", "mae", "asked", "time"))
    splits = f"{'':{width}}{'':15}{'validation':>32}" + (f"{'test':>20}" if tested else "")
    if tested:
        head += f"{'acc2':>8}{'95 %':>15}{'mae':>8}{'95 %':>17}{'asked':>8}{'time':>8}"
    lines = [splits, head]
    for row in rows:
        taus = f"{row.tau_small:.3f} {row.tau_large:.3f}" if row.tau_small is not None else ""
        line = f"{row.name:{width}}{taus:>15}"
        lines.append(line + (_scores(row.valid) + _scores(row.test, True) if row.valid else f"  {row.note}"))
    return lines


def _scores(point: Point | None, intervals: bool = False) -> str:
    if point is None:
        return ""
    words = []
    for name, width in zip(COMPARED, (15, 17), strict=True):
        words.append(f"{number(name, point.metrics[name]):>8}")
        if intervals:
            low, high = (number(name, end) for end in point.intervals[name])
            words.append(f"{f'[{low}, {high}]':>{width}}")
    return "".join(words) + f"{point.asked:8.1%}{point.time:8.1%}"
