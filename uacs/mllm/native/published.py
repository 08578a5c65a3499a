"""A published config.json: what it says of media, checked once, and what of it makes the decoder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from transformers import PreTrainedConfig

from uacs.errors import BadInput, reason

Config = TypeVar("Config", bound=PreTrainedConfig)

DECODER = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
    "attention_dropout",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""Fields that make the decoder; the rest of a config.json is of media, or of how somebody once ran it."""


class Published(BaseModel):
    """The fields of both families that are about media, under their published names; others are not looked at.

    `mm_audio_windows` and its like are ours: how much a VideoLLaMA2 hears, where that is not the published amount.
    """

    model_config = ConfigDict(strict=True, extra="ignore")

    model_type: str
    hidden_size: int = Field(ge=1)
    mm_vision_tower: str
    mm_hidden_size: int = Field(ge=1)
    mm_projector_type: str
    mm_vision_select_layer: int = -2
    mm_vision_select_feature: Literal["patch"] = "patch"
    mm_use_x_start_end: bool = False
    mm_audio_tower: str | None = None
    mm_audio_projector_type: str | None = None
    mm_projector_a_type: str = "linear"
    hidden_size_a: int | None = Field(None, ge=1)
    num_frames: int = Field(8, ge=1, description="the originals' own default is 8")
    mm_audio_windows: int = Field(8, ge=1)
    mm_audio_window: float = Field(2.0, gt=0)
    mm_audio_seconds: float = Field(30.0, ge=0.2)

    @field_validator("mm_vision_select_layer", "mm_vision_select_feature", "mm_projector_a_type", mode="before")
    @classmethod
    def _null_is_nothing(cls, value: object, info) -> object:
        return cls.model_fields[info.field_name].default if value is None else value

    @field_validator("num_frames", "mm_use_x_start_end", mode="before")
    @classmethod
    def _null_or_zero_is_nothing(cls, value: object, info) -> object:
        return value or cls.model_fields[info.field_name].default


def read(folder: Path) -> tuple[dict, Published]:
    """A folder's config.json as it stands, and checked; raises `BadInput` naming folder, field and mend."""
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError:
        raise BadInput(f"{folder}: no config.json, so no model; name a checkpoint folder or a hub id") from None
    except ValueError as error:
        raise BadInput(f"{folder}: config.json is none ({error}); copy the checkpoint's own") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{folder}: config.json is none; copy the checkpoint's own")
    if raw.get("quantization_config"):
        raise BadInput(
            f"{folder}: its weights are quantised already; take the ones that are not, and mllm.load_in_4bit=true"
        )
    return raw, checked(raw, folder)


def checked(raw: Mapping, folder: Path) -> Published:
    """What a config.json says of media; raises `BadInput` naming folder, field and mend."""
    try:
        return Published.model_validate(dict(raw))
    except ValidationError as error:
        first = error.errors()[0]
        field, told = ".".join(map(str, first["loc"])), first["msg"].lower()
        raise BadInput(f"{folder}: config.json: {field}: {told}; copy the checkpoint's own") from None


def decoder(kind: type[Config], raw: Mapping, folder: Path) -> Config:
    """The decoder's config; raises `BadInput` naming folder and mend."""
    kept = {name: raw[name] for name in DECODER if name in raw}
    if kept.get("rope_scaling", 0) is None:
        del kept["rope_scaling"]  # today's configs warn of it, even where it says nothing
    return of(kind, kept, f"{folder}: config.json")


def of(kind: type[Config], values: Mapping, what: str) -> Config:
    """A config of transformers; raises `BadInput` with `what` is wrong: its own checks raise as they like."""
    try:
        return kind.from_dict(dict(values))
    except Exception as error:
        raise BadInput(f"{what}: {reason(error)}; copy the original's") from None
