"""label.csv as MMSA ships it: `video_id, clip_id, text, label, mode`, clips under Raw/video_id/clip_id.mp4.

A sample's id is `video_id` and `clip_id` joined by an underscore. Further columns are passed over.
"""

import math
from pathlib import Path

import pandas as pd

from uacs.data.prepared import SPLITS
from uacs.errors import BadInput
from uacs.records import Sample

COLUMNS = ("video_id", "clip_id", "text", "label", "mode")


def read_labels(path: Path, score_range: tuple[float, float], clips: Path | None = None) -> list[Sample]:
    """The samples of a label.csv, without features; `clip` is set where the footage lies under `clips`.

    An empty label is none. Raises `BadInput` naming file, line and sample for whatever is not as it must be.
    """
    table = _read(path)
    samples: list[Sample] = []
    seen: dict[str, int] = {}
    for line, row in enumerate(table.itertuples(index=False), start=2):
        sample_id = f"{row.video_id}_{row.clip_id}"
        where = f"{path}, line {line}, sample '{sample_id}'"
        if sample_id in seen:
            raise BadInput(f"{where}: stands in line {seen[sample_id]} already; keep one row for each clip")
        seen[sample_id] = line
        if row.mode not in SPLITS:
            raise BadInput(f"{where}: mode '{row.mode}' is not one of {', '.join(SPLITS)}")
        clip = clips / row.video_id / f"{row.clip_id}.mp4" if clips else None
        samples.append(
            Sample(
                sample_id=sample_id,
                text=row.text.strip() or None,
                clip=str(clip) if clip and clip.is_file() else None,
                label=_label(row.label, score_range, where),
                split=row.mode,
            )
        )
    if not samples:
        raise BadInput(f"{path}: no rows below the header; nothing to prepare")
    return samples


def _read(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; name a label.csv or the folder that holds it") from None
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise BadInput(f"{path}: not a CSV file in UTF-8 ({error})") from None
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise BadInput(f"{path}: no column {', '.join(missing)}; it has {', '.join(table.columns)}")
    return table


def _label(text: str, score_range: tuple[float, float], where: str) -> float | None:
    if not text.strip():
        return None
    low, high = score_range
    try:
        label = float(text)
    except ValueError:
        raise BadInput(f"{where}: label '{text}' is not a number; write a score or leave it empty") from None
    if not (math.isfinite(label) and low <= label <= high):
        raise BadInput(f"{where}: label {text} lies outside [{low:g}, {high:g}]; is --dataset right?")
    return label
