"""What the families' files share of loading and saving a whole model: config.json, the decoder, its finish."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import BitsAndBytesConfig, GenerationConfig, PreTrainedConfig

from uacs.errors import BadInput
from uacs.mllm import need_quantizer
from uacs.mllm.native import checkpoint
from uacs.mllm.native.checkpoint import Checkpoint, Names, Tower
from uacs.mllm.native.spliced import SplicedModel

Config = TypeVar("Config", bound=PreTrainedConfig)
Model = TypeVar("Model", bound=SplicedModel)

LEGACY = ("rope_theta", "rope_scaling")  # which today's configs turn into rope_parameters


def read_config(folder: Path) -> dict:
    """A folder's config.json; raises `BadInput` naming it."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise BadInput(f"{folder}: no config.json, so no model; name a checkpoint folder or a hub id") from None
    except ValueError as error:
        raise BadInput(f"{folder}: config.json is none ({error}); copy the checkpoint's own") from None
    if not isinstance(values, dict):
        raise BadInput(f"{folder}: config.json is none; copy the checkpoint's own")
    return values


def need(folder: Path, raw: Mapping, *fields: str) -> None:
    """Raise `BadInput` for a config.json that lacks one of the fields."""
    if missing := [name for name in fields if raw.get(name) is None]:
        raise BadInput(f"{folder}: config.json lacks {', '.join(missing)}; copy the checkpoint's own")


def text_config(kind: type[Config], raw: Mapping) -> Config:
    """The decoder's part of a published config.json."""
    known = {*kind().to_dict(), *LEGACY} - {"model_type", "dtype", "architectures"}
    kept = {name: raw[name] for name in sorted(known) if name in raw}
    if kept.get("rope_scaling", 0) is None:
        del kept["rope_scaling"]  # today's configs warn of it, even where it says nothing
    config = kind.from_dict(kept)
    config.dtype = None  # what the caller says, not what the file happened to be saved in
    return config


def without_weights(kind: Callable[[Any], Model], config: Any, folder: Path) -> Model:
    """A model of a config whose parameters are still to come; raises `BadInput` for sizes that make none."""
    try:
        with checkpoint.without_weights():
            return kind(config)
    except (BadInput, ValueError, TypeError) as error:  # transformers checks what its configs say
        first = str(error).strip().splitlines()[0]
        raise BadInput(f"{folder}: {first}; copy the checkpoint's own config.json") from None


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
    except (torch.OutOfMemoryError, AssertionError) as error:  # torch asserts that it was built with CUDA
        first = str(error).strip().splitlines()[0]
        raise BadInput(f"{source.folder}: cannot be put on {device} ({first}); name another mllm.device") from None
    model.llm.tie_weights()
    if (source.folder / "generation_config.json").is_file():
        model.llm.generation_config = GenerationConfig.from_pretrained(source.folder)
    return model.eval()


def tied_weights(model: SplicedModel) -> list[str]:
    """Weights of the decoder that are others' too."""
    return ["llm.lm_head.weight"] if model.llm.config.tie_word_embeddings else []


def save(
    model: SplicedModel, folder: Path, names: Names, raw: Mapping, configs: Mapping[str, PreTrainedConfig]
) -> None:
    """Write config.json, towers' configs by the names that it has for them, and weights by their published names."""
    folder.mkdir(parents=True, exist_ok=True)
    for hint, config in configs.items():
        (tower_folder(folder, hint) / "config.json").write_text(config.to_json_string(use_diff=False))
    checkpoint.save(model, folder, names, tied_weights(model))
    model.llm.generation_config.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(dict(raw), indent=2) + "\n")


def tower_folder(folder: Path, hint: str) -> Path:
    """Where a folder of ours keeps what it knows of a tower; made if it is not there."""
    place = folder / "towers" / Path(hint).name
    place.mkdir(parents=True, exist_ok=True)
    return place


def _to_4bit(model: SplicedModel, folder: Path, dtype: torch.dtype) -> None:
    """The decoder's linear layers as bitsandbytes' nf4, double quantised; towers and connectors stay as they are."""
    need_quantizer(str(folder))
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    wanted = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    replace_with_bnb_linear(model.llm.model, quantization_config=wanted)
