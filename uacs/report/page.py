"""report.html: one run on one page that needs nothing else, and the same numbers as text."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
from jinja2 import Environment, PackageLoader, select_autoescape

from uacs.cascade.outcomes import column
from uacs.cascade.thresholds import Thresholds
from uacs.records import STAGES
from uacs.report import figures

SYSTEMS = {"small": "small model", "large": "large model", "uacs": "U-ACS"}
PERCENT = ("acc2", "f1", "acc7", "acc5", "acc3", "acc2_has0", "f1_has0")
SHOWN_PROBLEMS = 20


def write_report(folder: Path, manifest: dict, summary: dict, table: pa.Table, thresholds: Thresholds) -> Path:
    """Write report.html for a finished run; returns its path."""
    environment = Environment(loader=PackageLoader("uacs.report"), autoescape=select_autoescape(), trim_blocks=True)
    stage = np.array(table["stage"].to_pylist(), object)
    problems = [row for row in table.select(["sample_id", "status", "error"]).to_pylist() if row["error"]]
    html = environment.get_template("page.html").render(
        title=f"U-ACS on {summary['dataset']}, split {manifest['identity']['split']}",
        manifest=manifest,
        summary=summary,
        thresholds=thresholds,
        systems=SYSTEMS,
        names=_metric_names(summary),
        number=number,
        asked=_asked(summary),
        wrong_way=[m for m in ("small", "large") if _surer_when_wrong(getattr(thresholds, m))],
        statuses=Counter(table["large_status"].to_pylist()),
        stage_figure=figures.stages(summary["stages"], _seconds(table, stage)),
        uncertainty_figure=_uncertainty_figure(table, thresholds),
        problems=problems[:SHOWN_PROBLEMS],
        further=max(0, len(problems) - SHOWN_PROBLEMS),
    )
    path = folder / "report.html"
    path.write_text(html)
    return path


def metrics_text(summary: dict) -> str:
    """What a command prints at the end: stages in a line, then a row for each system."""
    n = max(summary["n"], 1)
    shares = "   ".join(f"{name} {summary['stages'][name] / n:.0%}" for name in STAGES)
    names = _metric_names(summary)
    head = "".join(f"{name:>8}" for name in names)
    lines = [shares, "", f"{'':12}{'n':>7}{head}{'large calls':>13}{'model seconds':>15}"]
    calls = {"small": 0, "large": summary["n"], "uacs": _asked(summary) + summary["stages"]["verify"]}
    for system, title in SYSTEMS.items():
        scores = summary["metrics"][system]
        row = "".join(f"{number(name, scores.get(name)):>8}" for name in names)
        cost = summary["cost"][system]
        seconds = f"{cost:15.2f}" if cost is not None else f"{'-':>15}"
        lines.append(f"{title:12}{scores['n']:7}{row}{calls[system]:13}{seconds}")
    for name, comparison in summary.get("compared", {}).items():
        acc2 = comparison["acc2"]
        rival = "random routing at the same share" if name == "random" else f"the {name} model"
        lines.append(
            f"{'acc2 against ' + rival:52}{100 * acc2['difference']:+6.1f}  "
            f"[{100 * acc2['low']:+.1f}, {100 * acc2['high']:+.1f}]"
        )
    if summary["errors"] or summary["degraded"]:
        lines.append(f"{summary['errors']} errors, {summary['degraded']} degraded: see the report")
    return "\n".join(lines)


def number(name: str, value: float | None) -> str:
    """A metric as the field prints it: fractions as percent with one decimal, MAE and Corr with three."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if name in PERCENT else f"{value:.3f}"


def _metric_names(summary: dict) -> list[str]:
    known = summary["metrics"]["small"]
    return [name for name in ("acc2", "f1", "acc7", "acc5", "acc3", "mae", "corr") if name in known]


def _asked(summary: dict) -> int:
    return sum(summary["stages"][name] for name in ("large", "average", "verify"))


def _surer_when_wrong(fit) -> bool:
    return bool(fit and fit.mu_same is not None and fit.mu_opposite is not None and fit.mu_same >= fit.mu_opposite)


def _seconds(table: pa.Table, stage: np.ndarray) -> dict[str, float]:
    """Model seconds by the stage that settled the sample: what each of the four groups cost."""
    seconds = np.nan_to_num(column(table, "seconds_small"))
    asked = np.isin(stage, ["large", "average", "verify"])
    seconds = seconds + np.where(asked, np.nan_to_num(column(table, "seconds_large")), 0)
    seconds = seconds + np.where(stage == "verify", np.nan_to_num(column(table, "seconds_verify")), 0)
    return {name: float(seconds[stage == name].sum()) for name in STAGES}


def _uncertainty_figure(table: pa.Table, thresholds: Thresholds) -> str | None:
    label, panels = column(table, "label"), {}
    for model, tau in (("small", thresholds.tau_small), ("large", thresholds.tau_large)):
        u, y = column(table, f"u_{model}"), column(table, f"y_{model}")
        known = np.isfinite(u) & np.isfinite(y) & np.isfinite(label)
        if known.any():
            panels[SYSTEMS[model]] = (u[known], y[known], label[known], tau)
    return figures.uncertainties(panels) if panels else None
