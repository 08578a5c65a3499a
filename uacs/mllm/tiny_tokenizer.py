"""A tokenizer of the published models' kind, made from the texts at hand, for the tiny models."""

import json
from collections.abc import Iterable, Mapping

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

ROLES = ["user", "assistant"] * 2  # twice, since a pair seen once is not merged


def create(
    texts: Iterable[str], phrases: Iterable[str], size: int, template: str, media: Mapping[str, str] | None = None
) -> Qwen2Tokenizer:
    """Byte-level BPE over Qwen's own splitting, in which every digit, sign and point stands alone.

    It knows the words of `texts`, and each of `phrases` whole; media are special tokens by their names.
    """
    like = Qwen2Tokenizer().backend_tokenizer
    trained = Tokenizer(models.BPE())
    trained.normalizer, trained.pre_tokenizer = like.normalizer, like.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([*texts, *ROLES], trainer)
    learned = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        unk_token=PAD,
        pad_token=PAD,
        eos_token=TURN_END,
        **({"extra_special_tokens": dict(media)} if media else {}),
    )
    tokenizer.add_tokens([AddedToken(TURN_START, special=True)])
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    tokenizer.chat_template = template
    return tokenizer
