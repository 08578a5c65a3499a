"""Samples to tensors: tokenised once, checked against what the UBM was trained on, padded by the batch."""

from dataclasses import dataclass

import numpy as np
import torch

from uacs.data.prepared import FeatureInfo
from uacs.errors import BadInput
from uacs.records import Sample
from uacs.ubm.model import Rows


@dataclass(frozen=True)
class Encoded:
    """A sample as the model reads it: token ids (T,), features (T, size); a missing modality is absent."""

    values: dict[str, torch.Tensor]

    @property
    def text_length(self) -> int:
        """Tokens, by which rows are grouped; 0 without text."""
        return len(self.values.get("text", ()))


def check(sample: Sample, features: dict[str, FeatureInfo]) -> None:
    """Raise `BadInput`, naming the sample, unless the UBM can read it."""
    if sample.text is None and all(getattr(sample, m) is None for m in features):
        readable = " or ".join(["text", *(f"{m} features" for m in features)])
        raise BadInput(f"sample '{sample.sample_id}': nothing the UBM reads; give it {readable}")
    for modality, info in features.items():
        values = getattr(sample, modality)
        if values is None:
            continue
        if values.ndim != 2 or values.shape[1] != info.size:
            shape, expected = tuple(values.shape), f"(steps, {info.size})"
            raise BadInput(f"sample '{sample.sample_id}': {modality} is {shape}, the UBM reads {expected}")
        if not len(values):
            raise BadInput(f"sample '{sample.sample_id}': {modality} has 0 steps; leave it null to run without")
        if not np.isfinite(values).all():
            raise BadInput(f"sample '{sample.sample_id}': {modality} holds NaN or infinity; mend it or leave it null")


def encode(samples: list[Sample], tokenizer, features: dict[str, FeatureInfo], max_text_tokens: int) -> list[Encoded]:
    """Tokenise and convert samples that passed `check`, in order."""
    texts = [i for i, s in enumerate(samples) if s.text is not None]
    tokens = tokenizer([samples[i].text for i in texts], truncation=True, max_length=max_text_tokens) if texts else {}
    ids = dict(zip(texts, tokens.get("input_ids", []), strict=True))
    encoded = []
    for i, sample in enumerate(samples):
        values = {"text": torch.tensor(ids[i])} if i in ids else {}
        for modality in features:
            if (array := getattr(sample, modality)) is not None:
                values[modality] = torch.tensor(array, dtype=torch.float32)
        encoded.append(Encoded(values))
    return encoded


def collate(samples: list[Encoded]) -> dict[str, Rows]:
    """Pad a batch, each modality over the rows that have it."""
    batch = {}
    for modality in {name for s in samples for name in s.values}:
        present = [i for i, s in enumerate(samples) if modality in s.values]
        sequences = [samples[i].values[modality] for i in present]
        batch[modality] = Rows(
            torch.tensor(present),
            torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True),
            torch.tensor([len(s) for s in sequences]),
        )
    return batch
