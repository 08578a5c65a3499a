"""What learns in a training: a base with an adapter on it, and a read-out head beside it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import nn

from uacs.mllm import lora
from uacs.mllm.finetuning_settings import FinetuningSettings, Training
from uacs.mllm.head import Head
from uacs.mllm.lessons import Row
from uacs.mllm.predictor import LargePredictor, Loaded
from uacs.mllm.training import answer_loss


class Pupil(nn.Module):
    """What learns: a base with an adapter on it, and a head.

    Towers are left out of the modules: they are frozen, and whoever parts weights among processes leaves them whole.
    """

    def __init__(self, task: Training):
        super().__init__()
        settings = task.settings
        lora.needed()
        if settings.mllm.device == "cpu":
            torch.set_num_threads(settings.mllm.threads)
        loaded = Loaded.of(task.base, settings.mllm)
        self.kind, self.inputs = loaded.family, loaded.inputs
        self.decoder = self.kind.decoder_of(loaded.model)
        whole = [name for name in self.kind.CONNECTORS if _has(loaded.model, name)] if settings.projector else []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            lora.attach(loaded.model, self.decoder, settings.rank, settings.alpha, settings.dropout, whole)
            self.head = None
            if settings.head != "none":
                bound = task.dataset.info.score_range[1]
                self.head = Head(self.decoder.config.hidden_size, bound).to(loaded.model.device)
        self.joint, self.half = settings.head == "joint", settings.mllm.dtype == "bfloat16"
        self.vocabulary = loaded.model.get_output_embeddings()
        self.connectors = nn.ModuleList(loaded.model.get_submodule(name) for name in whole)
        self._all = (loaded.model,)  # in a tuple, so that it is no module of this one's
        if settings.checkpointing:
            self.decoder.activation_checkpointing_enable()
            self.decoder.disable_input_require_grads()  # which is for another kind of checkpointing than this
        self.examined = LargePredictor(
            task.base,
            settings.mllm,
            task.dataset.info.score_range,
            task.dataset.info.language,
            loaded=Loaded(loaded.model, loaded.family, loaded.inputs, self.head, self._precision(settings)),
        )
        self._rest()
        self.rates = [group["lr"] for group in self.groups(settings)]

    def _precision(self, settings: FinetuningSettings) -> Callable[[], AbstractContextManager]:
        """What answers are computed within: connectors that learn are float32, whatever they read."""
        if not (settings.projector and self.half):
            return nullcontext
        return partial(torch.autocast, torch.device(settings.mllm.device).type, torch.bfloat16)

    @property
    def model(self) -> nn.Module:
        """The base with its adapter."""
        return self._all[0]

    def groups(self, settings: FinetuningSettings) -> list[dict]:
        """Trained weights by the rates that they learn at."""
        adapter = lora.trained(self.model).values()
        connectors = {id(p) for p in self.connectors.parameters()}
        parts = [
            (settings.lr, [p for p in adapter if id(p) not in connectors]),
            (settings.projector_lr, [p for p in adapter if id(p) in connectors]),
            (settings.head_lr, [*self.head.parameters()] if self.head else []),
        ]
        shared = {"betas": settings.betas, "weight_decay": settings.weight_decay}
        return [{"params": params, "lr": lr, **shared} for lr, params in parts if params]

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Within it the adapter drops out, and what it reads is not copied; without, it answers."""
        self.decoder.train()
        with lora.in_half(self.model, self.half):
            yield
        self._rest()

    def _rest(self) -> None:
        self.model.eval()
        for module in self.model.modules():
            if hasattr(getattr(module, "weight", None), "quant_state"):
                module.train()  # or bitsandbytes packs it for a CPU's inference, whence no gradient comes back

    def forward(self, rows: list[Row], tokens: int, samples: int) -> torch.Tensor:
        """These rows' part of a step's loss: of nats a token of all its `tokens`, and the head's of all `samples`."""
        pairs = [(row.turn, row.tokens) for row in rows]
        loss, ends = answer_loss(self.kind, self.model, self.inputs, pairs, reduction="sum")
        self.nats = loss.detach()
        loss = loss / tokens
        if self.head:
            seen = ends if self.joint else ends.detach()
            labels = [row.label for row in rows]
            loss = loss + self.head.loss(seen, labels) * (len(rows) / samples)
        return loss


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True
