"""The small model (Eq. 1-7): BERT, two LSTMs, one fused representation, a score, three classes and its own error.

Any modality of a sample may be missing: a learned vector stands in for its representation, in training
and in prediction alike. A modality that the training data never had is not built at all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from uacs.data.prepared import MODALITIES
from uacs.records import Polarity
from uacs.ubm.passes import Passes
from uacs.ubm.settings import UbmConfig

TEXT = {"cpu": Passes(64, 4096), "cuda": Passes(2048, 65_536)}
"""By the kind of device. On a CPU a pass costs between what a tiny BERT's and what bert-base's does; on a GPU what
bert-base's launches come to, reckoned, not measured."""
SEQUENCES = Passes(20_000, 2**18)  # an LSTM's steps are one after the other, however many rows there are
OUT_SIZES = {"audio": 16, "vision": 32}  # d_a, d_v of Eq. 2-3


@dataclass(frozen=True)
class Rows:
    """One modality of a batch: the rows that have it (R,), what they have, padded (R, T, ...), and T of each.

    For text `values` are token ids (R, T); for audio and vision float features (R, T, size).
    """

    present: Tensor
    values: Tensor
    lengths: Tensor

    def to(self, device: str) -> "Rows":
        """The same on a device; lengths stay on the CPU."""
        return Rows(self.present.to(device), self.values.to(device), self.lengths)


class Heads(NamedTuple):
    """What is said of a batch: scores (B,), class logits (B, 3) by `Polarity`, |y - label| as it expects it (B,).

    The last is None for a UBM that was trained before there was such a head.
    """

    score: Tensor
    logits: Tensor
    deviation: Tensor | None


def in_passes(read: Callable[[Tensor, Tensor], Tensor], rows: Rows, passes: Passes) -> Tensor:
    """What `read` makes of rows (R, T, ...) and their lengths (R,), read by those of like length: (R, out)."""
    lengths = rows.lengths.numpy()
    chosen = passes.of(lengths)
    order = torch.from_numpy(np.concatenate(chosen)).to(rows.values.device)
    values, each = rows.values[order], rows.lengths.to(order.device)[order]
    ends = np.cumsum([len(at) for at in chosen])
    found = [
        read(values[end - len(at) : end, : lengths[at].max()], each[end - len(at) : end])
        for at, end in zip(chosen, ends, strict=True)
    ]
    return torch.cat(found)[torch.argsort(order)]


class SequenceEncoder(nn.Module):
    """Eq. 2-3: standardise, LSTM, the hidden state at each sequence's true end, projection."""

    def __init__(self, size: int, hidden: int, out: int, dropout: float):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.lstm = nn.LSTM(size, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(hidden, out)

    def forward(self, rows: Rows) -> Tensor:
        """(R, T, size) to (R, out)."""
        return self._read(rows.values, rows.lengths) if self.training else in_passes(self._read, rows, SEQUENCES)

    def _read(self, values: Tensor, lengths: Tensor) -> Tensor:
        states, _ = self.lstm((values - self.mean) / self.scale)
        # what is read past an end changes no state before it; packed, a CPU takes up to twenty times as long
        last = states[torch.arange(len(states), device=states.device), lengths.to(states.device) - 1]
        return self.project(self.dropout(last))


class TextEncoder(nn.Module):
    """Eq. 1: the first token of a BERT's last layer.

    Where nothing is learned, rows of like length are read together, whatever the batch: padding costs as much as words.
    """

    def __init__(self, bert: nn.Module):
        super().__init__()
        self.bert = bert

    def forward(self, rows: Rows) -> Tensor:
        """Token ids (R, T) to (R, d_bert)."""
        if self.training:
            return self._read(rows.values, rows.lengths)
        return in_passes(self._read, rows, TEXT.get(rows.values.device.type, TEXT["cuda"]))

    def _read(self, ids: Tensor, lengths: Tensor) -> Tensor:
        steps = torch.arange(ids.shape[1], device=ids.device)
        mask = (steps[None] < lengths.to(ids.device)[:, None]).long()
        return self.bert(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]


class Ubm(nn.Module):
    """Encoders, fusion (Eq. 4), regressor (Eq. 5) and classifier (Eq. 7) on one shared representation.

    So is the predictor of the regressor's error (PTD of Section III-C4), which learns from the representation as it
    is and moves nothing in it: whether anybody reads it changes no answer.
    """

    def __init__(self, config: UbmConfig, bert: nn.Module):
        super().__init__()
        t = config.training
        hidden = {"audio": t.audio_hidden, "vision": t.vision_hidden}
        sizes = {"text": bert.config.hidden_size}
        self.encoders = nn.ModuleDict({"text": TextEncoder(bert)})
        for modality in MODALITIES:
            if modality in config.features:
                sizes[modality] = OUT_SIZES[modality]
                size = config.features[modality].size
                self.encoders[modality] = SequenceEncoder(size, hidden[modality], sizes[modality], t.dropout)
        self.missing = nn.ParameterDict({m: nn.Parameter(torch.zeros(size)) for m, size in sizes.items()})
        self.fusion = nn.Sequential(nn.Dropout(t.dropout), nn.Linear(sum(sizes.values()), t.fusion_size), nn.ReLU())
        self.regressor = _head(t.fusion_size, 1)
        self.classifier = _head(t.fusion_size, len(Polarity))
        self.deviation: nn.Sequential | None = _head(t.fusion_size, 1)

    def forward(self, batch: dict[str, Rows], size: int) -> Heads:
        """What all heads say of a batch of `size` samples."""
        fused = self.fusion(torch.cat([self._encode(name, batch.get(name), size) for name in self.encoders], dim=-1))
        foreseen = None if self.deviation is None else softplus(self.deviation(fused.detach()).squeeze(-1))
        return Heads(self.regressor(fused).squeeze(-1), self.classifier(fused), foreseen)

    def _encode(self, modality: str, rows: Rows | None, size: int) -> Tensor:
        stand_in = self.missing[modality].expand(size, -1)
        if rows is None:
            return stand_in
        return stand_in.index_put((rows.present,), self.encoders[modality](rows))


def _head(size: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, out))
