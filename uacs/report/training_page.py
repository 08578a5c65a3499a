"""report.html of an adapter's training: which step was kept and what it is worth, the curves, what made it."""

import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape

from uacs.console import duration
from uacs.mllm import MllmSettings
from uacs.report import training_figures as figures
from uacs.report.search_figures import title
from uacs.report.search_page import amount
from uacs.report.text import number

SHOWN_NOTES = 20
NOT_OF_ANSWERS = {"adapters", "batch_gib", "batch_size", "device", "threads"}
"""Settings of a large model that say with what it answers, and how fast."""
NAMES = {
    "base_fingerprint": "base's fingerprint",
    "like": "scored as",
    "score_range": "scores",
    "readout": "read-out",
    "prompts": "version of prompts",
    "hints": "earlier answers told in",
    "second_looks": "learnt second looks",
    "data": "checksums",
}
"""Entries of uacs_adapter.json whose own names say too little."""


def page(record: Mapping, manifest: Mapping) -> str:
    """report.html of a finished training, of what training.json and uacs_adapter.json hold.

    A loss or metric that is NaN is a gap in its curve and "-" in a table.
    """
    steps, looks, kept = record["steps"], record["validations"], record["best"]
    positions, seconds = _column(steps, "positions"), _column(steps, "seconds")
    padding = _column(steps, "padding")
    environment = Environment(loader=PackageLoader("uacs.report"), autoescape=select_autoescape(), trim_blocks=True)
    return environment.get_template("training_page.html").render(
        title=f"Adapter over {_short(record['base'])} on {record['dataset']}",
        record=record,
        kept=kept,
        judge=title(record["settings"]["best_by"]),
        ever_unanswered=any(look["unanswered"] for look in looks),
        seconds={"training": seconds.sum(), "validation": _column(looks, "seconds").sum()},
        speed=positions.sum() / seconds.sum() if seconds.sum() else math.nan,
        padding=padding,
        padded=_padded(positions, padding),
        learning=figures.learning(_column(steps, "step"), _column(steps, "loss"), _column(steps, "lr"), kept["step"]),
        validation=figures.validation(
            _column(looks, "step"),
            _column(looks, "mae"),
            _column(looks, "acc2"),
            _column(looks, "unanswered"),
            asked=record["samples"]["valid"],
            kept=kept["step"],
            last=steps[-1]["step"],
        ),
        throughput=figures.throughput(_column(steps, "step"), _ratio(positions, seconds), kept["step"]),
        settings=dict(_flat(record["settings"])),
        manifest={NAMES.get(name, name): value for name, value in manifest.items() if name != "format"},
        sets=_sets(record["settings"]["mllm"]),
        notes=record["notes"][:SHOWN_NOTES],
        further=max(0, len(record["notes"]) - SHOWN_NOTES),
        number=lambda name, value: number(name, _known(value)),
        amount=lambda name, value: amount(name, _known(value)),
        lasting=_lasting,
        plain=plain,
    )


def plain(value: object) -> str:
    """A setting's value as a person would write it.

    >>> plain(2e-5), plain([0.9, 0.999]), plain(False), plain(None), plain(()), plain({"train": "ab", "valid": "cd"})
    ('2e-5', '0.9, 0.999', 'no', '-', '-', 'train ab, valid cd')
    """
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return figures.short(value)
        case list() | tuple():
            return ", ".join(map(plain, value)) or "-"
        case Mapping():
            return ", ".join(f"{name} {plain(part)}" for name, part in value.items()) or "-"
    return "-" if value is None else str(value)


def _short(base: str) -> str:
    """A checkpoint's name: the hub's, or its folder's own without the way there."""
    return Path(base).name if Path(base).is_absolute() else base


def _column(rows: list[dict], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _padded(positions: np.ndarray, padding: np.ndarray) -> float:
    """The share of padding in all that was computed, of each step's own; NaN if that was nothing."""
    computed = np.nansum(_ratio(positions, 1 - padding))
    return float(1 - positions.sum() / computed) if computed else math.nan


def _flat(settings: Mapping, within: str = "") -> Iterator[tuple[str, object]]:
    """Settings by the names that `--set` takes."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{within}{name}.")
        else:
            yield within + name, value


def _sets(settings: Mapping) -> str:
    """The `--set` of what the adapter's answers depend on, where it was trained with other than the defaults."""
    usual = dict(_flat(MllmSettings().model_dump()))
    chosen = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in _flat(settings)
        if value != usual.get(name) and name not in NOT_OF_ANSWERS
    }
    return " ".join(f"--set {shlex.quote(f'mllm.{name}={value}')}" for name, value in chosen.items())


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _lasting(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
