"""The small model (Eq. 1-7): BERT, two LSTMs, one fused representation, a score, three classes and its own error.

Any modality of a sample may be missing: a learned vector stands in for its representation, in training
and in prediction alike. A modality that the training data never had is not built at all.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from uacs.data.prepared import MODALITIES
from uacs.records import Polarity
from uacs.ubm.passes import PRICE, passes
from uacs.ubm.settings import UbmConfig

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
        states, _ = self.lstm((rows.values - self.mean) / self.scale)
        # what is read past an end changes no state before it; packing costs a CPU up to twenty times as much
        last = states[torch.arange(len(states)), rows.lengths - 1]
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
        read = [torch.from_numpy(at) for at in passes(rows.lengths.numpy(), PRICE.get(rows.values.device.type, 0))]
        of_passes = [self._read(rows.values[at, : rows.lengths[at].max()], rows.lengths[at]) for at in read]
        return torch.cat(of_passes)[torch.argsort(torch.cat(read))]

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
