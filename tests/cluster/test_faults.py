"""A raw dataset with a fault of each kind, all the way: every fault is one row, and no other row knows of it."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uacs import fingerprints
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.evaluation import Models, evaluate
from uacs.cluster.resources import Resources
from uacs.cluster.runs import Run
from uacs.config import EvaluationSettings
from uacs.data.prepare import PrepareSettings, prepare
from uacs.data.prepared import PreparedDataset
from uacs.ubm.predictor import SmallPredictor

pytestmark = pytest.mark.usefixtures("ray_cluster")

SECONDS = ["seconds_small", "seconds_large", "seconds_verify"]
SETTINGS = EvaluationSettings(chunk_size=16, resources=Resources(pool=1, parts_in_flight=1))

ERRORS = {
    "wide": ({"audio": [[1.0] * 5]}, "audio is (1, 5), the UBM reads (steps, 3)"),
    "nothing": ({"text": b" ", "audio": None}, "nothing the UBM reads; give it text or audio features"),
    "nothing-left": ({"text": b"", "audio": [[np.nan] * 3]}, "nothing the UBM reads; give it text or audio features"),
}
"""Samples that nobody can answer: what is changed of a good one, and what its row says."""

MENDED = {
    "nan": ({"audio": [[1.0, np.nan, 3.0]]}, "1 of 3 numbers of audio are NaN or infinite; kept without audio"),
    "inf": ({"audio": [[1.0, np.inf, 3.0]]}, "1 of 3 numbers of audio are NaN or infinite; kept without audio"),
    "no-steps": ({"audio": []}, "audio has 0 steps; kept without audio"),
    "no-text": ({"text": b""}, "text is empty; taken as missing"),
    "long": ({"text": b"great " * 10_000}, "text has 59999 characters; the models read at most the first 10000"),
    "half": ({"text": b"great \xed\xa0\x80 film"}, "text has halves of characters; joined, or U+FFFD stands there"),
    "no-clip": ({"clip": "gone.mp4"}, "not a clip that decodes (No such file or directory)"),
    "word": ({"label": b"positive"}, "label 'positive' is not a number; kept without a label"),
    "beyond": ({"label": b"9.5"}, "label 9.5 lies outside [-3, 3]; kept without a label"),
}
"""Samples that are answered all the same: what is changed of a good one, and the note on it."""


@pytest.fixture(scope="module")
def faulty(dataset, tmp_path_factory):
    """400 good test samples in two parts with the faulty ones among them, prepared from a Parquet table."""
    folder = tmp_path_factory.mktemp("faulty")
    rows = [
        {"id": s.sample_id, "text": s.text.encode(), "label": str(s.label).encode(), "audio": s.audio.tolist()}
        for s in list(dataset.samples("test"))[:400]
    ]
    changes = {name: change for name, (change, _) in (ERRORS | MENDED).items()}
    for i, (name, change) in enumerate(changes.items()):
        rows.insert(25 * i, rows[25 * i] | change | {"id": name})
    audio = pa.array([row["audio"] for row in rows], pa.list_(pa.list_(pa.float32())))
    texts = {name: pa.array([row[name] for row in rows]).view(pa.string()) for name in ("text", "label")}
    clips = pa.array([row.get("clip") for row in rows], pa.string())
    pq.write_table(
        pa.table({"id": [row["id"] for row in rows], "audio": audio, "clip": clips} | texts), folder / "raw.parquet"
    )
    settings = PrepareSettings(dataset="mosi", extractor="audio", processes=1)
    return prepare(folder / "raw.parquet", folder / "data", settings)


@pytest.fixture(scope="module")
def answers(recorded, tmp_path_factory):
    """The recorded large model with answers for the faulty samples too."""
    known = pd.read_parquet(recorded)
    more = known.iloc[-len(ERRORS | MENDED) :].assign(sample_id=list(ERRORS | MENDED))
    path = tmp_path_factory.mktemp("answers") / "large.parquet"
    pd.concat([known, more]).to_parquet(path)
    return f"recorded:{path}"


@pytest.fixture(scope="module")
def outcomes(ray_cluster, faulty, ubm, answers, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "with"
    summary = evaluated(faulty, ubm, answers, out)
    return summary, Run.open(out).table()


def evaluated(data, ubm, answers, out):
    u = [output.u for output in SmallPredictor(ubm).predict(list(data.samples("test"))) if not output.error]
    thresholds = Thresholds(tau_small=float(np.median(u)), tau_large=0.3)
    return evaluate(Models(data, "test", ubm, answers), thresholds, out, SETTINGS)


def without(data, ids, folder):
    """The same prepared parts, those samples taken out."""
    shutil.copytree(data.folder, folder)
    description = json.loads((folder / "dataset.json").read_text())
    for name, part in description["parts"].items():
        table = pq.read_table(folder / name)
        table = table.filter(pa.array([sample_id not in ids for sample_id in table["sample_id"].to_pylist()]))
        pq.write_table(table, folder / name)
        part |= {"rows": table.num_rows, "sha256": fingerprints.whole(folder / name)}
    (folder / "dataset.json").write_text(json.dumps(description))
    return PreparedDataset(folder)


def test_every_fault_is_one_row_or_one_note_that_names_its_sample(faulty, outcomes):
    _, table = outcomes
    rows = table.to_pylist()
    assert len(rows) == len({row["sample_id"] for row in rows}) == 400 + len(ERRORS) + len(MENDED)
    failed = {row["sample_id"]: row for row in rows if row["status"] != "ok"}
    assert failed.keys() == ERRORS.keys()
    for name, (_, said) in ERRORS.items():
        assert failed[name]["status"] == "error" and failed[name]["prediction"] is None
        assert f"sample '{name}': {said}" in failed[name]["error"]
    for name, (_, said) in MENDED.items():
        notes = [note for note in faulty.info.notes if note.startswith(f"sample '{name}': ")]
        assert len(notes) == 1 and said in notes[0], notes


def test_what_was_mended_is_answered_and_scored_only_by_a_label(outcomes):
    summary, table = outcomes
    rows = {row["sample_id"]: row for row in table.to_pylist()}
    assert all(np.isfinite(rows[name]["prediction"]) for name in MENDED)
    assert [name for name in MENDED if rows[name]["label"] is None] == ["word", "beyond"]
    everyone = 400 + len(ERRORS) + len(MENDED)
    assert (summary["n"], summary["errors"]) == (everyone, len(ERRORS))
    assert summary["metrics"]["uacs"]["n"] == everyone - len(ERRORS) - 2


def test_every_other_row_is_bit_equal_to_that_of_a_run_without_the_faulty(faulty, ubm, answers, outcomes, tmp_path):
    clean = without(faulty, ERRORS, tmp_path / "data")
    assert clean.rows("test") == faulty.rows("test") - len(ERRORS)
    summary = evaluated(clean, ubm, answers, tmp_path / "run")
    theirs = Run.open(tmp_path / "run").table().drop_columns(SECONDS)
    ours = outcomes[1].drop_columns(SECONDS)
    ours = ours.filter(pa.array([sample_id not in ERRORS for sample_id in ours["sample_id"].to_pylist()]))
    assert ours.equals(theirs)
    assert len(set(ours["stage"].to_pylist())) == 4
    assert summary["metrics"]["uacs"] == outcomes[0]["metrics"]["uacs"]
