"""A HumanOmni and a VideoLLaMA2.1-AV of about a million parameters, for the demo and the tests.

Each `create_...` writes a folder, untrained, as the published ones are: config.json, weights and their names,
tokenizer, and the towers' configs beside them, so it is loaded as any other. What differs is size, the
tokenizer's vocabulary, and that a sound is two seconds long: the generated clips are no longer.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Tokenizer,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from uacs.mllm import humanomni, tiny_tokenizer, videollama2
from uacs.mllm.native import decoder, published
from uacs.mllm.native.beats import BeatsConfig
from uacs.mllm.native.turns import WRAPS

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

VISION, AUDIO, BEATS = "towers/siglip-tiny", "towers/whisper-tiny", "towers/beats.pt"
SECONDS = 2
BERT_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


class TinySettings(BaseModel):
    """Sizes of the tiny models."""

    model_config = ConfigDict(extra="forbid")

    width: int = Field(128, ge=32, multiple_of=32, description="of the decoder; four heads, two for keys")
    layers: int = Field(3, ge=1)
    tower_width: int = Field(64, ge=32, multiple_of=16, description="of each tower; four heads")
    tower_layers: int = Field(2, ge=1, description="that are used; SigLIP has one more, which is not")
    pixels: int = Field(56, ge=28, multiple_of=28, description="side of a frame; a patch is 14, their number even")
    frames: int = Field(2, ge=2)
    mels: int = Field(64, ge=16, description="of Whisper; BEATs has the published 128")
    vocabulary: int = Field(2000, ge=300, description="most tokens; texts of few words use fewer")
    seed: int = 0


def create_humanomni(
    folder: Path, texts: Iterable[str], phrases: Iterable[str], settings: TinySettings | None = None
) -> None:
    """Write an untrained HumanOmni whose tokenizer knows the words of `texts` and each of `phrases` whole."""
    settings, texts, phrases = settings or TinySettings(), list(texts), list(phrases)
    tower = settings.tower_width
    extractor = WhisperFeatureExtractor(feature_size=settings.mels, chunk_length=SECONDS, hop_length=320, n_fft=800)
    audio = WhisperConfig(
        d_model=tower,
        encoder_layers=settings.tower_layers,
        encoder_attention_heads=4,
        encoder_ffn_dim=2 * tower,
        num_mel_bins=settings.mels,
        max_source_positions=extractor.nb_max_frames // 2,
    )
    wraps = [text for pair in WRAPS.values() for text in pair]
    tokenizer = tiny_tokenizer.create(texts, [*phrases, *wraps], settings.vocabulary, CHAT_TEMPLATE)
    gate_tokenizer = _words([*texts, *phrases])
    gate = BertConfig(
        vocab_size=len(gate_tokenizer),
        hidden_size=tower,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=2 * tower,
        max_position_embeddings=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    raw = {
        **_shared(tokenizer, settings),
        "architectures": ["HumanOmniQwen2ForCausalLM"],
        "model_type": "HumanOmni_qwen2",
        "mm_projector_type": "all_in_one_small",  # its grid is even, as 4 x 4 is
        "mm_audio_tower": AUDIO,
        "mm_audio_projector_type": "mlp2x_gelu",
        "mm_use_x_start_end": True,
    }
    media, text = published.checked(raw, folder), published.decoder(Qwen2Config, raw, folder)
    places = dict.fromkeys(("vision", "gate", "audio"))
    config = humanomni.HumanOmniConfig(raw, media, text, _vision(settings), gate, tower, audio, places)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = humanomni.HumanOmni(config)
    humanomni.save(_with_ends(model, tokenizer), folder)
    _save_preprocessors(folder, tokenizer, settings)
    extractor.save_pretrained(decoder.tower_folder(folder, "audio"))
    gate_tokenizer.save_pretrained(decoder.tower_folder(folder, "gate"))


def create_videollama2(
    folder: Path, texts: Iterable[str], phrases: Iterable[str], settings: TinySettings | None = None
):
    """Write an untrained VideoLLaMA2.1-AV whose tokenizer knows the words of `texts` and each of `phrases` whole."""
    settings = settings or TinySettings()
    tower = settings.tower_width
    beats = BeatsConfig(
        embed_dim=tower // 2,
        encoder_layers=settings.tower_layers,
        encoder_embed_dim=tower,
        encoder_ffn_embed_dim=2 * tower,
        encoder_attention_heads=4,
        conv_pos=16,
        conv_pos_groups=4,
        num_buckets=32,
        max_distance=64,
    )
    tokenizer = tiny_tokenizer.create(texts, phrases, settings.vocabulary, CHAT_TEMPLATE)
    raw = {
        **_shared(tokenizer, settings),
        "architectures": ["Videollama2Qwen2ForCausalLM"],
        "model_type": "videollama2_qwen2",
        "mm_projector_type": "stc_connector_v35",
        "mm_audio_tower": BEATS,
        "mm_projector_a_type": "mlp2x_gelu",
        "mm_hidden_size_a": tower,
        "hidden_size_a": settings.width,
        "mm_audio_windows": 1,
        "mm_audio_window": SECONDS,
        "mm_audio_seconds": SECONDS,
    }
    media, text = published.checked(raw, folder), published.decoder(Qwen2Config, raw, folder)
    places = dict.fromkeys(("vision", "audio"))
    config = videollama2.VideoLlama2Config(raw, media, text, _vision(settings), beats, settings.width, places)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = videollama2.VideoLlama2(config)
    videollama2.save(_with_ends(model, tokenizer), folder)
    _save_preprocessors(folder, tokenizer, settings)


def _shared(tokenizer: Qwen2Tokenizer, settings: TinySettings) -> dict:
    """The fields of config.json that say what the decoder is, and what both families' configs have."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": settings.width,
        "intermediate_size": 2 * settings.width,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rope_theta": 1e4,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "mm_vision_tower": VISION,
        "mm_hidden_size": settings.tower_width,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "num_frames": settings.frames,
    }


def _vision(settings: TinySettings) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=settings.tower_width,
        intermediate_size=2 * settings.tower_width,
        num_hidden_layers=settings.tower_layers + 1,
        num_attention_heads=4,
        image_size=settings.pixels,
        patch_size=14,
    )


def _with_ends(model, tokenizer: Qwen2Tokenizer):
    """The model, generating until the turn's end."""
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _save_preprocessors(folder: Path, tokenizer: Qwen2Tokenizer, settings: TinySettings) -> None:
    tokenizer.save_pretrained(folder)
    side = {"height": settings.pixels, "width": settings.pixels}
    SiglipImageProcessorPil(size=side).save_pretrained(decoder.tower_folder(folder, "vision"))


def _words(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A BERT tokenizer with a word a token."""
    words = Tokenizer(models.WordLevel(unk_token=BERT_TOKENS["unk_token"]))
    words.normalizer, words.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=list(BERT_TOKENS.values())))
    ends = [(token, words.token_to_id(token)) for token in (BERT_TOKENS["cls_token"], BERT_TOKENS["sep_token"])]
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=256, **BERT_TOKENS)
