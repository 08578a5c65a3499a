"""The tokenizers that lie beside a checkpoint and its gate, refused where they are none.

transformers makes an empty tokenizer of a folder that has a config and no vocabulary, and says nothing.
"""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from uacs.errors import BadInput, reason
from uacs.mllm.native.hub import local


def decoder_tokenizer(spec: str) -> PreTrainedTokenizerBase:
    """A checkpoint's own tokenizer; raises `BadInput` naming `spec`."""
    try:
        tokenizer = _with_words(local(spec), PreTrainedConfig())
    except BadInput:
        raise
    except Exception as error:  # transformers and tokenizers raise whatever a damaged file makes them
        raise BadInput(f"{spec}: no tokenizer ({reason(error)}); copy the checkpoint's tokenizer files") from None
    if tokenizer.eos_token_id is None:
        raise BadInput(f"{spec}: its tokenizer names no end-of-turn token; copy the checkpoint's tokenizer_config.json")
    return tokenizer


def gate_tokenizer(spec: str, place: Path | None, name: str, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of HumanOmni's gate: of its tower's folder, else of the hub or its cache."""
    try:
        return _with_words(place or name, config)
    except Exception:  # as above, and what the hub raises
        raise BadInput(
            f"{spec}: no tokenizer for its gate, by which {name} reads the question; name a folder of it: "
            "--set mllm.towers.gate=FOLDER"
        ) from None


def _with_words(place: Path | str, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    # with a config at hand theirs is not read, whose model transformers does not know; code of theirs is never run
    tokenizer = AutoTokenizer.from_pretrained(place, config=config, trust_remote_code=False)
    if not set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab()) - set(tokenizer.all_special_tokens):
        raise ValueError("it has no vocabulary")
    return tokenizer
