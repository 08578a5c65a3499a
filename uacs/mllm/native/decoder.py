"""What the families' files share of loading and saving a whole model: config.json, the decoder, its finish."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig, PreTrainedConfig

from uacs.errors import BadInput, reason
from uacs.mllm import four_bits
from uacs.mllm.native import checkpoint
from uacs.mllm.native.checkpoint import Checkpoint, Names, Tower
from uacs.mllm.native.spliced import SplicedModel

Model = TypeVar("Model", bound=SplicedModel)


def without_weights(kind: Callable[[Any], Model], config: Any, folder: Path) -> Model:
    """A model of a config whose parameters are still to come; raises `BadInput` for sizes that make none."""
    try:
        with checkpoint.without_weights():
            return kind(config)
    except Exception as error:  # sizes that do not go together fail wherever they meet
        raise BadInput(f"{folder}: {reason(error)}; copy the checkpoint's own config.json") from None


def filled(
    model: Model,
    source: Checkpoint,
    names: Names,
    parts: Mapping[str, Tower],
    dtype: torch.dtype,
    device: str,
    load_in_4bit: bool,
) -> Model:
    """The model with its weights, in eval mode, `report` saying what came from where."""
    if load_in_4bit:
        _to_4bit(model, source.folder, dtype)
    tied = tied_weights(model)
    here = {title: part for title, part in parts.items() if hasattr(model, part.prefix.rstrip("."))}
    try:
        model.report = checkpoint.fill(model, source, names, here, dtype, device, tied)
    except torch.OutOfMemoryError as error:
        told = f"{source.folder}: too large for {device} ({reason(error)})"
        raise BadInput(f"{told}; try mllm.dtype=bfloat16 or mllm.load_in_4bit=true") from None
    model.llm.tie_weights()
    _read_generation(model, source.folder)
    return model.eval()


def _read_generation(model: SplicedModel, folder: Path) -> None:
    if not (folder / "generation_config.json").is_file():
        return
    try:
        model.llm.generation_config = GenerationConfig.from_pretrained(folder)
    except Exception as error:  # it is a program's own file, and may hold anything
        raise BadInput(f"{folder}: generation_config.json: {reason(error)}; copy the checkpoint's own") from None


def tied_weights(model: SplicedModel) -> list[str]:
    """Weights of the decoder that are others' too."""
    return ["llm.lm_head.weight"] if model.llm.config.tie_word_embeddings else []


def save(
    model: SplicedModel, folder: Path, names: Names, raw: Mapping, configs: Mapping[str, PreTrainedConfig]
) -> None:
    """Write config.json, the configs of towers by their kind, and weights by their published names."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, config in configs.items():
        (tower_folder(folder, kind) / "config.json").write_text(config.to_json_string(use_diff=False))
    checkpoint.save(model, folder, names, tied_weights(model))
    model.llm.generation_config.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(dict(raw), indent=2) + "\n")


def tower_folder(folder: Path, kind: str) -> Path:
    """Where a folder of ours keeps what it knows of its vision, audio or gate tower; made if it is not there."""
    place = folder / "towers" / kind
    place.mkdir(parents=True, exist_ok=True)
    return place


def _to_4bit(model: SplicedModel, folder: Path, dtype: torch.dtype) -> None:
    """The decoder's linear layers as bitsandbytes' nf4, double quantised; towers and connectors stay as they are."""
    wanted = four_bits(str(folder), dtype)
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    replace_with_bnb_linear(model.llm.model, quantization_config=wanted)
