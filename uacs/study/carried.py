"""Thresholds carried to where they were not made: to spoilt clips of the test split, and to other datasets."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uacs.cascade.intervals import Estimate, estimates
from uacs.cascade.outcomes import column
from uacs.data.prepared import PreparedDataset
from uacs.report.tables import Cell as Value
from uacs.report.tables import Column, Table
from uacs.study.layout import Study
from uacs.study.view import View, score, videos_of

Found = dict[str, np.ndarray]
"""The UBM's answers, the cascade's, and whether a sample was asked about, (N,) each."""

ANSWERED = ("y_small", "prediction")
SAID = {
    "no-text": "no transcript",
    "no-audio": "no sound",
    "no-vision": "no pictures",
    "half-words": "half of the words lost",
    "noise": "noise on the UBM's features",
}


def table(study: Study, view: View) -> Table | None:
    """What the first seed's cascade asks and scores there, at thresholds of whole clips, against whole clips."""
    places = {SAID[fault]: study.fault(view.name, fault) for fault in study.settings.faults}
    rows: list[list[Value]] = []
    cell, decision = view.cells[0], view.decisions()[0]
    at_home = {
        "y_small": cell.test.y,
        "prediction": decision.prediction,
        "asked": (decision.stage > 0).astype(float),
    }
    videos = videos_of(cell.test.sample_ids)
    rows.append(["whole clips", *_levels(at_home, view.label, view.like, videos), None, None, None, None])
    for title, place in places.items():
        spoilt = _read(pq.read_table(place))
        drifts = _drifts(spoilt, at_home, view.label, view.like, videos)
        rows.append([title, *_levels(spoilt, view.label, view.like, videos), *drifts])
    for name, other in study.settings.elsewhere.items():
        there = pq.read_table(study.fault(study.settings.main, f"at-{name}")).sort_by("sample_id")
        if study.settings.main != view.name:
            continue
        like = PreparedDataset(other.data).info.like
        found = _read(there)
        if other.recorded is None:
            found["prediction"] = np.full(len(found["y_small"]), np.nan)
        levels = _levels(found, column(there, "label"), like, videos_of(there["sample_id"].to_pylist()))
        rows.append([f"{name}, split {other.split}", *levels, *[None] * 4])
    if len(rows) == 1:
        return None
    return Table(
        "check-carried",
        "Thresholds carried elsewhere",
        [
            Column("where", ""),
            Column("asked", "asked, %", "percent"),
            Column("small_acc2", "UBM: Acc2", "percent"),
            Column("acc2", "cascade: Acc2", "percent"),
            Column("mae", "cascade: MAE", "score"),
            Column("asked_drift", "share asked against whole clips, points", "points"),
            Column("small_loss", "UBM's Acc2, points", "points"),
            Column("acc2_loss", "cascade's Acc2, points", "points"),
            Column("mae_loss", "cascade's MAE", "difference"),
        ],
        rows,
        f"Seed {cell.seed} with {view.name}, intervals of the samples alone. The UBM and both thresholds are those of "
        "whole clips; what is missing is missing for both models, noise is on the UBM's features alone. Recorded "
        "answers are to whole clips, whatever is missing.",
    )


def _read(outcomes: pa.Table) -> dict[str, np.ndarray]:
    outcomes = outcomes.sort_by("sample_id")
    stage = np.array(outcomes["stage"].to_pylist(), object)
    return {
        "y_small": column(outcomes, "y_small"),
        "prediction": column(outcomes, "prediction"),
        "asked": np.isin(stage, ["large", "average", "verify"]).astype(float),
    }


def _figures(found: dict[str, np.ndarray], label: np.ndarray, like: str, at: np.ndarray) -> list[float]:
    """Share asked, the UBM's Acc2, the cascade's Acc2 and MAE, over samples that have a label."""
    known = at[np.isfinite(label[at])]
    small = score(found["y_small"][known], label[known], like, ("acc2",))
    cascade = score(found["prediction"][known], label[known], like, ("acc2", "mae"))
    return [float(np.mean(found["asked"][at])) if len(at) else float("nan"), *small, *cascade]


def _levels(found: Found, label: np.ndarray, like: str, videos: np.ndarray | None) -> list[Estimate]:
    return estimates(lambda seed, at: np.array(_figures(found, label, like, at)), 1, len(label), videos)


def _drifts(spoilt: Found, whole: Found, label: np.ndarray, like: str, videos: np.ndarray | None) -> list[Estimate]:
    both = np.isfinite(label) & np.all([np.isfinite(of[name]) for of in (spoilt, whole) for name in ANSWERED], axis=0)

    def apart(seed: int, at: np.ndarray) -> np.ndarray:
        at = at[both[at]]  # of samples that only one side answers there is no difference
        return np.array(_figures(spoilt, label, like, at)) - np.array(_figures(whole, label, like, at))

    return estimates(apart, 1, len(label), videos)
