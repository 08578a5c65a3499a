"""The published 7B models, built without weights: sizes, names and token counts are the published ones."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.mllm.native.conftest import GOLDENS
from uacs.mllm import Towers, humanomni, videollama2
from uacs.mllm.native.beats import Beats
from uacs.mllm.native.decoder import tied_weights
from uacs.mllm.native.sounds import FilterBanks

QWEN2_7B = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
}
SIGLIP = {"mm_vision_tower": "google/siglip-so400m-patch14-384", "mm_hidden_size": 1152, "mm_vision_select_layer": -2}
HUMANOMNI = {
    **QWEN2_7B,
    **SIGLIP,
    "model_type": "HumanOmni_qwen2",
    "mm_projector_type": "all_in_one",
    "mm_audio_tower": "/mnt/authors/disk/whisper-large-v3",
    "mm_audio_projector_type": "mlp2x_gelu",
    "mm_use_x_start_end": True,
    "num_frames": 32,
}
HUMANOMNI_SMALL = {
    **HUMANOMNI,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "mm_projector_type": "all_in_one_small",
    "mm_vision_tower": "/mnt/authors/disk/siglip-base-patch16-224/",
    "mm_hidden_size": 768,
    "num_frames": 8,
}
AV = {
    **QWEN2_7B,
    **SIGLIP,
    "model_type": "videollama2_qwen2",
    "mm_projector_type": "stc_connector_v35",
    "mm_audio_tower": "/mnt/authors/disk/audio_tower.bin",
    "mm_projector_a_type": "mlp2x_gelu",
    "mm_hidden_size_a": 768,
    "hidden_size_a": 3584,
    "num_frames": 8,
}
MISTRAL = {
    "model_type": "videollama2_mistral",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "sliding_window": None,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_hidden_size": 1024,
    "mm_projector_type": "stc_connector",
    "num_frames": 16,
}
KINDS = {
    "HumanOmni_qwen2": (humanomni.HumanOmniConfig, humanomni.HumanOmni, humanomni.NAMES),
    "videollama2_qwen2": (videollama2.VideoLlama2Config, videollama2.VideoLlama2, videollama2.NAMES),
    "videollama2_mistral": (videollama2.VideoLlama2Config, videollama2.VideoLlama2, videollama2.NAMES),
}


def on_meta(raw):
    config, model, names = KINDS[raw["model_type"]]
    with torch.device("meta"):
        return model(config.of(raw, Path("nowhere"), Towers(), {})), names


def millions(model, part):
    return sum(p.numel() for p in model.get_submodule(part).parameters()) / 1e6


@pytest.mark.parametrize(
    ("raw", "billions", "parts"),
    [
        (
            HUMANOMNI,
            9.58,
            {
                "llm": 7615.6,
                "vision": 428.2,
                "audio": 637.0,
                "gate_bert": 108.9,
                "projector": 770.8,
                "audio_projector": 17.4,
                "gate": 2.8,
            },
        ),
        (AV, 8.53, {"llm": 7615.6, "vision": 428.2, "projector": 376.9, "audio": 90.3, "audio_projector": 15.6}),
        (MISTRAL, 8.03, {"llm": 7241.7, "vision": 303.5, "projector": 489.2}),
    ],
    ids=["humanomni", "videollama2-av", "videollama2"],
)
def test_the_7b_models_have_the_published_sizes(raw, billions, parts):
    model, _ = on_meta(raw)
    assert {part: round(millions(model, part), 1) for part in parts} == parts
    assert round(sum(p.numel() for p in model.parameters()) / 1e9, 2) == billions


def shapes_of_names(names):
    """Names with their numbers taken out, so that models of different depth can be compared."""
    return {re.sub(r"\.\d+\.", ".N.", name) for name in names}


@pytest.mark.parametrize(
    ("raw", "golden"),
    [(HUMANOMNI, "humanomni-tiny"), (AV, "videollama2-av-tiny"), (MISTRAL, "videollama2-tiny")],
    ids=["humanomni", "videollama2-av", "videollama2"],
)
def test_a_published_checkpoint_has_a_place_for_every_weight(raw, golden):
    model, names = on_meta(raw)
    ours = {names.published(name) for name, _ in model.named_parameters()}
    theirs = {name for name in load_file(GOLDENS / golden / "model.safetensors") if not names.ignores(name)}
    assert shapes_of_names(ours) == shapes_of_names(theirs)
    layers = {int(found[1]) for name in ours if (found := re.match(r"model\.layers\.(\d+)\.", name))}
    assert layers == set(range(raw["num_hidden_layers"]))
    assert all(names.ours(names.published(name)) == name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("raw", "frames", "tokens"),
    [
        (HUMANOMNI, 8, 784),
        (HUMANOMNI, 16, 1568),
        (HUMANOMNI, 32, 3136),
        (HUMANOMNI_SMALL, 8, 170),
        (AV, 8, 676),
        (AV, 16, 1352),
        (MISTRAL, 8, 845),
        (MISTRAL, 16, 1521),
    ],
)
def test_a_clip_takes_the_published_number_of_tokens(raw, frames, tokens):
    model, _ = on_meta(raw)
    side = model.config.vision.image_size
    pictures = torch.zeros(1, frames, 3, side, side, device="meta")
    shares = [torch.zeros(1, 3, device="meta")] if raw["model_type"] == "HumanOmni_qwen2" else []
    assert model.video_tokens(pictures, *shares).shape == (1, tokens, raw["hidden_size"])
    counted = model.projector.tokens(frames, side // model.config.vision.patch_size)
    assert counted == tokens


def test_a_sound_takes_the_published_number_of_tokens():
    ear, banks = on_meta(HUMANOMNI)[0], FilterBanks()
    assert ear.audio_tokens(torch.zeros(1, 128, 3000, device="meta")).shape == (1, 500, 3584)
    with torch.device("meta"):
        beats = Beats(videollama2.BeatsConfig())
        heard = beats(torch.zeros(1, banks.frames, banks.mels))
    assert heard.shape == (1, 1496, 768)
    assert Beats.tokens(banks.frames, banks.mels) == 1496


def test_a_small_sibling_ties_its_head_where_its_config_says_so():
    model, _ = on_meta(HUMANOMNI_SMALL | {"tie_word_embeddings": True})
    assert tied_weights(model) == ["llm.lm_head.weight"]
    assert tied_weights(on_meta(HUMANOMNI_SMALL)[0]) == []


def test_paths_on_the_authors_disks_are_hints():
    config = humanomni.HumanOmniConfig.of(HUMANOMNI, Path("nowhere"), Towers(), {})
    assert (config.audio.num_mel_bins, config.audio.encoder_layers, config.gate.vocab_size) == (128, 32, 30522)
    assert config.places == {"vision": None, "gate": None, "audio": None}
