"""A Qwen2.5-Omni thinker of under a million parameters, for the demo and the tests.

`create` writes a normal checkpoint folder, untrained: config, weights, tokenizer, chat template and
preprocessor settings under the names that published checkpoints use, so `QwenOmni` loads it as any
other. Everything is the published model's kind, only smaller; what differs is the tokenizer's
vocabulary, which is made from the texts at hand and holds each fixed phrase of the prompts as one token,
so that a prompt is hardly longer than its clip and its transcript.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import (
    GenerationConfig,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Tokenizer,
    WhisperFeatureExtractor,
)

from uacs.mllm import tiny_tokenizer

IMAGE, VIDEO, VISION_START, VISION_END = "<|IMAGE|>", "<|VIDEO|>", "<|vision_bos|>", "<|vision_eos|>"
AUDIO, AUDIO_START, AUDIO_END = "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"
MEDIA = (
    "image_token",
    "audio_token",
    "video_token",
    "vision_bos_token",
    "vision_eos_token",
    "audio_bos_token",
    "audio_eos_token",
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class TinySettings(BaseModel):
    """Sizes of the tiny thinker; the defaults read a clip of 56 pixels and 2 seconds in 23 tokens."""

    model_config = ConfigDict(extra="forbid")

    width: int = Field(128, ge=32, multiple_of=32, description="of the language model; four heads, two for keys")
    layers: int = Field(3, ge=1)
    tower_width: int = Field(64, ge=32, multiple_of=16, description="of the audio and the vision tower; four heads")
    tower_layers: int = Field(2, ge=1)
    mels: int = Field(64, ge=8)
    hop: int = Field(320, ge=80, description="audio samples between mel frames, at 16 kHz")
    window: int = Field(800, ge=80, description="audio samples a mel frame sees")
    pixels: int = Field(56, ge=28, multiple_of=28, description="side of the square that a frame's area is held near to")
    vocabulary: int = Field(2000, ge=300, description="most tokens; texts of few words use fewer")
    seed: int = 0


def create(folder: Path, texts: Iterable[str], phrases: Iterable[str], settings: TinySettings | None = None) -> None:
    """Write an untrained checkpoint whose tokenizer knows the words of `texts` and each of `phrases` whole."""
    settings = settings or TinySettings()
    media = dict(zip(MEDIA, (IMAGE, AUDIO, VIDEO, VISION_START, VISION_END, AUDIO_START, AUDIO_END), strict=True))
    tokenizer = tiny_tokenizer.create(texts, phrases, settings.vocabulary, CHAT_TEMPLATE, media)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = Qwen2_5OmniThinkerForConditionalGeneration(_config(tokenizer, settings))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(
        feature_size=settings.mels, hop_length=settings.hop, n_fft=settings.window, return_attention_mask=True
    ).save_pretrained(folder)
    area = settings.pixels**2
    video = {"size": {"shortest_edge": area, "longest_edge": area}}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video, indent=2) + "\n")
    model.save_pretrained(folder)


def _config(tokenizer: Qwen2Tokenizer, settings: TinySettings) -> Qwen2_5OmniThinkerConfig:
    ids = tokenizer.convert_tokens_to_ids
    tower = settings.tower_width
    third = settings.width // 8 // 3  # a head's frequencies, shared out to time, height and width
    return Qwen2_5OmniThinkerConfig(
        audio_config=dict(
            num_mel_bins=settings.mels,
            d_model=tower,
            encoder_layers=settings.tower_layers,
            encoder_attention_heads=4,
            encoder_ffn_dim=2 * tower,
            output_dim=settings.width,
            n_window=100,  # one attention window holds 200 mel frames: 4 seconds at the default hop
            max_source_positions=100,
        ),
        vision_config=dict(
            depth=settings.tower_layers,
            hidden_size=tower,
            intermediate_size=2 * tower,
            num_heads=4,
            out_hidden_size=settings.width,
            fullatt_block_indexes=[settings.tower_layers - 1],
        ),
        text_config=dict(
            vocab_size=len(tokenizer),
            hidden_size=settings.width,
            intermediate_size=2 * settings.width,
            num_hidden_layers=settings.layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [settings.width // 8 - 2 * third, third, third],
            },
        ),
        image_token_index=ids(IMAGE),
        audio_token_index=ids(AUDIO),
        video_token_index=ids(VIDEO),
        vision_start_token_id=ids(VISION_START),
        vision_end_token_id=ids(VISION_END),
        audio_start_token_id=ids(AUDIO_START),
        audio_end_token_id=ids(AUDIO_END),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
