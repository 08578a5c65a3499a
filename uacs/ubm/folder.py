"""A trained UBM on disk: config.json, model.safetensors, text_encoder/ and tokenizer/. Complete in itself.

uncertainty.json is what its estimators have learned, members/ the ensemble of estimator ev.
"""

from logging import getLogger
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging

from uacs.errors import BadInput
from uacs.ubm.model import Ubm
from uacs.ubm.settings import UbmConfig, load_config

DEFAULT_ENCODERS = {"en": "bert-base-uncased", "zh": "bert-base-chinese"}


def new(config: UbmConfig) -> tuple[Ubm, object]:
    """An untrained UBM around a pretrained encoder, with the encoder's tokenizer.

    `config.text_encoder` is a folder or hub id of the BERT family; raises `BadInput` naming it.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    getLogger("huggingface_hub").setLevel("ERROR")  # each try to reach the hub is a warning; the fault is said below
    name = config.text_encoder
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        bert = AutoModel.from_pretrained(name)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(
            f"{name}: no text encoder there ({reason}); --text-encoder takes a BERT's folder or hub id"
        ) from None
    return Ubm(config, _without_pooler(bert)), tokenizer


def save(model: Ubm, tokenizer, config: UbmConfig, folder: Path) -> None:
    """Write the folder; config.json last, so that a folder with one is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder)
    model.encoders["text"].bert.config.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "config.json").write_text(config.model_dump_json(indent=2) + "\n")


def save_weights(model: Ubm, folder: Path) -> None:
    """Write model.safetensors whole or not at all."""
    aside = folder / ".model.safetensors.partial"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, aside)
    aside.replace(folder / "model.safetensors")


def load_weights(folder: Path) -> dict:
    """The tensors of model.safetensors by name."""
    return load_file(folder / "model.safetensors")


def load(folder: Path) -> tuple[Ubm, object, UbmConfig]:
    """A trained UBM in evaluation mode; raises `BadInput` naming the folder and the mend."""
    config = load_config(folder)
    try:
        weights = load_weights(folder)
        bert = AutoModel.from_config(AutoConfig.from_pretrained(folder / "text_encoder"))
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"{folder}: not a whole UBM ({reason}); train it again or copy all of the folder") from None
    model = Ubm(config, _without_pooler(bert))
    if not any(name.startswith("deviation.") for name in weights):
        model.deviation = None  # trained before UBMs had it
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise BadInput(
            f"{folder}: weights and config.json do not belong together ({str(error).splitlines()[0]})"
        ) from None
    return model.eval(), tokenizer, config


def _without_pooler(bert):
    # the pooler's output is not used (Eq. 1), and an unused layer has no place in checkpoint or optimiser
    if getattr(bert, "pooler", None) is not None:
        bert.pooler = None
    return bert
