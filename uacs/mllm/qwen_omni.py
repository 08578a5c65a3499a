"""The Qwen2.5-Omni family: the thinker of any of its checkpoints.

A hub id or a folder, of the whole model or of its thinker alone; the tiny one of `tiny_omni` is loaded
by the same lines as Qwen/Qwen2.5-Omni-7B.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
)
from transformers.utils import logging

from uacs.errors import BadInput
from uacs.mllm import MllmSettings, Towers, four_bits
from uacs.mllm.omni_inputs import OmniInputs, first_line

CONNECTORS = ("model.visual.merger", "model.audio_tower.proj")
"""The modules that lead from towers to decoder."""


class Inputs(OmniInputs):
    """The thinker's way from samples to tensors."""

    def __init__(self, spec: str, model: Qwen2_5OmniThinkerForConditionalGeneration, settings: MllmSettings):
        super().__init__(spec, model.config, settings.frames)


def load(
    spec: str, dtype: torch.dtype, device: str, named: Towers, load_in_4bit: bool = False
) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """The thinker of a folder or hub id, in eval mode; its towers are always its own, and others are refused."""
    if any(tower for _, tower in named):
        raise BadInput(f"{spec}: a Qwen2.5-Omni has its towers in it; leave mllm.towers away")
    if not load_in_4bit:
        return load_thinker(spec, dtype).to(device).eval()
    wanted = four_bits(spec, dtype, llm_int8_skip_modules=["model.audio_tower", "model.visual", "lm_head"])
    return load_thinker(spec, dtype, quantization_config=wanted, device_map={"": device}).eval()


def save(model: Qwen2_5OmniThinkerForConditionalGeneration, folder: Path) -> None:
    """Write config and weights."""
    model.save_pretrained(folder)


def decoder_of(model: Qwen2_5OmniThinkerForConditionalGeneration) -> torch.nn.Module:
    """The decoder, from embeddings to states."""
    return model.model.language_model


def of_towers(model: Qwen2_5OmniThinkerForConditionalGeneration, batch: dict) -> list[dict[int, torch.Tensor]]:
    """What the towers make of a batch of `Inputs.collate`: for each row tokens (n, H) by the id in whose places."""
    ids, config = batch["input_ids"], model.config
    made: list[dict[int, torch.Tensor]] = [{} for _ in ids]
    if "pixel_values_videos" in batch:
        seen = model.get_video_features(batch["pixel_values_videos"], batch["video_grid_thw"]).pooler_output
        _put(made, ids, config.video_token_id, torch.cat(list(seen)))
    if "input_features" in batch:
        heard = model.get_audio_features(batch["input_features"], batch["feature_attention_mask"]).last_hidden_state
        _put(made, ids, config.audio_token_id, heard)
    return made


def embedded(
    model: Qwen2_5OmniThinkerForConditionalGeneration, batch: dict, encoded: list[dict] | None = None
) -> dict[str, torch.Tensor]:
    """The decoder's arguments for a batch of `Inputs.collate`: inputs_embeds (B, L, H), attention_mask (B, L), and
    position_ids (3, B, L), whose axes differ in pictures alone; `encoded` stands in for towers that have run."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    encoded = of_towers(model, batch) if encoded is None else encoded
    embeds = model.get_input_embeddings()(ids)
    for k, row in enumerate(encoded):
        for token, features in row.items():
            embeds[k, ids[k] == token] = features.to(embeds.dtype)
    heard = batch.get("feature_attention_mask")
    positions, _ = model.get_rope_index(
        ids,
        video_grid_thw=batch.get("video_grid_thw"),
        attention_mask=mask,
        audio_seqlens=None if heard is None else heard.sum(dim=1),
        second_per_grids=batch.get("video_second_per_grid"),
    )
    return {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions}


def _put(made: list[dict[int, torch.Tensor]], ids: torch.Tensor, token: int, features: torch.Tensor) -> None:
    """Deal features (n, H) of a whole batch out to the rows whose places they are for."""
    counts = (ids == token).sum(dim=1).tolist()
    for row, own in zip(made, features.split(counts), strict=True):
        if len(own):
            row[token] = own


def load_thinker(
    spec: str, dtype: torch.dtype = torch.float32, **options
) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """The thinker of a folder or hub id, of the whole model or alone; raises `BadInput` naming it and the mend."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = _thinker_config(spec)
    try:
        model, report = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            spec, config=config, dtype=dtype, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadInput(
            f"{spec}: no weights that fit its config ({first_line(error)}); copy the whole checkpoint"
        ) from None
    if missing := sorted(report["missing_keys"]):
        # transformers would go on with random numbers in their place
        raise BadInput(f"{spec}: {len(missing)} weights are missing, first {missing[0]}; copy the whole checkpoint")
    return model


def _thinker_config(spec: str) -> Qwen2_5OmniThinkerConfig:
    try:
        config = AutoConfig.from_pretrained(spec, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{spec}: no readable config.json ({first_line(error)}); name a checkpoint folder or a hub id"
        ) from None
    config = getattr(config, "thinker_config", config)
    if not isinstance(config, Qwen2_5OmniThinkerConfig):
        raise BadInput(f"{spec}: a {config.model_type}, not a Qwen2.5-Omni thinker; name a checkpoint of that family")
    needed = ("vision_start_token_id", "audio_start_token_id", "video_token_id", "audio_token_id")
    if missing := [name for name in needed if getattr(config, name, None) is None]:
        raise BadInput(f"{spec}: config.json lacks {missing[0]}; copy the checkpoint's own")
    return config
