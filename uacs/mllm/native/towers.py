"""The towers of a checkpoint: what they are, and whose sizes hold.

A published config names its towers by hub ids, or by paths on its authors' disks. What a tower is like is
read from the folder that the user names, else from one beside the checkpoint (`towers/`, or the path that the
config says, taken from the checkpoint's folder), else from the table of the models that the published
checkpoints were made with; their weights' shapes must agree in any case.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from transformers import (
    BertConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
    WhisperConfig,
)

from uacs.errors import BadInput, shown
from uacs.mllm.native import published
from uacs.mllm.native.checkpoint import Names, Tower
from uacs.mllm.native.hub import local

VISION = {"siglip_vision_model": SiglipVisionConfig, "clip_vision_model": CLIPVisionConfig}
AUDIO = {"whisper": WhisperConfig}
GATE = {"bert": BertConfig}

HOW_IT_RAN = (
    "attn_implementation",
    "_attn_implementation",
    "dtype",
    "torch_dtype",
    "return_dict",
    "output_hidden_states",
)
"""Fields of a tower's config.json that are not of the tower."""

KNOWN: dict[str, PreTrainedConfig] = {
    "siglip-so400m-patch14-384": SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
    ),
    "siglip-base-patch16-224": SiglipVisionConfig(image_size=224, patch_size=16),
    "clip-vit-large-patch14-336": CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    ),
    "whisper-large-v3": WhisperConfig(
        d_model=1280,
        encoder_layers=32,
        encoder_attention_heads=20,
        encoder_ffn_dim=5120,
        num_mel_bins=128,
        max_source_positions=1500,
    ),
    "bert-base-uncased": BertConfig(),
}
"""Sizes of the models that the published checkpoints were made with, by the end of their names."""


def tower(folder: Path, hint: str | None, named: str | None, kinds: dict) -> tuple[PreTrainedConfig, Path | None]:
    """A tower's config, and the folder that it came from, if any; raises `BadInput` where nothing says what it is.

    hint is what the checkpoint's config says, named what the user says; kinds are config classes by model_type.
    """
    for place in places(folder, hint, named):
        values = json_of(place / "config.json")
        found = values.get("model_type")
        inner = values.get("vision_config")
        if isinstance(inner, dict) and found in ("siglip", "clip"):  # a two-tower model; ours is the one that sees
            values, found = inner, f"{found}_vision_model"
        if found in kinds:
            ours = {name: value for name, value in values.items() if name not in HOW_IT_RAN}
            return published.of(kinds[found], ours, f"{place}: config.json"), place
        if named:
            told = f"config.json is of {shown(found or 'no model')}, not of {' or '.join(kinds)}"
            raise BadInput(f"{named}: {told}; name another folder")
    for name, config in KNOWN.items():
        if config.model_type in kinds and (hint or "").rstrip("/").endswith(name):
            return config, None
    wanted = " or ".join(kind.removesuffix("_vision_model") for kind in kinds)
    raise BadInput(f"{folder}: its tower '{hint}' is unknown here; name a folder of that {wanted}: {_mend(kinds)}")


def places(folder: Path, hint: str | None, named: str | None) -> Iterable[Path]:
    """Folders that may hold a tower, the likeliest first."""
    if named:
        yield local(named)
        return
    if hint:
        yield from (path for path in (folder / hint, folder / "towers" / Path(hint).name) if path.is_dir())
    if (folder / "towers").is_dir():
        yield from sorted(path for path in (folder / "towers").iterdir() if path.is_dir())


def vision_model(config: PreTrainedConfig) -> nn.Module:
    """The tower that sees, of a config of `VISION`."""
    return (CLIPVisionModel if isinstance(config, CLIPVisionConfig) else SiglipVisionModel)(config)


def patches(vision: nn.Module, frames: torch.Tensor, layers: int) -> torch.Tensor:
    """What a vision tower sees after so many layers: frames (n, 3, h, w) to patches (n, N, C), no class token.

    What comes after them is not computed.
    """
    x = vision.embeddings(frames.to(vision.dtype))
    is_clip = isinstance(vision, CLIPVisionModel)
    if is_clip:
        x = vision.pre_layrnorm(x)
    for layer in vision.encoder.layers[:layers]:
        x = layer(x, None)
    return x[:, 1:] if is_clip else x


OF_VISION = Names(
    {"vision_model.": "vision."},
    (r".*position_ids$", r"text_model\.", r"(visual|text)_projection\.", r"logit_(scale|bias)$"),
)
OF_WHISPER = Names(
    {"model.encoder.": "audio.", "encoder.": "audio."},
    (r"model\.decoder\.", r"proj_out\.", r"(projector|classifier)\.", r"layer_weights$"),
)
OF_BERT = Names(
    {"bert.": "gate_bert.", "": "gate_bert."},
    (r"(bert\.)?pooler\.", r"cls\.", r".*position_ids$"),
    suffixes={".gamma": ".weight", ".beta": ".bias"},  # as the first BERTs have them
)
"""Names of the weights in the towers' own folders, and of ours."""


def part(kind: str, place: Path | None, hint: str | None) -> Tower:
    """A tower that is loaded from a folder of its own where the checkpoint lacks it; the hub is asked last."""
    prefix, names = {
        "vision": ("vision.", OF_VISION),
        "audio": ("audio.", OF_WHISPER),
        "gate": ("gate_bert.", OF_BERT),
    }[kind]
    return Tower(prefix, place, hint, names, f"--set mllm.towers.{kind}=FOLDER")


def layers_used(config: PreTrainedConfig, select_layer: int) -> int:
    """How many of a vision tower's layers are computed; raises `BadInput` for a layer that it has not."""
    outputs = config.num_hidden_layers + 1  # the embeddings' comes first
    if not -outputs <= select_layer < outputs:
        raise BadInput(f"mm_vision_select_layer {select_layer} is none of the {outputs} states of its vision tower")
    return select_layer % outputs


def side(config: PreTrainedConfig) -> int:
    """Patches along a picture's side."""
    return config.image_size // config.patch_size


def json_of(path: Path) -> dict:
    """What a JSON file says, nothing if it is not there; raises `BadInput` if it is no JSON."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except ValueError as error:
        raise BadInput(f"{path}: not JSON ({error}); copy the original's") from None
    return values if isinstance(values, dict) else {}


def _mend(kinds: dict) -> str:
    name = "vision" if kinds is VISION else "audio" if kinds is AUDIO else "gate"
    return f"--set mllm.towers.{name}=FOLDER"
