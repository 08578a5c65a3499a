"""The VideoLLaMA2 family (arXiv 2406.07476): VideoLLaMA2.1-7B-AV, which hears, and the 7B and 7B-16F, which do not.

A Qwen2 or Mistral decoder sees through SigLIP or CLIP and a convolution over space and time, and hears through
BEATs. Sound stands right behind the pictures, in the same marker's place. Published folders are loaded as they
are.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import MistralConfig, MistralForCausalLM, PreTrainedConfig, Qwen2Config, Qwen2ForCausalLM

from uacs.errors import BadInput
from uacs.mllm import MllmSettings, Towers
from uacs.mllm.native import decoder, published, towers
from uacs.mllm.native.beats import Beats, BeatsConfig
from uacs.mllm.native.checkpoint import Checkpoint, Names, Tower
from uacs.mllm.native.connectors import mlp, video_connector
from uacs.mllm.native.hub import local
from uacs.mllm.native.inputs import Media, NativeInputs
from uacs.mllm.native.pictures import Pictures
from uacs.mllm.native.published import Published
from uacs.mllm.native.sounds import FilterBanks
from uacs.mllm.native.spliced import (
    AUDIO,
    IMAGE,
    MARKERS,
    SOUNDS_AT_ONCE,
    VIDEO,
    Rows,
    SplicedModel,
    clips_at_once,
    each,
    rows_of,
    stacked,
)
from uacs.mllm.native.spliced import decoder_of as decoder_of
from uacs.mllm.native.spliced import embedded as embedded
from uacs.mllm.native.spliced import of_towers as of_towers
from uacs.mllm.native.tokenizers import decoder_tokenizer
from uacs.mllm.native.turns import QWEN2_TEMPLATE, Turns

DECODERS = {
    "videollama2": (MistralConfig, MistralForCausalLM),
    "videollama2_mistral": (MistralConfig, MistralForCausalLM),
    "videollama2_qwen2": (Qwen2Config, Qwen2ForCausalLM),
}
BEATS_FILE = "beats.json"  # in towers/, what weights' shapes do not say
BEATS = "model.audio_tower."

NAMES = Names(
    {
        "model.vision_tower.vision_tower.vision_model.": "vision.",
        "model.mm_projector.": "projector.",
        BEATS: "audio.",
        "model.mm_projector_a.": "audio_projector.",
        "model.": "llm.model.",
        "lm_head.": "llm.lm_head.",
    },
    ignored=(
        r"model\.audio_tower\.predictor\.",  # BEATs' head for sounds' classes
        r"model\.audio_tower\.encoder\.layers\.[1-9]\d*\.self_attn\.relative_attention_bias\.",  # layer 0's
        r".*\.position_ids$",  # counted, not learnt
        r".*rotary_emb\.inv_freq$",
    ),
)

SYSTEM = (
    "<<SYS>>\nYou are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being "
    "safe.  Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal "
    "content. Please ensure that your responses are socially unbiased and positive in nature.\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information.\n<</SYS>>"
)
"""Llama 2's system message, which the Mistral checkpoints were trained with and are asked with."""

CONNECTORS = ("projector", "audio_projector")
"""The modules that lead from towers to decoder."""


@dataclass(frozen=True)
class VideoLlama2Config:
    """Every size of a VideoLLaMA2; `raw` is the config.json that it was read from."""

    raw: Mapping
    media: Published
    text: PreTrainedConfig
    vision: PreTrainedConfig
    beats: BeatsConfig | None
    audio_width: int
    places: Mapping[str, Path | None]

    @classmethod
    def of(cls, raw: Mapping, folder: Path, named: Towers, shapes: Mapping[str, torch.Size]) -> "VideoLlama2Config":
        """What config.json, towers and, where there are any, weights say; raises `BadInput` where they do not."""
        media = published.checked(raw, folder)
        vision, place = towers.tower(folder, media.mm_vision_tower, named.vision, towers.VISION)
        if named.gate or (named.audio and not media.mm_audio_tower):
            raise BadInput(f"{folder}: a model without {'gate' if named.gate else 'ears'}; leave its mllm.towers away")
        beats, width, heard = None, 0, local(named.audio) if named.audio else None
        if media.mm_audio_tower:
            beats = _beats_config(folder, heard, shapes)
            # the original's default is another decoder's width; the weights know
            said = shapes.get("model.mm_projector_a.0.weight") or shapes.get("model.mm_projector_a.weight")
            width = said[0] if said else media.hidden_size_a or media.hidden_size
        text = published.decoder(DECODERS[media.model_type][0], raw, folder)
        return cls(raw, media, text, vision, beats, width, {"vision": place, "audio": heard})


class VideoLlama2(SplicedModel):
    """The model; `forward` takes the tensors below and returns logits (B, L, V).

    input_ids (B, l) with -201 (or -200, a picture) where video and sound behind it stand, or -202 for sound alone;
    frames (B, T, 3, side, side) as the vision tower takes them, of a picture (B, 1, 3, side, side); audio_fbank
    (B, frames, mels) as BEATs does. Where rows differ in what they have, a medium is a list with None for a row
    without it. Texts of mixed lengths come with an attention_mask (B, l), 0 where ids are padding.
    """

    media = ("frames", "audio_fbank")

    def __init__(self, config: VideoLlama2Config):
        super().__init__()
        self.config, media, width = config, config.media, config.text.hidden_size
        self.layers = towers.layers_used(config.vision, media.mm_vision_select_layer)
        self.llm = DECODERS[media.model_type][1](config.text)
        self.vision = towers.vision_model(config.vision)
        side = towers.side(config.vision)
        self.projector = video_connector(media.mm_projector_type, media.mm_hidden_size, width, side)
        if config.beats is not None:
            self.audio = Beats(config.beats)
            self.audio_projector = mlp(media.mm_projector_a_type, config.beats.encoder_embed_dim, config.audio_width)

    def encoded(
        self, ids: list[torch.Tensor], frames: Rows = None, audio_fbank: Rows = None
    ) -> list[dict[int, torch.Tensor]]:
        """What stands in the markers' places, for each row: no question changes it."""
        seen, heard = rows_of(frames, ids, IMAGE, VIDEO), rows_of(audio_fbank, ids, VIDEO, AUDIO)
        for k, row in enumerate(ids):
            if IMAGE in row and (picture := seen[k]) is not None:  # a picture is a film that stands still
                seen[k] = picture.expand(self.config.media.num_frames, -1, -1, -1)
        video = each(seen, lambda group: self.video_tokens(stacked(seen, group)), clips_at_once(seen))
        sound = each(heard, lambda group: self.audio_tokens(stacked(heard, group)), SOUNDS_AT_ONCE)
        return [_placed(*row) for row in zip(ids, video, sound, strict=True)]

    def features(self, ids: list[torch.Tensor], encoded: list[dict]) -> list[dict[int, torch.Tensor]]:
        """The same."""
        return encoded

    def video_tokens(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, T, 3, side, side) to (B, n, H)."""
        patches = towers.patches(self.vision, frames.flatten(0, 1).to(self.device), self.layers)
        return self.projector(patches.unflatten(0, frames.shape[:2]))

    def video_count(self, frames: int) -> int:
        """How many tokens a clip of so many frames takes."""
        return self.projector.tokens(frames, towers.side(self.config.vision))

    def audio_tokens(self, fbank: torch.Tensor) -> torch.Tensor:
        """(B, frames, mels) to (B, n, H)."""
        return self.audio_projector(self.audio(fbank.to(self.device, self.llm.dtype)))


class Inputs(NativeInputs):
    """VideoLLaMA2's way from samples to tensors."""

    sound_name = "audio_fbank"

    def __init__(self, spec: str, model: VideoLlama2, settings: MllmSettings):
        config, media = model.config, model.config.media
        on_qwen = media.model_type == "videollama2_qwen2"
        tokenizer = decoder_tokenizer(spec)
        system, fallback = (None, QWEN2_TEMPLATE) if on_qwen else (SYSTEM, None)
        turns = Turns(spec, tokenizer, system=system, fallback=fallback)
        fewest = 1 if model.video_count(1) else 2  # a connector that halves time makes nothing of one frame
        frames = max(settings.frames or media.num_frames, fewest)
        pictures = Pictures(config.vision, config.places["vision"], settings.aspect, frames)
        banks = FilterBanks(media.mm_audio_windows, media.mm_audio_window, media.mm_audio_seconds)
        sound = None if config.beats is None else banks.fbank
        super().__init__(spec, turns, pictures, sound, config.text.max_position_embeddings)
        self.config, self.model = config, model

    def place(self, frames: torch.Tensor | None, sound: torch.Tensor | None) -> Media:
        """`<video>` for pictures and for sound behind them, `<audio>` for sound alone."""
        if frames is None and sound is None:
            return Media()
        seen = 0 if frames is None else self.model.video_count(len(frames))
        heard = 0 if sound is None else Beats.tokens(*sound.shape)
        marker = "<audio>" if frames is None else "<video>"
        return Media(frames, sound, marker, {MARKERS[marker]: seen + heard})

    def save(self, folder: Path) -> None:
        """Write tokenizer, template and preprocessor beside the tower's config."""
        super().save(folder)
        self.pictures.processor.save_pretrained(decoder.tower_folder(folder, "vision"))


def load(spec: str, dtype: torch.dtype, device: str, named: Towers, load_in_4bit: bool = False) -> VideoLlama2:
    """The model of a folder or hub id, in eval mode; raises `BadInput` naming the folder and the mend."""
    folder = local(spec)
    raw, media = published.read(folder)
    checkpoint = Checkpoint(folder)
    config = VideoLlama2Config.of(raw, folder, named, checkpoint.shapes)
    model = decoder.without_weights(VideoLlama2, config, folder)
    of_beats = Names({"": "audio."}, tuple(pattern.removeprefix(r"model\.audio_tower\.") for pattern in NAMES.ignored))
    parts = {
        "vision": towers.part("vision", config.places["vision"], media.mm_vision_tower),
        "audio": Tower("audio.", config.places["audio"], None, of_beats, "--set mllm.towers.audio=FOLDER"),
    }
    return decoder.filled(model, checkpoint, NAMES, parts, dtype, device, load_in_4bit)


def save(model: VideoLlama2, folder: Path) -> None:
    """Write a folder as the published ones are, that `load` reads; `Inputs.save` adds what it needs."""
    config = model.config
    decoder.save(model, folder, NAMES, config.raw, {"vision": config.vision})
    if config.beats is not None:
        (folder / "towers" / BEATS_FILE).write_text(json.dumps(vars(config.beats), indent=2) + "\n")


def _placed(ids: torch.Tensor, video: torch.Tensor | None, sound: torch.Tensor | None) -> dict[int, torch.Tensor]:
    """A row's tokens by the marker that it holds; sound stands behind pictures."""
    there = [tokens for tokens in (video, sound) if tokens is not None]
    if not there:
        return {}
    marker = AUDIO if video is None else IMAGE if IMAGE in ids else VIDEO
    return {marker: torch.cat(there)}


def _beats_config(folder: Path, named: Path | None, shapes: Mapping[str, torch.Size]) -> BeatsConfig:
    """BEATs' sizes, by its weights in the checkpoint, else in the folder named for it, and by beats.json."""
    its = {name.removeprefix(BEATS): shape for name, shape in shapes.items() if name.startswith(BEATS)}
    if named and not its:
        its = Checkpoint(named, either=True).shapes
    places = [named / BEATS_FILE] if named else []
    said = next(filter(None, map(towers.json_of, [*places, folder / "towers" / BEATS_FILE])), {})
    return BeatsConfig.of(said, its)
