"""Samples to tensors: tokenised once, checked against what the UBM was trained on, padded by the batch."""

from dataclasses import dataclass

import numpy as np
import torch

from uacs.data.prepared import FeatureInfo
from uacs.errors import BadInput
from uacs.records import Sample, transcript
from uacs.ubm.model import Rows


@dataclass(frozen=True)
class Encoded:
    """A sample as the model reads it: token ids (T,), features (T, size); a missing modality is absent."""

    values: dict[str, np.ndarray]

    def copied(self) -> "Encoded":
        """The same in memory of its own."""
        return Encoded({modality: values.copy() for modality, values in self.values.items()})

    @property
    def size(self) -> int:
        """Numbers of the modality that has most of them."""
        return max(values.size for values in self.values.values())

    @property
    def text_length(self) -> int:
        """Tokens, by which rows are grouped; 0 without text."""
        return len(self.values.get("text", ()))


def check(sample: Sample, features: dict[str, FeatureInfo]) -> None:
    """Raise `BadInput`, naming the sample, unless the UBM can read it."""
    if transcript(sample) is None and all(getattr(sample, m) is None for m in features):
        readable = " or ".join(["text", *(f"{m} features" for m in features)])
        raise BadInput(f"sample '{sample.sample_id}': nothing the UBM reads; give it {readable}")
    for modality, info in features.items():
        values = getattr(sample, modality)
        if values is None:
            continue
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
            kind = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
            mend = f"give an array of numbers (steps, {info.size}), or None"
            raise BadInput(f"sample '{sample.sample_id}': {modality} is of type {kind}; {mend}")
        if values.ndim != 2 or values.shape[1] != info.size:
            shape, expected = tuple(values.shape), f"(steps, {info.size})"
            raise BadInput(f"sample '{sample.sample_id}': {modality} is {shape}, the UBM reads {expected}")
        if not len(values):
            raise BadInput(f"sample '{sample.sample_id}': {modality} has 0 steps; leave it null to run without")
        if not _finite(values):
            raise BadInput(f"sample '{sample.sample_id}': {modality} holds NaN or infinity; mend it or leave it null")


def _finite(values: np.ndarray) -> bool:
    """Whether all are finite as the float32 that the UBM reads."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = values.astype(np.float32, copy=False)
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())  # a sum of finite ones may overflow


def encode(samples: list[Sample], tokenizer, features: dict[str, FeatureInfo], max_text_tokens: int) -> list[Encoded]:
    """Tokenise and convert samples that passed `check`, in order; of a text the first `max_text_tokens` are read."""
    texts = {i: text for i, s in enumerate(samples) if (text := transcript(s)) is not None}
    tokens = tokenizer(list(texts.values()), truncation=True, max_length=max_text_tokens) if texts else {}
    ids = dict(zip(texts, tokens.get("input_ids", []), strict=True))
    encoded = []
    for i, sample in enumerate(samples):
        values = {"text": np.array(ids[i])} if i in ids else {}
        for modality in features:
            if (array := getattr(sample, modality)) is not None:
                values[modality] = array.astype(np.float32, copy=False)
        encoded.append(Encoded(values))
    return encoded


def collate(samples: list[Encoded]) -> dict[str, Rows]:
    """Pad a batch, each modality over the rows that have it."""
    batch = {}
    for modality in {name for s in samples for name in s.values}:
        present = [i for i, s in enumerate(samples) if modality in s.values]
        sequences = [samples[i].values[modality] for i in present]
        lengths = [len(sequence) for sequence in sequences]
        padded = np.zeros((len(present), max(lengths), *sequences[0].shape[1:]), sequences[0].dtype)
        for row, sequence, length in zip(padded, sequences, lengths, strict=True):
            row[:length] = sequence
        batch[modality] = Rows(torch.tensor(present), torch.from_numpy(padded), torch.tensor(lengths))
    return batch
