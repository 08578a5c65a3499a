"""metrics.json: what an outcome table says about the cascade and about each model alone."""

from collections import Counter

import numpy as np
import pyarrow as pa

from uacs import metrics
from uacs.cascade import baselines
from uacs.cascade.outcomes import SYSTEMS, column, doubt
from uacs.cascade.signatures import signatures
from uacs.cascade.thresholds import Thresholds
from uacs.records import STAGES


def summarise(
    table: pa.Table, dataset: str, thresholds: Thresholds, wall: float | None, name: str | None = None
) -> dict:
    """The content of metrics.json, scored by `dataset`'s rules; `name` is the data's own where it is another.

    `wall` is the run's seconds from the first sample to the last, None for one that no model ran in.

    Each system is scored over the labelled samples that it answered. The cascade's `errors` are rows
    without a prediction; they are counted, never averaged in. Where the large model answered every
    sample, `compared` holds the cascade against its rivals (`cascade/baselines.py`).
    """
    stages, sources = Counter(table["stage"].to_pylist()), Counter(table["answer_from"].to_pylist())
    statuses = Counter(table["status"].to_pylist())
    scores = {system: _scores(table, answer, dataset) for system, answer in SYSTEMS.items()}
    scores["large"]["unanswered"] = table.num_rows - int(np.isfinite(column(table, "y_large")).sum())
    compared = baselines.compare(table, dataset, thresholds.tau_large)
    cost = {system: None if v != v else v for system, v in _cost(table).items()}
    return {
        "dataset": name or dataset,
        "n": table.num_rows,
        "errors": statuses["error"],
        "degraded": statuses["degraded"],
        "thresholds": {"tau_small": thresholds.tau_small, "tau_large": thresholds.tau_large},
        "stages": {stage: stages[stage] for stage in STAGES},
        "answer_from": {stage: sources[stage] for stage in STAGES},
        "metrics": scores,
        "seconds": {"wall": wall} | {s: float(np.nansum(column(table, f"seconds_{s}"))) for s in TIMED},
        "near_thresholds": _near(table, thresholds),
        "second_looks": _second_looks(table),
        "cost": cost,
        "warnings": signatures(table, dataset, cost, compared),
    } | ({"compared": compared} if compared else {})


def _second_looks(table: pa.Table) -> dict[str, int]:
    """Of the samples due for stage 3, how many were `asked` about again; recorded answers may have no second."""
    rows = zip(table["stage"].to_pylist(), table["verify_status"].to_pylist(), strict=True)
    statuses = [status for stage, status in rows if stage == "verify"]
    return {"due": len(statuses), "asked": sum(status not in ("not_asked", "unavailable") for status in statuses)}


TIMED = ("small", "large", "verify")
TOLERANCE = 1e-5  # how far scores may move with batch sizes, pools and orders


def _near(table: pa.Table, thresholds: Thresholds) -> list[str]:
    """Samples so close to a threshold that another batch size might route them otherwise."""
    gaps = [np.abs(doubt(table, thresholds.deferral) - thresholds.tau_small)]
    gaps.append(np.abs(column(table, "u_large") - thresholds.tau_large))
    return [table["sample_id"][i].as_py() for i in np.flatnonzero(np.fmin(*gaps) <= TOLERANCE)]


def _cost(table: pa.Table) -> dict[str, float]:
    """Model seconds that each system needs for these samples, from the seconds measured here.

    `large` is the large model about every sample, at its mean over the samples that it was asked about;
    `uacs` counts what Algorithm 1 asks for, whatever else the run asked. NaN where answers carry no time,
    or were due and, in a replay, never asked for.
    """
    small, large, verify = (column(table, f"seconds_{s}") for s in TIMED)
    stage = np.array(table["stage"].to_pylist(), object)
    asked, twice = np.isin(stage, ["large", "average", "verify"]), stage == "verify"
    timed = np.isfinite(large)
    y_large, y_verify = column(table, "y_large"), column(table, "y_verify")
    never = {s: np.array(table[f"{s}_status"].to_pylist(), object) == "not_asked" for s in ("large", "verify")}
    spent = _spent(large[asked], y_large[asked]) + _spent(verify[twice], y_verify[twice])
    if never["large"][asked].any() or never["verify"][twice].any():
        spent = float("nan")
    return {
        "small": float(np.nansum(small)),
        "large": float(large[timed].mean() * table.num_rows) if timed.any() else float("nan"),
        "uacs": float(np.nansum(small) + spent),
    }


def _spent(seconds: np.ndarray, answers: np.ndarray) -> float:
    """Their sum; NaN if an answer carries no time. Failed answers count where they took any."""
    answered = np.isfinite(answers)
    return float(seconds[answered].sum() + np.nansum(seconds[~answered]))


def _scores(table: pa.Table, answer: str, dataset: str) -> dict[str, float | None]:
    prediction, label = column(table, answer), column(table, "label")
    known = np.isfinite(prediction) & np.isfinite(label)
    if not known.any():
        return {"n": 0}
    return {k: (None if v != v else v) for k, v in metrics.score(prediction[known], label[known], dataset).items()}
