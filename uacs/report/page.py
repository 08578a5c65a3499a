"""report.html: one run on one page that needs nothing else."""

from collections import Counter

import numpy as np
import pyarrow as pa
from jinja2 import Environment, PackageLoader, select_autoescape

from uacs.cascade.estimators import IN_NATS
from uacs.cascade.outcomes import column, doubt
from uacs.cascade.thresholds import Thresholds
from uacs.records import STAGES
from uacs.report import figures
from uacs.report.text import SYSTEMS, asked, metric_names, number

SHOWN_PROBLEMS = 20


def page(manifest: dict, summary: dict, table: pa.Table, thresholds: Thresholds) -> str:
    """report.html of a finished run."""
    environment = Environment(loader=PackageLoader("uacs.report"), autoescape=select_autoescape(), trim_blocks=True)
    stage = np.array(table["stage"].to_pylist(), object)
    problems = [row for row in table.select(["sample_id", "status", "error"]).to_pylist() if row["error"]]
    return environment.get_template("page.html").render(
        title=f"U-ACS on {summary['dataset']}, split {manifest['identity']['split']}",
        manifest=manifest,
        summary=summary,
        thresholds=thresholds,
        in_nats=_in_nats(thresholds),
        systems=SYSTEMS,
        names=metric_names(summary),
        number=number,
        asked=asked(summary),
        wrong_way=[m for m in ("small", "large") if _surer_when_wrong(getattr(thresholds, m))],
        statuses=Counter(table["large_status"].to_pylist()),
        stage_figure=figures.stages(summary["stages"], _seconds(table, stage)),
        uncertainty_figure=_uncertainty_figure(table, thresholds),
        problems=problems[:SHOWN_PROBLEMS],
        further=max(0, len(problems) - SHOWN_PROBLEMS),
    )


def _surer_when_wrong(fit) -> bool:
    return bool(fit and fit.mu_same is not None and fit.mu_opposite is not None and fit.mu_same >= fit.mu_opposite)


def _seconds(table: pa.Table, stage: np.ndarray) -> dict[str, float]:
    """Model seconds by the stage that settled the sample: what each of the four groups cost."""
    seconds = np.nan_to_num(column(table, "seconds_small"))
    asked = np.isin(stage, ["large", "average", "verify"])
    seconds = seconds + np.where(asked, np.nan_to_num(column(table, "seconds_large")), 0)
    seconds = seconds + np.where(stage == "verify", np.nan_to_num(column(table, "seconds_verify")), 0)
    return {name: float(seconds[stage == name].sum()) for name in STAGES}


def _in_nats(thresholds: Thresholds) -> bool:
    """Whether u_small is; who says nothing of an estimator means entropy."""
    return thresholds.estimator in (None, *IN_NATS)


def _uncertainty_figure(table: pa.Table, thresholds: Thresholds) -> str | None:
    label, panels = column(table, "label"), {}
    for model, tau in (("small", thresholds.tau_small), ("large", thresholds.tau_large)):
        u, y = column(table, f"u_{model}"), column(table, f"y_{model}")
        unit = f"uncertainty ({'nats' if model == 'large' or _in_nats(thresholds) else thresholds.estimator})"
        if model == "small" and thresholds.deferral:
            u, unit = doubt(table, thresholds.deferral), "expected gain of asking the large model"
        known = np.isfinite(u) & np.isfinite(y) & np.isfinite(label)
        if known.any():
            panels[SYSTEMS[model]] = (u[known], y[known], label[known], tau, unit)
    return figures.uncertainties(panels) if panels else None
