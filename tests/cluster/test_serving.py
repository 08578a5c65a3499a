"""The large model's Serve application: adopted if it serves the same, made anew if not, reaped if nobody has it."""

from dataclasses import replace

import pandas as pd
import pytest
import ray
from pydantic import ValidationError
from ray import serve

from serve_app import LargeArgs, build_large
from tests.cluster.chaos import wait_until
from tests.mllm.conftest import RANGE, SIZES, WORDS, dataset_of
from uacs.cascade.thresholds import Thresholds
from uacs.cluster import tally
from uacs.cluster.evaluation import Models, evaluate
from uacs.cluster.progress import Counts
from uacs.cluster.resources import Resources
from uacs.cluster.runs import Run
from uacs.cluster.serving.large import _fault, application, deploy, reap
from uacs.config import EvaluationSettings
from uacs.data.prepared import PreparedDataset
from uacs.errors import BadInput, WrongUse
from uacs.mllm import MllmSettings, Towers, build, finetuning, prompts, tiny_omni
from uacs.mllm.finetuning_settings import FinetuningSettings, Training
from uacs.records import Sample

pytestmark = pytest.mark.usefixtures("ray_cluster")
PLAN = Resources()


def replicas(app):
    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    return {name for name in names if name.startswith(f"SERVE_REPLICA::{app}#")}


def bring_up(app, recorded, plan=PLAN):
    return deploy(app, f"recorded:{recorded}", MllmSettings(), (-3.0, 3.0), "en", plan)


def test_what_a_killed_driver_left_is_adopted_if_it_serves_the_same(recorded, tmp_path):
    app = tally.name_of("left")
    assert bring_up(app, recorded) == app
    first = replicas(app)
    bring_up(app, recorded)
    assert replicas(app) == first and len(first) == 1
    others = pd.read_parquet(recorded).iloc[:10]
    others.to_parquet(tmp_path / "others.parquet")
    bring_up(app, tmp_path / "others.parquet")
    wait_until(lambda: len(replicas(app)) == 1 and not replicas(app) & first)  # the old one goes by and by
    bring_up(app, tmp_path / "others.parquet", plan=Resources(replicas=2))
    wait_until(lambda: len(replicas(app)) == 2)
    serve.delete(app)


def test_an_application_that_stays_is_asked_by_whom_it_serves_and_left_alone(recorded, dataset, ubm, tmp_path):
    args = LargeArgs(mllm=f"recorded:{recorded}", like="mosi", replicas="1-2")
    serve.run(build_large(args), name="large-model", route_prefix=None)
    up = replicas("large-model")
    assert bring_up(tally.name_of("run"), recorded) == "large-model"
    assert deploy(tally.name_of("zh"), args.mllm, MllmSettings(), (-1.0, 1.0), "zh", PLAN) == tally.name_of("zh")
    serve.delete(tally.name_of("zh"))
    models = Models(dataset, "test", ubm, f"recorded:{recorded}")
    summary = evaluate(models, Thresholds(tau_small=0.5, tau_large=0.5), tmp_path / "run", EvaluationSettings())
    assert summary["n"] == 600 and summary["degraded"] == 0
    assert replicas("large-model") == up
    assert serve.status().applications.keys() >= {"large-model"}
    serve.delete("large-model")


def test_the_application_is_told_what_there_is(recorded, tmp_path):
    with pytest.raises(ValidationError, match="replics"):
        LargeArgs(mllm="x", like="mosi", replics=2)
    with pytest.raises(WrongUse, match="mosi"):
        build_large(LargeArgs(mllm=f"recorded:{recorded}", like="imdb"))
    with pytest.raises(BadInput, match="no such file"):
        build_large(LargeArgs(mllm=f"recorded:{tmp_path / 'x.parquet'}", like="mosi"))


def test_only_what_has_no_driver_is_reaped(recorded):
    kept, orphan, theirs = tally.name_of("kept"), tally.name_of("orphan"), "somebody-elses"
    counter = tally.take("kept", 10, Counts(), 2)
    verifier = tally.verifier_of("kept")
    for app in (kept, verifier, orphan, theirs):
        bring_up(app, recorded)
    assert reap() == [orphan]
    assert {kept, verifier, theirs} <= serve.status().applications.keys()
    assert orphan not in serve.status().applications
    ray.kill(counter)
    for app in (kept, verifier, theirs):
        serve.delete(app)


def test_a_model_that_cannot_load_is_said(tmp_path):
    app, folder = tally.name_of("broken"), tmp_path / "mllm"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen2_5_omni_thinker"}')
    with pytest.raises(BadInput, match=str(folder)):
        deploy(app, str(folder), MllmSettings(), (-3.0, 3.0), "en", PLAN)
    assert _fault(app)
    serve.delete(app)


def test_a_tower_named_from_here_is_found_by_a_replica_elsewhere(recorded, tmp_path, monkeypatch):
    (tmp_path / "bert").mkdir()
    monkeypatch.chdir(tmp_path)
    named = MllmSettings(towers=Towers(gate="bert", vision="hub/id"))
    bound = application(f"recorded:{recorded}", named, (-3.0, 3.0), "en", PLAN)
    towers = bound._bound_deployment.init_args[1]["towers"]
    assert towers == {"vision": "hub/id", "audio": None, "gate": str(tmp_path / "bert")}


@pytest.mark.cluster
def test_replicas_of_one_base_answer_each_dataset_by_its_own_adapter(ubm, tmp_path):
    words = [Sample(f"s{i}", text=WORDS[i % 5], label=float(i % 5 - 2), split="test") for i in range(20)]
    tiny_omni.create(tmp_path / "base", WORDS, prompts.phrases(RANGE), SIZES)
    settings = FinetuningSettings(rank=2, alpha=64, lr=0.05, epochs=12, batch_size=20, validations=1, head="joint")
    folders = {}
    for name, sign in (("mosi", 1), ("other", -1)):
        (tmp_path / name).mkdir()
        told = [replace(sample, label=sign * sample.label) for sample in words]
        data = dataset_of(tmp_path / name, {"train": told, "valid": told, "test": told}, name)
        folders[name] = tmp_path / f"for-{name}"
        finetuning.train(Training(data, str(tmp_path / "base"), settings, folders[name]))
    asked = MllmSettings(readout="head", adapters=[*map(str, folders.values())])
    app = deploy("experts", str(tmp_path / "base"), asked, RANGE, "en", PLAN)
    up, answers = replicas(app), {}
    for name in folders:
        models = Models(PreparedDataset(tmp_path / name), "test", ubm, str(tmp_path / "base"))
        evaluate(
            models, Thresholds(tau_small=-1, tau_large=9), tmp_path / f"run-{name}", EvaluationSettings(mllm=asked)
        )
        table = Run.open(tmp_path / f"run-{name}").table()
        alone = build(str(folders[name]), MllmSettings(readout="head"), RANGE)
        expected = {s.sample_id: o.y for s, o in zip(words, alone.answer(words), strict=True)}
        found = dict(zip(table["sample_id"].to_pylist(), table["y_large"].to_pylist(), strict=True))
        assert found == pytest.approx(expected, abs=1e-5)
        answers[name] = found
    assert replicas(app) == up  # both asked the one that stood
    assert max(abs(answers["mosi"][i] - answers["other"][i]) for i in expected) > 0.5
    serve.delete(app)
