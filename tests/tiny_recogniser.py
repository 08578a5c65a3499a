"""A wav2vec 2.0 and a Whisper of random weights, seeded, that prefer letters to silence."""

import json
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SYMBOLS = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
MARKS = [
    "endoftext",
    "startoftranscript",
    "en",
    "zh",
    "translate",
    "transcribe",
    "startoflm",
    "startofprev",
    "nospeech",
    "notimestamps",
]


def save(folder: Path) -> None:
    """Write it as `from_pretrained` reads it."""
    (folder / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(SYMBOLS)}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(SYMBOLS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(16, 16),
        conv_kernel=(320, 4),
        conv_stride=(160, 2),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    model = Wav2Vec2ForCTC(config)
    with torch.no_grad():
        model.lm_head.bias[:5] = -100.0
        model.lm_head.weight *= 50
    model.save_pretrained(folder)


def save_whisper(folder: Path) -> None:
    """The same of a Whisper that knows English and Chinese, and must be told which it hears."""
    (folder / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(bytes_to_unicode().values())}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.add_tokens([f"<|{mark}|>" for mark in MARKS], special_tokens=True)
    tokenizer.add_tokens([f"<|{step * 0.02:.2f}|>" for step in range(1501)])
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    ids = {mark: tokenizer.convert_tokens_to_ids(f"<|{mark}|>") for mark in MARKS}
    ends = dict.fromkeys(("eos_token_id", "pad_token_id", "bos_token_id"), ids["endoftext"])
    ends["decoder_start_token_id"] = ids["startoftranscript"]
    torch.manual_seed(0)
    small = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    small |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    small |= dict.fromkeys(("d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 16)
    config = WhisperConfig(vocab_size=len(tokenizer), num_mel_bins=8, max_target_positions=64, **small, **ends)
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        model.proj_out.weight *= 50
    model.generation_config = GenerationConfig(
        is_multilingual=True,
        lang_to_id={f"<|{language}|>": ids[language] for language in ("en", "zh")},
        task_to_id={task: ids[task] for task in ("transcribe", "translate")},
        no_timestamps_token_id=ids["notimestamps"],
        prev_sot_token_id=ids["startofprev"],
        suppress_tokens=[i for i in range(len(tokenizer)) if tokenizer.convert_ids_to_tokens(i) not in LETTERS],
        begin_suppress_tokens=[ids["endoftext"]],
        max_length=40,
        **ends,
    )
    model.save_pretrained(folder)
