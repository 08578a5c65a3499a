"""An adapter is peft's own, belongs to its base, and answers beside others over the same weights."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tests.mllm.conftest import RANGE, close
from uacs import mllm
from uacs.errors import BadInput
from uacs.mllm import MllmSettings, adapters, lora
from uacs.mllm.chunk import Chunk, answer_chunk
from uacs.mllm.predictor import LargePredictor, Loaded
from uacs.records import SmallOutput

FAMILIES = ["qwen2_5_omni", "humanomni", "videollama2"]
ASKED = MllmSettings(frames=2, threads=1)


def answered(spec, samples, dataset="demo", **settings):
    return mllm.build(str(spec), ASKED.model_copy(update=settings), RANGE, "en", dataset).answer(samples)


@pytest.fixture
def copy(adapter_of, tmp_path):
    """A copy of an adapter to spoil, and a function that changes its manifest."""
    folder = shutil.copytree(adapter_of("qwen2_5_omni"), tmp_path / "adapter")

    def change(**fields):
        made = adapters.manifest(folder).model_copy(update=fields)
        (folder / adapters.MANIFEST).write_text(made.model_dump_json())
        return folder

    return change


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_decoder_s_projections_are_adapted(adapter_of, trained_of, family):
    names = {name.split(".lora_")[0] for name in load_file(adapter_of(family) / adapters.WEIGHTS)}
    decoder = {"qwen2_5_omni": "model.language_model"}.get(family, "llm.model")
    kinds = [f"self_attn.{k}_proj" for k in "qkvo"] + [f"mlp.{k}_proj" for k in ("gate", "up", "down")]
    assert names == {f"base_model.model.{decoder}.layers.0.{kind}" for kind in kinds}


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_reads_what_we_wrote_and_answers_as_we_do(adapter_of, trained_of, samples, family):
    ours = mllm.build(str(adapter_of(family)), ASKED, RANGE, "en", "demo")
    theirs = mllm.build(str(trained_of(family)), ASKED, RANGE)
    before = theirs.answer(samples[:10])
    PeftModel.from_pretrained(theirs.model, adapter_of(family))  # in place
    after = theirs.answer(samples[:10])
    assert close(after, ours.answer(samples[:10])) and not close(after, before)


def test_an_adapter_is_its_base_and_itself_however_it_is_named(adapter_of, trained, samples):
    adapter = adapter_of("qwen2_5_omni")
    over = answered(trained, samples, adapters=[str(adapter)])
    assert close(over, answered(adapter, samples))
    assert not close(over, answered(trained, samples))
    named = [
        mllm.identity(spec, ASKED.model_copy(update={"adapters": folders}), "en", RANGE, "demo")
        for spec, folders in ((str(adapter), []), (str(trained), [str(adapter)]))
    ]
    alone = mllm.identity(str(trained), ASKED, "en", RANGE, "demo")
    assert named[0] == named[1] and named[0] | {"mllm": alone["mllm"]} == alone and named[0] != alone


def test_adapters_of_one_replica_answer_each_for_its_own_dataset(adapter_of, trained, copy, samples):
    first, second = adapter_of("qwen2_5_omni"), copy(dataset="other")
    weights = {n: -w if "lora_B" in n else w for n, w in load_file(first / adapters.WEIGHTS).items()}
    save_file(weights, second / adapters.WEIGHTS)
    both = ASKED.model_copy(update={"adapters": [str(first), str(second)]})
    models = mllm.build_each(str(trained), both, RANGE, "en")
    alone = {"demo": answered(first, samples[:12]), "other": answered(second, samples[:12], "other")}
    assert not close(alone["demo"], alone["other"])
    assert models["demo"].model is models["other"].model
    small = [SmallOutput(0.5, 0.5, (0.2, 0.3, 0.5))] * 12
    for dataset in ("demo", "other", "demo"):
        chunk = Chunk(samples[:12], small, float("nan"), "never", dataset=dataset)
        assert close(answer_chunk(adapters.chosen(models, chunk.dataset), chunk).large, alone[dataset])
    with pytest.raises(BadInput, match="no adapter for the dataset 'third' among those for demo, other"):
        answered(trained, samples, "third", adapters=both.adapters)


def test_a_head_is_the_adapter_s_own(adapter_of, trained, samples):
    folder = adapter_of("qwen2_5_omni")
    model = mllm.build(str(folder), ASKED.model_copy(update={"readout": "head"}), RANGE)
    own, base = (load_file(place / "readout_head.safetensors") for place in (folder, trained))
    assert all(torch.equal(weight, own[name]) for name, weight in model.reads.head.state_dict().items())
    assert not torch.equal(own["layers.0.weight"], base["layers.0.weight"])
    assert {output.status for output in model.answer(samples)} <= {"ok", "clipped"}


def test_an_adapter_that_comes_later_does_not_answer_for_the_one_before(adapter_of, trained, copy, samples):
    first, second = adapter_of("qwen2_5_omni"), copy(dataset="other")
    weights = {n: -w if "lora_B" in n else w for n, w in load_file(first / adapters.WEIGHTS).items()}
    save_file(weights, second / adapters.WEIGHTS)
    loaded = Loaded.of(str(trained), ASKED)
    one = LargePredictor(str(trained), ASKED, RANGE, adapter=str(first), loaded=loaded)
    before = one.answer(samples[:8])
    LargePredictor(str(trained), ASKED, RANGE, adapter=str(second), loaded=loaded)
    assert close(one.answer(samples[:8]), before)


def test_frames_are_those_that_it_was_trained_with_unless_told_otherwise(adapter_of):
    folder = str(adapter_of("qwen2_5_omni"))
    for wanted, shown in ((None, 2), (4, 4)):
        assert mllm.build(folder, MllmSettings(frames=wanted, threads=1), RANGE).inputs.frames == shown


def test_an_adapter_over_another_base_is_refused_in_one_line(adapter_of, trained_of, untrained):
    folder = str(adapter_of("qwen2_5_omni"))
    with pytest.raises(BadInput, match=rf"{folder}: an adapter over .*, not over {untrained} .*; name its base"):
        mllm.build(str(untrained), ASKED.model_copy(update={"adapters": [folder]}), RANGE)
    with pytest.raises(BadInput, match="an adapter over"):
        mllm.identity(str(trained_of("humanomni")), ASKED.model_copy(update={"adapters": [folder]}), "en")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / adapters.MANIFEST).unlink(), "no uacs_adapter.json, so no adapter that U-ACS knows"),
        (lambda folder: (folder / adapters.MANIFEST).write_text("{}"), "not an adapter's (base: Field required)"),
        (lambda folder: (folder / adapters.WEIGHTS).unlink(), "no adapter that can be read"),
        (lambda folder: (folder / adapters.WEIGHTS).write_bytes(b"x"), "no adapter that can be read"),
        (lambda folder: (folder / adapters.CONFIG).write_text("[]"), "no adapter that can be read"),
        (lambda folder: _drop_a_weight(folder), "its weights are not those of its config, first"),
    ],
)
def test_a_spoilt_adapter_is_said_in_one_line(copy, spoil, said):
    folder = copy()
    spoil(folder)
    with pytest.raises(BadInput) as error:
        mllm.build(str(folder), ASKED, RANGE)
    assert said in str(error.value) and str(folder) in str(error.value) and "\n" not in str(error.value)


def _drop_a_weight(folder):
    weights = load_file(folder / adapters.WEIGHTS)
    weights.pop(min(weights))
    save_file(weights, folder / adapters.WEIGHTS)


def test_a_base_that_moved_is_asked_for(copy):
    folder = copy(base="/gone/base")
    with pytest.raises(BadInput, match=rf"its base /gone/base is not there; .*--mllm BASE --adapter {folder}"):
        mllm.check(str(folder))


def test_another_range_or_language_is_refused(adapter_of):
    for score_range, language in (((-1.0, 1.0), "en"), (RANGE, "zh")):
        with pytest.raises(BadInput, match="train one on a dataset like this"):
            mllm.build(str(adapter_of("qwen2_5_omni")), ASKED, score_range, language)


def test_two_adapters_for_one_dataset_are_refused(adapter_of, copy, trained):
    with pytest.raises(BadInput, match="for demo, as .* is; leave one of them away"):
        mllm.build_each(
            str(trained),
            ASKED.model_copy(update={"adapters": [str(adapter_of("qwen2_5_omni")), str(copy())]}),
            RANGE,
            "en",
        )


def test_a_new_adapter_changes_nothing_and_is_alike_for_equal_seeds(trained):
    def attached(seed):
        model = mllm.load(trained)
        torch.manual_seed(seed)
        lora.attach(model, mllm.family(str(trained)).decoder_of(model), 4, 8, 0.0)
        return lora.weights(model)

    one, same, other = (attached(seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert all(not weight.any() for name, weight in one.items() if "lora_B" in name)


def test_what_an_adapter_is_fingerprinted_by_is_what_it_answers_with(copy):
    folder = copy()
    before = adapters.fingerprint(folder)
    (folder / "report.html").write_text("another page")
    (folder / "training.json").write_text(json.dumps({}))
    assert adapters.fingerprint(folder) == before
    weights = load_file(folder / adapters.WEIGHTS)
    save_file({name: weight + 1 for name, weight in weights.items()}, folder / adapters.WEIGHTS)
    assert adapters.fingerprint(folder) != before


def test_samples_of_an_adapter_do_not_depend_on_their_neighbours(adapter_of, samples):
    model = mllm.build(str(adapter_of("humanomni")), ASKED, RANGE)
    together = model.answer([replace(sample) for sample in samples[:9]])
    assert close(together, [output for sample in samples[:9] for output in model.answer([sample])])
