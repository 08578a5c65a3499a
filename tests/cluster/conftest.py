"""Runs that tests look at, and a dataset large enough that a run over it can be killed on its way."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import write_raw
from uacs.cluster.evaluation import Models, calibrate, evaluate
from uacs.cluster.resources import Resources
from uacs.config import EvaluationSettings
from uacs.data.prepare import PrepareSettings, prepare

SAMPLES = 5000
SETTINGS = EvaluationSettings(chunk_size=16, resources=Resources(pool=1, parts_in_flight=1))


@dataclass(frozen=True)
class Many:
    """A prepared dataset, a SPEC of recorded answers to it, and a thresholds.json."""

    data: Path
    spec: str
    thresholds: Path


@pytest.fixture(scope="session")
def many(tmp_path_factory) -> Many:
    """5,000 test samples, and a large model's recorded answers to them."""
    folder = tmp_path_factory.mktemp("many")
    labels = write_raw(folder / "raw", {"test": SAMPLES}, seed=3)
    data = prepare(labels, folder / "data", PrepareSettings(dataset="mosi", audio=folder / "raw" / "audio.npz"))
    draw = np.random.default_rng(5)
    rows = [
        {"sample_id": s.sample_id, "y_large": round(s.label + draw.normal(0, 0.5), 1), "u_large": draw.uniform(0, 1)}
        | {"y_verify": s.label, "u_verify": 0.1}
        for s in data.samples("test")
    ]
    pd.DataFrame(rows).to_parquet(folder / "large.parquet")
    (folder / "thresholds.json").write_text('{"tau_small": 0.5, "tau_large": 0.5}')
    return Many(folder / "data", f"recorded:{folder / 'large.parquet'}", folder / "thresholds.json")


@pytest.fixture(scope="session")
def runs(ray_cluster, dataset, ubm, recorded, tmp_path_factory) -> Path:
    """Of one UBM: calibration, whole (everyone asked) and sparse (the unsure alone), at λ 0.3 and β 0.1; to be read."""
    out = tmp_path_factory.mktemp("runs")
    valid, test = (Models(dataset, split, ubm, f"recorded:{recorded}") for split in ("valid", "test"))
    thresholds = calibrate(valid, out / "calibration", SETTINGS, 0.3, 0.1)
    evaluate(test, thresholds, out / "whole", SETTINGS, all_stages=True)
    evaluate(test, thresholds, out / "sparse", SETTINGS)
    return out
