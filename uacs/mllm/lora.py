"""Low-rank adapters on a model of any family (Hu et al., arXiv 2106.09685), in peft's layers and peft's files."""

import logging
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from uacs.errors import BadInput, reason
from uacs.mllm.adapters import WEIGHTS

PEFT = "base_model.model."
"""What peft puts before the names of a model's weights."""
PROJECTIONS = r"layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


def attach(
    model: nn.Module,
    decoder: nn.Module,
    rank: int,
    alpha: int,
    dropout: float,
    whole: Iterable[str] = (),
    name: str = "default",
) -> None:
    """Put a new adapter on a model: low ranks on the decoder's projections (Hu et al., arXiv 2106.09685).

    Of the model itself nothing is trained any more, but for copies of the modules `whole`. Equal torch seeds give
    equal adapters; before training they change nothing.
    """
    from peft import LoraConfig, inject_adapter_in_model

    place = re.escape(next(path for path, module in model.named_modules() if module is decoder))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        bias="none",
        target_modules=rf"^{place}\.{PROJECTIONS}$",
        modules_to_save=list(whole) or None,
    )
    model.requires_grad_(False)
    inject_adapter_in_model(config, model, name)
    model.peft_config = {name: config}
    for parameter in trained(model).values():
        parameter.data = parameter.data.float()  # Adam's steps are smaller than what bfloat16 can tell apart


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """What of a model is trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def weights(
    model: nn.Module, known: dict[str, torch.Tensor] | None = None, name: str = "default"
) -> dict[str, torch.Tensor]:
    """An adapter's weights by the names that peft has for them in a file; known are the model's trained ones, by name,
    where they are kept more exactly elsewhere."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, known, name, save_embedding_layers=False)
    return {PEFT + key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}


def save(folder: Path, state: Mapping[str, torch.Tensor], model: nn.Module, base: str, name: str = "default") -> None:
    """Write an adapter as peft does, without its manifest."""
    config = model.peft_config[name]
    config.base_model_name_or_path, config.inference_mode = base, True
    save_file(dict(state), folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(folder)


def load(model: nn.Module, folder: str, name: str) -> None:
    """Put a saved adapter on a model beside those that it has; `use` says which one answers.

    Raises `BadInput` where its files are missing, or do not fit the model.
    """
    needed()
    from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict

    try:
        config = PeftConfig.from_pretrained(folder)
        state = load_file(Path(folder) / WEIGHTS)
        model.uacs_adapter = None  # peft has what came last answer
        # what it begins with is drawn, and then overwritten; that others are there is meant
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
            inject_adapter_in_model(config, model, name)
        found = set_peft_model_state_dict(
            model, {key.removeprefix(PEFT): tensor for key, tensor in state.items()}, adapter_name=name
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"{folder}: no adapter that can be read ({reason(error)}); train it again") from None
    lost = [key for key in found.missing_keys if f".{name}." in key]
    if lost or found.unexpected_keys:
        odd = (lost or found.unexpected_keys)[0]
        raise BadInput(f"{folder}: its weights are not those of its config, first {odd}; copy the whole folder")
    kind = next(model.parameters()).dtype
    for key, parameter in model.named_parameters():
        if f".{name}." in key and parameter.is_floating_point():
            parameter.data = parameter.data.to(kind)
            parameter.requires_grad_(False)
    model.eval()  # or its dropout would be at work


def in_half(model: nn.Module, half: bool) -> AbstractContextManager:
    """Within it an adapter's layers take half-precision inputs as they are, where peft would copy each in float32.

    For autocast, which halves what they multiply by as well: a fifth of a step's activations less.
    """
    from peft.helpers import disable_input_dtype_casting

    return disable_input_dtype_casting(model, active=half)


def use(model: nn.Module, name: str) -> None:
    """Have an adapter that was loaded answer from now on."""
    if getattr(model, "uacs_adapter", None) != name:
        from peft.functional import set_adapter

        set_adapter(model, name, inference_mode=True)
        model.uacs_adapter = name


def needed() -> None:
    """Raise `BadInput` where peft is missing."""
    if not torch.cuda.is_available():
        os.environ.setdefault(
            "DS_ACCELERATOR", "cpu"
        )  # or DeepSpeed, which peft imports, says that it looked for others
    for chatty in ("bitsandbytes", "DeepSpeed"):  # which peft looks for, and which tell what they cannot do here
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise BadInput(f"an adapter needs peft ({reason(error)}); pip install '.[finetune]'") from None
