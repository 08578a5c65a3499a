"""What people's folders have in them beside what they should: one line that names it, at the door, and no guess."""

import json
import re
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import uacs.mllm
from tests.mllm.native.conftest import GOLDENS
from uacs.errors import BadInput
from uacs.mllm import MllmSettings, Towers, tiny_native
from uacs.mllm.native.beats import distance_buckets
from uacs.mllm.native.checkpoint import without_weights
from uacs.mllm.native.towers import layers_used
from uacs.mllm.predictor import LargePredictor
from uacs.records import Sample

KINDS = {"humanomni": tiny_native.create_humanomni, "videollama2": tiny_native.create_videollama2}
SIZES = tiny_native.TinySettings(width=32, layers=1, tower_width=32, tower_layers=1)


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    """A folder that is whole, of each family."""
    KINDS[request.param](tmp_path / "model", ["so so"], ["a phrase"], SIZES)
    return tmp_path / "model"


def opened(folder, **settings):
    return LargePredictor(str(folder), MllmSettings(**settings), (-3.0, 3.0))


def refusal(folder, **settings):
    with pytest.raises(BadInput) as caught:
        opened(folder, **settings)
    said = str(caught.value)
    assert "\n" not in said and said.startswith(str(folder)) and re.search(r"; \w+", said), said
    return said


def change(path, **fields):
    values = json.loads(path.read_text()) | fields
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", "32"),
        ("hidden_size", 0),
        ("num_attention_heads", 0),
        ("num_attention_heads", None),
        ("num_hidden_layers", "1"),
        ("vocab_size", None),
        ("hidden_act", "foo"),
        ("rope_scaling", "yarn"),
        ("rope_scaling", {"type": "foo"}),
        ("layer_types", ["foo"]),
        ("pad_token_id", 99999),
        ("eos_token_id", "x"),
        ("num_frames", "8"),
        ("num_frames", 2.5),
        ("num_frames", -1),
        ("mm_vision_tower", 5),
        ("mm_hidden_size", "32"),
        ("mm_projector_type", ["x"]),
        ("mm_vision_select_layer", "-2"),
        ("mm_vision_select_layer", 7),
        ("mm_vision_select_layer", -9),
        ("mm_vision_select_feature", "cls_patch"),
        ("mm_use_x_start_end", "false"),
        ("mm_audio_tower", ["x"]),
        ("mm_audio_windows", 0),
        ("mm_audio_window", "2"),
        ("quantization_config", {"quant_method": "bitsandbytes"}),
        ("model_type", ["x"]),
    ],
)
def test_a_field_of_config_json_that_does_not_do_is_one_line(folder, field, value):
    change(folder / "config.json", **{field: value})
    assert refusal(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_frames", None),
        ("mm_vision_select_layer", None),
        ("mm_vision_select_feature", None),
        ("return_dict", False),
        ("is_encoder_decoder", True),
        ("torch_dtype", "bfloat16"),
        ("auto_map", {"AutoTokenizer": ["x.Tokenizer", None]}),
        ("rope_scaling", {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024}),
    ],
)
def test_a_field_that_means_nothing_here_or_has_a_default_does_no_harm(folder, field, value):
    (folder / "x.py").write_text("raise SystemExit('code of the folder was run')")
    change(folder / "config.json", **{field: value})
    output = opened(folder).answer([Sample("s", text="so so")])[0]
    assert output.status == "unparsable"  # it is untrained


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "[]"),
        ("config.json", "{"),
        ("generation_config.json", "{"),
        ("generation_config.json", "[1]"),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "[]"),
        ("chat_template.jinja", "{% {"),
        ("towers/vision/config.json", "{"),
        ("towers/vision/config.json", '{"model_type": "siglip_vision_model", "hidden_size": "x"}'),
        ("towers/vision/config.json", '{"model_type": "siglip_vision_model", "patch_size": 0}'),
        ("towers/vision/preprocessor_config.json", "{"),
        ("towers/vision/preprocessor_config.json", "[]"),
        ("towers/vision/preprocessor_config.json", '{"size": "56"}'),
        ("towers/vision/preprocessor_config.json", '{"size": {"height": 56, "width": 56}, "image_mean": [0.5]}'),
        ("towers/vision/preprocessor_config.json", '{"size": {"shortest_edge": 56}}'),
        ("model.safetensors", ""),
    ],
)
def test_a_file_that_does_not_do_is_one_line(folder, file, content):
    (folder / file).write_text(content)
    assert refusal(folder)


@pytest.mark.parametrize("content", ["{", '{"max_distance": "x"}', "5", "{}"])
def test_beats_file_is_read_as_far_as_it_says_something(tmp_path, content):
    tiny_native.create_videollama2(tmp_path / "model", ["so so"], ["a phrase"], SIZES)
    (tmp_path / "model" / "towers" / "beats.json").write_text(content)
    if content == "{":
        with pytest.raises(BadInput, match="beats.json: not JSON"):
            opened(tmp_path / "model")
    else:
        config = opened(tmp_path / "model").model.config.beats
        assert (config.encoder_embed_dim, config.max_distance) == (32, 800)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_weights_that_are_no_floating_numbers_are_refused(folder, dtype):
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"].to(dtype)
    save_file(weights, folder / "model.safetensors")
    assert "lm_head.weight is of type" in refusal(folder)


def test_weights_in_other_precisions_are_taken(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight.half() for name, weight in weights.items()}, folder / "model.safetensors")
    model = uacs.mllm.load(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.llm.lm_head.weight, weights["lm_head.weight"].half().float())


@pytest.mark.parametrize("content", ['{"weight_map": {}}', '{"weight_map": {"a": 5}}', '{"weight_map": null}', "[]"])
def test_an_index_that_names_no_files_of_the_folder_is_refused(folder, content):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(content)
    assert "not an index of shards" in refusal(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../model-00001-of-00001.safetensors"}}))
    assert "names no files of this folder" in refusal(folder)


@pytest.mark.parametrize(
    "name", ["patch_embedding.weight", "encoder.layers.0.fc1.weight", "encoder.pos_conv.0.weight_v"]
)
def test_a_weight_that_tells_sizes_is_missed_by_name(copy_of, name):
    folder = copy_of("videollama2-av-tiny")
    weights = load_file(folder / "model.safetensors")
    del weights[f"model.audio_tower.{name}"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BadInput, match=r"is missing|are missing|its config makes it"):
        uacs.mllm.load(folder)


def test_towers_that_a_family_has_not_are_refused(folder):
    name = "audio" if (folder / "towers" / "gate").exists() else "gate"
    if name == "audio":
        change(folder / "config.json", mm_audio_tower=None)
    assert "a model without" in refusal(folder, towers=Towers(**{name: str(folder)}))


@pytest.mark.parametrize(("device", "dtype"), [("gpu", "float32"), ("cuda:99", "float32"), ("cpu", "float33")])
def test_a_device_or_dtype_that_is_none_is_one_line(folder, device, dtype):
    with pytest.raises(BadInput, match="; name "):
        uacs.mllm.load(folder, device=device, dtype=dtype)


def test_a_connector_that_halves_time_is_shown_two_frames_at_least(folder):
    frames = opened(folder, frames=1).inputs.frames
    assert frames == (1 if (folder / "towers" / "gate").exists() else 2)


def test_any_state_of_the_vision_tower_may_be_chosen():
    # a tower of three layers has four states: the embeddings', and one after each layer
    config = uacs.mllm.load(GOLDENS / "videollama2-tiny").config.vision
    assert [layers_used(config, k) for k in (-2, 2, -1, 3, 0, -4)] == [2, 2, 3, 3, 0, 0]


# what is built without weights


def test_a_model_built_without_weights_has_the_buffers_of_one_that_was_not():
    for name in ("humanomni-tiny", "videollama2-av-tiny", "videollama2-tiny"):
        model = uacs.mllm.load(GOLDENS / name)
        whole = type(model)(model.config)
        ours, theirs = dict(model.named_buffers()), dict(whole.named_buffers())
        assert ours.keys() == theirs.keys() and len(ours) > 1
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert not any(p.is_meta for p in model.parameters())


def test_other_threads_build_real_modules_meanwhile():
    built, entered, done = {}, threading.Event(), threading.Event()

    def elsewhere():
        entered.wait()
        built["theirs"] = nn.Linear(2, 2)
        done.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    with without_weights():
        built["ours"] = nn.Linear(2, 2)
        entered.set()
        done.wait()
    thread.join()
    assert built["ours"].weight.is_meta
    assert not built["theirs"].weight.is_meta and not nn.Linear(2, 2).weight.is_meta


def test_distances_have_few_buckets_near_and_fewer_far():
    # of 16 buckets 8 look back: 4 for steps 0..3, then 4 + floor(4 log(d / 4) / log 5), at most 7
    buckets = distance_buckets(25, 16, 20, torch.device("cpu"))
    assert buckets[24].tolist() == [7] * 11 + [6] * 5 + [5] * 3 + [4] * 2 + [3, 2, 1, 0]
    assert buckets[0].tolist()[:5] == [0, 9, 10, 11, 12]
