"""Raw clips on a real Ray: decoded once, the same answers as from the prepared form, and none lost."""

import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from ray.data._internal.logical.optimizers import get_execution_plan

from uacs import mllm
from uacs.cascade.outcomes import column
from uacs.cascade.thresholds import Thresholds
from uacs.cluster import clips
from uacs.cluster.clips import Look
from uacs.cluster.evaluation import Models, evaluate
from uacs.cluster.pipeline import Ask, Work, pipeline
from uacs.cluster.resources import Resources
from uacs.cluster.runs import Run
from uacs.config import EvaluationSettings
from uacs.data import media, speech
from uacs.data.clips import ClipSettings
from uacs.data.extract import BASIC
from uacs.data.prepare import PrepareSettings, open_dataset, prepare
from uacs.data.prepared import PreparedDataset
from uacs.demo import MLLM
from uacs.errors import Refused
from uacs.mllm import MllmSettings
from uacs.mllm.chunk import Chunk, answer_chunk
from uacs.records import Sample

pytestmark = pytest.mark.usefixtures("ray_cluster")

SETTINGS = EvaluationSettings(mllm=MLLM, chunk_size=16, resources=Resources(pool=1), max_errors="20%")
TOLD = PrepareSettings(dataset="demo", like="mosi")
NUMBERS = ["y_small", "u_small", "y_large", "u_large", "y_verify", "u_verify", "prediction"]
TEXTS = ["sample_id", "stage", "answer_from", "status", "large_status", "verify_status", "error"]


@pytest.fixture(scope="module")
def corpus(tiny_demo, tmp_path_factory):
    """The demo's, with clips that are cut short, are no clips or are gone."""
    folder = tmp_path_factory.mktemp("raw") / "corpus"
    shutil.copytree(tiny_demo[0] / "corpus", folder)
    whole = sorted(folder.glob("Raw/test*/*.mp4"))
    for clip in whole[:4]:
        clip.write_bytes(clip.read_bytes()[:700])
    whole[4].write_bytes(b"no clip at all\n")
    whole[5].write_bytes(b"")
    labels = pd.read_csv(folder / "label.csv", dtype=str)
    silent = (labels["video_id"] == whole[0].parent.name) & (labels["clip_id"] == whole[0].stem)
    labels.loc[silent, "text"] = ""
    labels.to_csv(folder / "label.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def outcomes(tiny_demo, corpus, tmp_path_factory):
    """A run over the raw clips and one over what was prepared of them."""
    out = tmp_path_factory.mktemp("out")
    demo = tiny_demo[0]
    thresholds = Thresholds.load(demo / "calibration" / "thresholds.json")
    prepared = prepare(corpus, out / "data", TOLD)
    raw = open_dataset(corpus, out / "raw", TOLD, later=True)
    assert raw.info.later == {"audio": BASIC, "vision": BASIC} and next(raw.samples("test")).vision is None
    for name, dataset in (("raw", raw), ("prepared", prepared)):
        models = Models(dataset, "test", demo / "ubm", str(demo / "mllm"))
        evaluate(models, thresholds, out / name, SETTINGS)
    return {name: Run.open(out / name).table() for name in ("raw", "prepared")}


def test_raw_clips_and_what_was_prepared_of_them_come_to_the_same(outcomes):
    raw, prepared = outcomes["raw"], outcomes["prepared"]
    for name in TEXTS:
        assert raw[name].to_pylist() == prepared[name].to_pylist()
    for name in NUMBERS:
        np.testing.assert_allclose(column(raw, name), column(prepared, name), atol=1e-5)
    assert len(set(raw["stage"].to_pylist())) > 1


def test_a_clip_that_does_not_decode_costs_its_sample_the_clip_and_says_so(outcomes):
    rows = outcomes["raw"].to_pylist()
    faulty = [row for row in rows if "not a clip that decodes" in (row["error"] or "")]
    assert len(faulty) == 6
    assert [row["sample_id"] for row in faulty if row["status"] == "error"] == ["test000_0"]
    accepted = [row["error"] for row in faulty if row["stage"] == "small"]
    assert accepted and all(error.endswith("; answered without it") for error in accepted)
    asked = [row for row in faulty if row["stage"] == "large"]
    assert asked and all((row["status"], row["large_status"]) == ("degraded", "unavailable") for row in asked)


def test_what_is_said_is_written_down_on_the_way_as_beforehand(tiny_demo, recogniser, tmp_path):
    demo, folder = tiny_demo[0], tmp_path / "clips"
    folder.mkdir()
    for clip in sorted((demo / "corpus" / "Raw").glob("test000/*.mp4")):
        shutil.copy(clip, folder)
    listening = ClipSettings(speech=recogniser)
    prepared = prepare(folder, tmp_path / "data", TOLD.model_copy(update={"decoding": listening}))
    assert all(sample.text for sample in prepared.samples("test") if sample.audio is not None)
    raw = open_dataset(folder, tmp_path, TOLD, later=True)
    thresholds, tables = Thresholds.load(demo / "calibration" / "thresholds.json"), []
    models = Models(prepared, "test", demo / "ubm", str(demo / "mllm"))
    for name, dataset, decoding in (("prepared", prepared, ClipSettings()), ("raw", raw, listening)):
        settings = SETTINGS.model_copy(update={"decoding": decoding, "max_errors": "100%"})
        evaluate(replace(models, dataset=dataset), thresholds, tmp_path / name, settings, all_stages=True)
        tables.append(Run.open(tmp_path / name).table())
    for name in NUMBERS:
        np.testing.assert_allclose(*(column(table, name) for table in tables), atol=1e-5)
    assert Run.open(tmp_path / "raw").manifest["identity"]["speech"] == speech.identity(recogniser)
    with pytest.raises(Refused, match="decoding.speech is not asked; `uacs prepare --speech`"):
        evaluate(models, thresholds, tmp_path / "other", settings)


@pytest.fixture
def look():
    return Look(2, {"audio": BASIC, "vision": BASIC}, ClipSettings().limits, None, None, tasks=1, cpus=0.5, chunks=2)


def test_what_was_decoded_for_the_small_model_is_what_the_large_one_sees(tiny_demo, look, tmp_path):
    model = mllm.build(str(tiny_demo[0] / "mllm"), MllmSettings(**MLLM), (-3.0, 3.0))
    prepared = list(PreparedDataset(tiny_demo[0] / "data").samples("test"))
    sample, wanted = next(both for both in zip(prepared, model.answer(prepared), strict=True) if both[1].status == "ok")
    sample = Sample("a", sample.text, clip=str(shutil.copy(sample.clip, tmp_path / "clip.mp4")))
    (seen,) = clips.looked_at([sample], look)
    assert seen.audio.shape[1] == 1 and seen.vision.shape[1] == 3 and len(seen.footage.frames) == 2
    (tmp_path / "clip.mp4").unlink()
    asked = clips.filmed(lambda chunks: [answer_chunk(model, chunk) for chunk in chunks], look)
    (answer,) = asked([Chunk([seen], [], math.nan, "never")])
    assert answer.large[0].y == wanted.y and answer.large[0].u == pytest.approx(wanted.u, abs=1e-5)
    assert answer_chunk(model, Chunk([replace(seen, text=None, footage=None)], [], math.nan, "never")).large[0].error


def test_the_clip_that_a_worker_dies_over_is_found_and_costs_itself(look, monkeypatch):
    def dies(samples, look):
        if any(sample.clip == "bad.mp4" for sample in samples):
            os._exit(1)
        return [replace(sample, footage=media.undecodable("looked at")) for sample in samples]

    monkeypatch.setattr(clips, "looked_at", dies)
    names = ["a.mp4", "b.mp4", "bad.mp4", None, "c.mp4"]
    looked = clips.by_task([Sample(str(i), text="so", clip=name) for i, name in enumerate(names)], look)
    faults = [sample.footage and sample.footage.fault for sample in looked]
    assert faults[2].startswith("bad.mp4: the worker died over it")
    assert [fault for i, fault in enumerate(faults) if i not in (2, 3)] == ["looked at"] * 3


def test_frames_beyond_what_a_task_may_keep_are_decoded_again(tiny_demo, look, monkeypatch):
    monkeypatch.setattr(clips, "MOST", 30_000)  # two frames of 56 x 56 and a second of sound are more
    samples = [replace(s, audio=None, vision=None) for s in PreparedDataset(tiny_demo[0] / "data").samples("test")][:3]
    seen = clips.looked_at(samples, look)
    assert all(sample.vision is not None and sample.footage is None for sample in seen if sample.clip)
    assert all(sample.footage for sample in clips.by_task(seen, replace(look, extract={})) if sample.clip)


def test_looking_at_clips_is_a_stage_of_its_own(look):
    work = Work("data", "demo", "en", "ubm", "out", ["app"], Ask(0.5, 0.5, False, "due"), look, None, 64, 32, 1)
    stage = get_execution_plan(pipeline(["a", "b", "c"], work, Resources())._logical_plan)[0].dag
    names = []
    while stage.input_dependencies:
        names.append(stage.name)
        (stage,) = stage.input_dependencies
    assert names == ["MapBatches(LargeStage)", "MapBatches(SmallStage)", "MapBatches(read_and_looked_at)"]


def test_what_is_no_clip_s_fault_ends_the_run(look, monkeypatch):
    monkeypatch.setattr(clips, "looked_at", lambda samples, look: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        clips.by_task([Sample("a", clip="a.mp4")], look)
