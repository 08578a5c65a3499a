"""Single samples on a study's page: every test sample's way through the first seed's cascade, and Figure 5's."""

import os
from pathlib import Path

import numpy as np

from uacs import metrics
from uacs.cascade.routing import SMALL, VERIFY
from uacs.cascade.uncertainty import polarity
from uacs.records import STAGES
from uacs.report.study_page import Story
from uacs.study.conduct import looks_of
from uacs.study.layout import Study
from uacs.study.view import View

LONGEST = 400
"""Characters of a transcript on the page."""


def story(study: Study, view: View) -> Story | None:
    """Figure 5: the way of the sample whose second look gained most, or else of the most doubtful that was asked."""
    cell = view.cells[0]
    test, taus = cell.test, view.taus[0]
    decision = cell.decide("cbe", taus)
    error = np.abs(test.y_large - test.label) - np.abs(decision.prediction - test.label)
    looked = (decision.stage == VERIFY) & (decision.answer_from == VERIFY) & np.isfinite(error)
    asked = (decision.stage > SMALL) & np.isfinite(test.label)
    if not asked.any():
        return None
    right = polarity(test.label)
    turned = looked & (polarity(decision.prediction) == right) & (polarity(test.y_large) != right)
    mask, why = next(
        (mask, why)
        for mask, why in (
            (turned, "of those whose polarity the second look mended, the one whose error fell most"),
            (looked, "of those that were looked at twice, the one whose error fell most"),
            (asked, "of those that the large model was asked about, the one whose error fell most since its answer"),
        )
        if mask.any()
    )
    i = int(np.flatnonzero(mask)[np.argmax(np.nan_to_num(error[mask]))])
    return Story(decisions(study, view, [i])[0], *taus, cell.seed, why)


def decisions(study: Study, view: View, only: list[int] | None = None) -> list[dict]:
    """Each test sample's way through the first seed's cascade, as plain values; `clip` is where a page finds it."""
    cell = view.cells[0]
    test, decision = cell.test, cell.decide("cbe", view.taus[0])
    recorded = study.settings.large[view.name].recorded  # what such a model was told nobody knows
    looks = [] if recorded else looks_of(study, cell, "cbe", study.primary)
    said = {look.sample.sample_id: look.said for look in looks}
    right = metrics.per_sample(decision.prediction, view.label, view.like)["acc2"]
    again = test.y_verify.get("cbe", np.full(len(test.y), np.nan))
    rows = []
    for i in only if only is not None else range(len(test.y)):
        name, stage = test.sample_ids[i], int(decision.stage[i])
        sample = study.test[name]
        asked = stage > SMALL
        rows.append(
            {
                "id": name,
                "text": (sample.text or "")[:LONGEST] if study.settings.transcripts else "",
                "clip": _reachable(sample.clip, study.out),
                "label": _number(test.label[i]),
                "y_small": _number(test.y[i]),
                "u_small": _number(test.u["cbe"][i]),
                "y_large": _number(test.y_large[i]),
                "u_large": _number(test.u_large[i]),
                "said": said.get(name) if stage == VERIFY else None,
                "y_verify": _number(again[i]) if stage == VERIFY else None,
                "stage": STAGES[stage] if stage >= 0 else "error",
                "prediction": _number(decision.prediction[i]),
                "asked": asked,
                "wrong": bool(right[i] == 0),
            }
        )
    return rows


def _reachable(clip: str | None, out: Path) -> str | None:
    """A clip as a page in `out` names it; None of one that no browser reaches."""
    if clip is None:
        return None
    if "://" in clip:  # what stands behind a question mark may be a key
        return clip if clip.startswith(("http://", "https://")) and "?" not in clip else None
    return os.path.relpath(clip, out) if Path(clip).exists() else None


def _number(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
