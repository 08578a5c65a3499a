"""The tokenizers that lie beside a checkpoint and its gate, refused where they are none.

transformers makes an empty tokenizer of a folder that has a config and no vocabulary, and says nothing.
"""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from uacs.errors import BadInput
from uacs.mllm.native.hub import local


def decoder_tokenizer(spec: str, fallback: str | None) -> PreTrainedTokenizerBase:
    """A checkpoint's own tokenizer; raises `BadInput` naming `spec`.

    fallback is the chat template of families whose folders may come without one.
    """
    try:
        tokenizer = _with_words(local(spec))
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(" :")
        raise BadInput(f"{spec}: no tokenizer ({first}); copy the checkpoint's tokenizer files") from None
    if tokenizer.eos_token_id is None:
        raise BadInput(f"{spec}: its tokenizer names no end-of-turn token; copy the checkpoint's tokenizer_config.json")
    tokenizer.chat_template = tokenizer.chat_template or fallback
    if not tokenizer.chat_template:
        raise BadInput(f"{spec}: no chat template; copy the checkpoint's tokenizer_config.json or chat_template.jinja")
    return tokenizer


def gate_tokenizer(spec: str, place: Path | None, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of HumanOmni's gate: of its tower's folder, else of the hub or its cache."""
    try:
        return _with_words(place or name)
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(
            f"{spec}: no tokenizer for its gate, by which {name} reads the question; name a folder of it: "
            "--set mllm.towers.gate=FOLDER"
        ) from None


def _with_words(place: Path | str) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(place)
    if not set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab()) - set(tokenizer.all_special_tokens):
        raise ValueError("it has no vocabulary")
    return tokenizer
