"""The doctor: tries what it is shown, finds what is wrong with it, and exits so."""

import re
import shutil

import pytest

from tests.mmsa_files import write_pickle
from uacs.config import EvaluationSettings, evaluation_settings
from uacs.doctor import _cpu_budget, examine
from uacs.mllm import prompts, tiny_native, training
from uacs.records import Sample

pytestmark = pytest.mark.usefixtures("ray_cluster")


def findings(*arguments, settings=None):
    """What was found about what was named, by verdict; the machine has moods of its own."""
    found = list(examine(settings or EvaluationSettings(), *arguments))
    said = {verdict: "\n".join(f.what for f in found if f.verdict == verdict) for verdict in ("ok", "warn", "fail")}
    said["warn"] = "\n".join(line for line in said["warn"].splitlines() if not line.startswith("machine"))
    return said


def test_what_is_sound_is_said_to_be(dataset, ubm, recorded):
    said = findings(str(dataset.folder), ubm, f"recorded:{recorded}")
    assert said["fail"] == said["warn"] == ""
    assert "test: 600 samples; 600 with label, 600 with text, 600 with audio, 0 with vision, 0 with clip" in said["ok"]
    assert "ubm: it answers 8 samples" in said["ok"]
    assert "it has answers for 600 of 600 samples of split test" in said["ok"]
    assert "the plan fits: 2 actors of the UBM" in said["ok"]


def test_what_is_not_is_found_and_does_not_hide_the_rest(dataset, ubm, recorded, tmp_path):
    data = shutil.copytree(dataset.folder, tmp_path / "data")
    part = data / "valid-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    broken = shutil.copytree(ubm, tmp_path / "ubm")
    (broken / "model.safetensors").unlink()
    wanted = evaluation_settings(overrides=("resources.pool=400",))
    said = findings(str(data), broken, "recorded:nowhere.parquet", settings=wanted)["fail"]
    assert "ray: the plan needs" in said
    assert "data: valid-00000.parquet is not the file that dataset.json describes" in said
    assert "not a whole UBM" in said
    assert "nowhere.parquet: no such file" in said


def test_more_threads_than_cpus_are_a_warning():
    busy = evaluation_settings(overrides=("threads=64",))
    assert _cpu_budget(busy).verdict == "warn"
    assert _cpu_budget(evaluation_settings(overrides=("resources.pool_gpus=0.1", "mllm.threads=1"))).verdict == "ok"


def test_raw_data_is_read_to_its_end(tmp_path):
    samples = [Sample(f"v_{i}", "fine", label=3.0 if i < 9 else 3.5, split="test") for i in range(10)]
    path = write_pickle(tmp_path / "mosi.pkl", {"test": samples[:9]}, {})
    assert "all of its 9 samples can be read" in findings(str(path), None, None)["ok"]
    path = write_pickle(tmp_path / "mosi.pkl", {"test": samples}, {})
    assert "sample 'v_9': label 3.5 lies outside" in findings(str(path), None, None)["warn"]
    path = write_pickle(tmp_path / "mosi.pkl", {"test": [*samples, samples[0]]}, {})
    assert "sample 'v_0': stands in split 'test' already" in findings(str(path), None, None)["fail"]


def test_features_that_the_ubm_was_not_trained_on_are_found(dataset, ubm, tmp_path):
    data = shutil.copytree(dataset.folder, tmp_path / "data")
    description = (data / "dataset.json").read_text().replace('"extractor": "audio"', '"extractor": "other"')
    (data / "dataset.json").write_text(description)
    assert "audio features of 'other'" in findings(str(data), ubm, None)["fail"]


def test_the_commands_exit_code_tells(uacs, dataset, tmp_path):
    code, said, _ = uacs("doctor", "--data", dataset.folder)
    assert code == 0 and "ok    ray: " in said
    code, said, _ = uacs("doctor", "--data", tmp_path / "nowhere")
    assert code == 1 and "fail  data: " in said


@pytest.fixture(scope="module")
def humanomni(tmp_path_factory):
    """A tiny HumanOmni that has learnt one answer, so that it gives it to anything."""
    folder = tmp_path_factory.mktemp("humanomni")
    sizes = tiny_native.TinySettings(width=32, layers=1, tower_width=32, tower_layers=1)
    tiny_native.create_humanomni(folder / "start", ["so so"], prompts.phrases((-3.0, 3.0)), sizes)
    settings = training.TrainingSettings(epochs=10, batch_size=8, lr=1e-2, warmup_steps=1, threads=1)
    training.train(folder / "start", [Sample("s", "so so", label=1.2)] * 16, folder / "model", settings, (-3.0, 3.0))
    return folder / "model"


def test_what_a_checkpoint_turned_out_to_be_is_told_and_it_is_asked_about_a_clip(humanomni):
    said = findings(None, None, str(humanomni))
    assert said["fail"] == said["warn"] == ""
    for told in (
        f"mllm: {humanomni} is loaded in",
        "weights mapped, none missing",
        "towers: vision from the checkpoint; gate from the checkpoint; audio from the checkpoint",
        "frames: 2, stretched to a square, by the settings of its preprocessor_config.json",
        "the answer -1.4 is '-' '1' '.' '4', ids [",
        "a turn ends with <|im_end|>",
        "positions of a sample: text alone",
        "keys and values: ",
        "mllm: it answers 1 of 1 samples",
    ):
        assert told in said["ok"], told


def test_a_checkpoint_that_cannot_answer_fails(humanomni, uacs, tmp_path):
    start = shutil.copytree(humanomni.parent / "start", tmp_path / "start")
    code, said, _ = uacs("doctor", "--mllm", start)
    assert code == 1
    assert re.search(r"^fail  mllm: sample 'doctor': unparsable: .* answered .* is not one number", said, re.MULTILINE)
    weights = start / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    code, said, _ = uacs("doctor", "--mllm", start)
    assert code == 1 and "model.safetensors: not a whole safetensors file" in said
    assert "Traceback" not in said
