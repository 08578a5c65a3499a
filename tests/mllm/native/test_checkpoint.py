"""Loading is strict: what is missing, foreign, cut short or of another size is one line; what fits is taken as is."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file

import uacs.mllm
from tests.mllm.native.conftest import GOLDENS
from uacs.errors import BadInput
from uacs.mllm import Towers, tiny_native, videollama2
from uacs.mllm.native.checkpoint import Names, without_weights

HUMANOMNI, AV, VIDEO = "humanomni-tiny", "videollama2-av-tiny", "videollama2-tiny"


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def rewrite(folder, weights):
    save_file(weights, folder / "model.safetensors")


def same(model, name):
    """Whether a model has the weights of a golden, all of them."""
    expected = uacs.mllm.load(GOLDENS / name).state_dict()
    state = model.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)


def refusal(folder, **options):
    """What is said of a folder that cannot be loaded: one line that names it and ends in a mend."""
    with pytest.raises(BadInput) as caught:
        uacs.mllm.load(folder, **options)
    said = str(caught.value)
    assert "\n" not in said and str(folder) in said and "; " in said
    return said


# what is taken


@pytest.mark.parametrize("name", [HUMANOMNI, AV, VIDEO])
def test_every_weight_is_explained(name):
    report = uacs.mllm.load(GOLDENS / name).report
    published = weights_of(GOLDENS / name)
    assert report.mapped + len(report.ignored) == len(published)
    expected = {
        HUMANOMNI: r"model\.(feature_compressor|bert_model\.pooler|audio_tower\.audio_tower\.(projector|classifier))\.",
        AV: r"model\.audio_tower\.(predictor|encoder\.layers\.1\.self_attn\.relative_attention_bias)\.",
        VIDEO: "none",
    }[name]
    assert all(re.match(expected, key) for key in report.ignored)
    assert set(report.sources.values()) == {"the checkpoint"}


def test_shards_are_as_good_as_one_file(copy_of):
    folder = copy_of(AV)
    weights = weights_of(folder)
    (folder / "model.safetensors").unlink()
    save_torch_state_dict(weights, folder, max_shard_size="200KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    assert same(uacs.mllm.load(folder), AV)


def test_bin_files_are_as_good_as_safetensors(copy_of):
    folder = copy_of(VIDEO)
    weights = weights_of(folder)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert same(uacs.mllm.load(folder), VIDEO)
    (folder / "pytorch_model.bin").unlink()
    shards = {"pytorch_model-00001-of-00002.bin": sorted(weights)[:90], "pytorch_model-00002-of-00002.bin": []}
    shards["pytorch_model-00002-of-00002.bin"] = sorted(weights)[90:]
    for name, keys in shards.items():
        torch.save({key: weights[key] for key in keys}, folder / name)
    index = {"weight_map": {key: name for name, keys in shards.items() for key in keys}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert same(uacs.mllm.load(folder), VIDEO)


def test_a_tied_duplicate_may_be_absent_and_old_counts_present(copy_of):
    folder = copy_of(AV)
    weights = weights_of(folder)
    del weights["model.audio_tower.encoder.layers.1.self_attn.relative_attention_bias.weight"]
    weights["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(25)[None]
    rewrite(folder, weights)
    assert same(uacs.mllm.load(folder), AV)


def test_what_config_leaves_open_is_read_from_the_weights(copy_of):
    folder = copy_of(AV, hidden_size_a=4096, mm_hidden_size_a=768)  # the class's defaults, of another decoder
    values = json.loads((folder / "towers" / "beats.json").read_text())
    assert values["max_distance"] == 20
    (folder / "towers" / "beats.json").write_text(json.dumps({"max_distance": 20, "encoder_layers": 12}))
    assert same(uacs.mllm.load(folder), AV)


def test_a_tower_comes_from_its_folder_where_the_checkpoint_leaves_it_out(copy_of):
    folder = copy_of(HUMANOMNI)
    weights = weights_of(folder)
    ours = "model.vision_tower.vision_tower."
    rewrite(folder, {key: value for key, value in weights.items() if not key.startswith(ours)})
    eye = folder.parent / "siglip"
    shutil.move(folder / "towers" / "siglip-tiny", eye)
    its = {key.removeprefix(ours): value for key, value in weights.items() if key.startswith(ours)}
    save_file(its | {"text_model.head.bias": torch.zeros(2), "logit_scale": torch.zeros(1)}, eye / "model.safetensors")
    said = refusal(folder)
    assert "tower 'towers/siglip-tiny' is unknown here" in said and "--set mllm.towers.vision=FOLDER" in said
    model = uacs.mllm.load(folder, towers=Towers(vision=str(eye)))
    assert model.report.sources["vision"] == str(eye)
    assert same(model, HUMANOMNI)


def test_a_gate_comes_from_a_bert_as_hubs_have_it(copy_of):
    folder = copy_of(HUMANOMNI)
    weights, gate = weights_of(folder), folder / "towers" / "bert-tiny"
    bert = {key.removeprefix("model.bert_model."): value for key, value in weights.items() if "bert_model" in key}
    rewrite(folder, {key: value for key, value in weights.items() if "bert_model" not in key})
    said = refusal(folder)
    assert "no weights of its gate tower" in said and "--set mllm.towers.gate=FOLDER" in said
    old = {
        f"bert.{key}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in bert.items()
    }
    save_file(old | {"cls.predictions.bias": torch.zeros(50)}, gate / "model.safetensors")
    (gate / "pytorch_model.bin").write_bytes(b"the same in another format, as hubs keep it")
    assert same(uacs.mllm.load(folder), HUMANOMNI)


def test_an_ear_comes_from_a_whisper_as_hubs_have_it(copy_of):
    folder = copy_of(HUMANOMNI)
    weights, ours = weights_of(folder), "model.audio_tower.audio_tower."
    ear = {f"model.{key.removeprefix(ours)}": v for key, v in weights.items() if key.startswith(f"{ours}encoder")}
    rewrite(folder, {key: value for key, value in weights.items() if not key.startswith(ours)})
    place = folder / "towers" / "whisper-tiny" / "model.safetensors"
    save_file(ear | {"model.decoder.layer_norm.bias": torch.zeros(2)}, place)
    assert same(uacs.mllm.load(folder), HUMANOMNI)


def test_beats_comes_from_a_folder(copy_of):
    folder = copy_of(AV)
    weights, ours = weights_of(folder), "model.audio_tower."
    rewrite(folder, {key: value for key, value in weights.items() if not key.startswith(ours)})
    assert "no weights of its audio tower" in refusal(folder)
    ear = folder.parent / "beats"
    ear.mkdir()
    its = {key.removeprefix(ours): value for key, value in weights.items() if key.startswith(ours)}
    beats = {"cfg": {"max_distance": 20}, "model": its}
    torch.save(beats, ear / "BEATs_iter3_plus.pt", _use_new_zipfile_serialization=False)  # as old as BEATs is
    assert same(uacs.mllm.load(folder, towers=Towers(audio=str(ear))), AV)


def test_a_hub_id_is_found_in_the_hubs_cache(copy_of, tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--some--humanomni" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    shutil.move(copy_of(HUMANOMNI), snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert uacs.mllm.model_type("some/humanomni") == "HumanOmni_qwen2"
    assert same(uacs.mllm.load("some/humanomni"), HUMANOMNI)
    with pytest.raises(BadInput, match="some/other: neither a folder here nor a model that the hub gives"):
        uacs.mllm.load("some/other")


def test_a_model_written_is_the_model_read(copy_of, tmp_path):
    for name in (HUMANOMNI, AV, VIDEO):
        model, out = uacs.mllm.load(GOLDENS / name), tmp_path / f"{name}-again"
        uacs.mllm.family(str(GOLDENS / name)).save(model, out)
        assert same(uacs.mllm.load(out), name)
        published, written = weights_of(GOLDENS / name), weights_of(out)
        assert set(written) <= set(published)
        assert all(torch.equal(written[key], published[key]) for key in written)


# what is refused


def test_an_unknown_architecture_is_named_with_those_that_are_known(copy_of):
    said = refusal(copy_of(VIDEO, model_type="videollama3_qwen2"))
    assert "model_type 'videollama3_qwen2' is not one of HumanOmni_qwen2, " in said
    assert "videollama2_mixtral" in refusal(copy_of(AV, model_type="videollama2_mixtral"))


def refusals(damage, said):
    return pytest.param(damage, said, id=said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 128}, "is 120 x 64, its config makes it 120 x 128; copy the checkpoint's own config.json"),
        ({"mm_hidden_size": 48}, "mlp_2xgelu_face.0.weight is 64 x 32, its config makes it 64 x 48"),
        ({"num_hidden_layers": 3}, "weights are missing, first model.layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 1}, "weights that the model of its config.json has not, first model.layers.1."),
        ({"mm_projector_type": "all_in_one_small"}, "takes an even number of patches a side, not 5"),
        ({"mm_projector_type": "all_in_one_mlp"}, "is none of HumanOmni's: all_in_one, all_in_one_small"),
        ({"mm_audio_projector_type": "qformer"}, "projector 'qformer' is neither linear nor mlpNx_gelu"),
        ({"mm_vision_tower": None}, "config.json: mm_vision_tower: field required; copy"),
        (
            {"mm_vision_tower": "/mnt/theirs/eva-clip", "mm_hidden_size": None},
            "config.json: mm_hidden_size: field required; copy",
        ),
    ],
)
def test_a_config_of_another_model_is_refused(copy_of, changes, said):
    assert said in refusal(copy_of(HUMANOMNI, **changes))


def test_a_truncated_file_is_refused_before_anything_is_built(copy_of):
    folder = copy_of(HUMANOMNI)
    whole = (folder / "model.safetensors").read_bytes()
    for length in (0, 5, 1000, len(whole) // 2, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:length])
        assert "model.safetensors: not a whole safetensors file" in refusal(folder)


def test_a_truncated_bin_is_refused(copy_of):
    folder = copy_of(VIDEO)
    torch.save(weights_of(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    whole = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    assert "pytorch_model.bin: not a whole file of weights" in refusal(folder)


def test_a_pickle_with_more_than_weights_in_it_is_refused(copy_of, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    folder = copy_of(VIDEO)
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Trap()}, folder / "pytorch_model.bin")
    assert "not a whole file of weights" in refusal(folder)
    assert not (tmp_path / "sprung").exists()


def test_two_checkpoints_in_a_folder_are_one_too_many(copy_of):
    folder = copy_of(VIDEO)
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "more than one checkpoint (model.safetensors, pytorch_model.bin); keep the files of one" in refusal(folder)
    (folder / "pytorch_model.bin").unlink()
    (folder / "shards").mkdir()
    save_torch_state_dict(weights_of(folder), folder / "shards", max_shard_size="300KB")
    for path in (folder / "shards").iterdir():
        shutil.copy(path, folder)
    assert "more than one checkpoint (model.safetensors, model-00001-of-0000" in refusal(folder)


def test_lost_shards_and_a_lost_index_are_told_apart(copy_of):
    folder = copy_of(VIDEO)
    weights = weights_of(folder)
    (folder / "model.safetensors").unlink()
    assert "no model.safetensors or pytorch_model.bin" in refusal(folder)
    save_torch_state_dict(weights, folder, max_shard_size="300KB")
    first = min(folder.glob("model-*.safetensors"))
    kept = first.read_bytes()
    first.unlink()
    assert f"{first.name} is missing" in refusal(folder)
    first.write_bytes(kept)
    index = folder / "model.safetensors.index.json"
    index.write_text("{")
    assert "not an index of shards" in refusal(folder)
    index.unlink()
    assert "without their index" in refusal(folder)


def test_weights_of_two_shards_must_not_overlap(copy_of):
    folder = copy_of(VIDEO)
    weights = weights_of(folder)
    (folder / "model.safetensors").unlink()
    save_torch_state_dict(weights, folder, max_shard_size="300KB")
    last = max(folder.glob("model-*.safetensors"))
    twice = load_file(last) | {"lm_head.weight": weights["lm_head.weight"]}
    save_file(twice, last)
    assert "lm_head.weight stands in" in refusal(folder)


def test_missing_and_foreign_weights_are_named(copy_of):
    folder = copy_of(AV)
    weights = weights_of(folder)
    rewrite(folder, {key: value for key, value in weights.items() if "mm_projector_a.2" not in key})
    assert "2 weights are missing, first model.mm_projector_a.2.bias; copy the whole" in refusal(folder)
    rewrite(folder, weights | {"model.talker.weight": torch.zeros(1)})
    assert "1 weights that the model of its config.json has not, first model.talker.weight" in refusal(folder)


def test_a_tower_that_is_not_the_published_one_asks_for_its_config(copy_of):
    folder = copy_of(HUMANOMNI)
    shutil.rmtree(folder / "towers" / "bert-tiny")
    said = refusal(folder)
    assert "weights are missing, first model.bert_model." in said
    assert "if its gate tower is not the published one, name a folder with its config: --set mllm.towers.gate" in said


def test_half_a_tower_is_not_filled_up_from_another_place(copy_of):
    folder = copy_of(HUMANOMNI)
    weights = weights_of(folder)
    lost = "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"
    del weights[lost]
    rewrite(folder, weights)
    assert f"1 weights are missing, first {lost}" in refusal(folder)


def test_a_folder_named_for_a_tower_must_be_one(copy_of):
    folder = copy_of(HUMANOMNI)
    whisper = str(folder / "towers" / "whisper-tiny")
    with pytest.raises(BadInput, match="whisper-tiny: config.json is of whisper, not of siglip"):
        uacs.mllm.load(folder, towers=Towers(vision=whisper))


def test_a_device_that_is_not_there_is_one_line(copy_of):
    if not torch.cuda.is_available():
        assert "cannot be put on cuda" in refusal(copy_of(VIDEO), device="cuda")


def test_names_go_both_ways():
    names = Names({"model.audio.": "ear.", "model.": "llm.model.", "lm_head.": "llm.lm_head."})
    for published in ("model.audio.conv.weight", "model.layers.0.weight", "lm_head.weight"):
        assert names.published(names.ours(published)) == published
    assert names.ours("talker.weight") is None


# what it costs


LOADS = """
import sys, torch, uacs.mllm, uacs.mllm.videollama2
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
before = peak()
model = uacs.mllm.load(sys.argv[1])
size = sum(p.numel() * p.element_size() for p in model.parameters())
print(peak() - before, size, float(model.llm.lm_head.weight.sum()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak where Linux keeps it")
def test_a_gigabyte_in_shards_takes_no_more_than_its_size_and_three_tenths(tmp_path):
    tiny_native.create_videollama2(tmp_path / "big", ["so so"], ["a phrase"])
    folder = tmp_path / "big"
    (folder / "model.safetensors").unlink()
    sizes = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 24, "hidden_size_a": 1024}
    config = json.loads((folder / "config.json").read_text()) | sizes
    (folder / "config.json").write_text(json.dumps(config))
    with without_weights():
        model = videollama2.VideoLlama2(videollama2.VideoLlama2Config.of(config, folder, Towers(), {}))
    shapes = {videollama2.NAMES.published(name): p.shape for name, p in model.named_parameters()}
    weights = {name: torch.full(shape, k / 1000) for k, (name, shape) in enumerate(shapes.items())}
    save_torch_state_dict(weights, folder, max_shard_size="200MB")
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    run = subprocess.run([sys.executable, "-c", LOADS, folder], capture_output=True, text=True, check=True)
    peak, size, total = map(float, run.stdout.split())
    assert size > 0.9e9
    assert total == pytest.approx(float(weights["lm_head.weight"].sum()), rel=1e-5)
    assert peak < 1.3 * size
