"""A head that reads score and polarity off the prompt's last state, before a word is generated (arXiv 2606.05713).

It is trained with the model and lies beside its weights; of others it reads nothing, though it cannot tell them.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from uacs.cascade.uncertainty import training_class
from uacs.errors import BadInput, reason
from uacs.mllm.native.hub import local
from uacs.records import Polarity

FILE = "readout_head.safetensors"
WIDTH = 256


class Head(nn.Module):
    """Two layers from a state (B, H) to a score and the logits of its polarity by `Polarity`'s ids (Eq. 6).

    The score is in the dataset's range, [-bound, bound], but not held to it.
    """

    def __init__(self, states: int, bound: float, width: int = WIDTH):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(states, width), nn.GELU(), nn.Linear(width, 1 + len(Polarity)))
        self.register_buffer("bound", torch.tensor(float(bound)))

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score (B,) and logits (B, 3) of states (B, H)."""
        out = self.layers(states.to(self.layers[0].weight.dtype)).float()
        return out[:, 0] * self.bound, out[:, 1:]

    def loss(self, states: torch.Tensor, labels: list[float]) -> torch.Tensor:
        """Squared error of the score, in halves of the range, plus cross-entropy of the polarity, 1 : 1 (Eq. 9)."""
        score, logits = self(states)
        wanted = torch.tensor(labels, device=score.device)
        classes = torch.as_tensor(training_class(np.array(labels)), device=score.device)
        squared = torch.nn.functional.mse_loss(score / self.bound, wanted / self.bound)
        return squared + torch.nn.functional.cross_entropy(logits, classes)

    def save(self, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write it beside the model's weights; weights are its own, where they are kept more exactly elsewhere."""
        save_file({**self.state_dict(), **(weights or {})}, folder / FILE)


def load(spec: str, states: int, score_range: tuple[float, float], device: torch.device) -> Head:
    """The head of a folder or hub id; raises `BadInput` where there is none, or one of another model or range."""
    path = local(spec) / FILE
    if not path.is_file():
        raise BadInput(
            f"{spec}: no {FILE}, so nothing to read by mllm.readout=head; train it with one, or read by trie"
        )
    try:
        weights = load_file(path)
        width, size = weights["layers.0.weight"].shape
        head = Head(states, score_range[1], width)
        bound = float(weights["bound"])
        if size != states:
            raise BadInput(
                f"{path}: a head of states of {size}, the model's have {states}; it belongs to another model"
            )
        if bound != score_range[1]:
            raise BadInput(
                f"{path}: answers in [-{bound:g}, {bound:g}], not in {score_range}; train one on this dataset"
            )
        head.load_state_dict(weights)
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"{path}: no head that can be read ({reason(error)}); train it again") from None
    return head.to(device).eval()
