"""Pickles as MMSA writes them, made of samples: padded arrays, lengths, joint ids, float32 labels."""

import pickle
from pathlib import Path

import numpy as np

from uacs.records import Sample

TOKENS = 50


def split_content(samples: list[Sample], steps: dict[str, int], aligned: bool = False) -> dict:
    """One split's dictionary; `steps` is how long each modality is padded."""
    content = {
        "id": ["$_$".join(s.sample_id.rsplit("_", 1)) for s in samples],
        "raw_text": [s.text or "" for s in samples],
        "text_bert": np.zeros((len(samples), 3, TOKENS)),
        "regression_labels": np.array([s.label for s in samples], np.float32),
        "classification_labels": np.sign([s.label for s in samples]).astype(int) + 1,
        "annotations": ["Neutral"] * len(samples),
    }
    for i, sample in enumerate(samples):
        content["text_bert"][i, 1, : len((sample.text or "").split()) + 2] = 1
    for modality, most in steps.items():
        sequences = [getattr(s, modality) for s in samples]
        size = next(s.shape[1] for s in sequences if s is not None)
        padded = np.zeros((len(samples), most, size), np.float32)
        for row, sequence in zip(padded, sequences, strict=True):
            if sequence is not None:
                row[: len(sequence)] = sequence
        content[modality] = padded
        if not aligned:
            content[f"{modality}_lengths"] = [0 if s is None else len(s) for s in sequences]
    return content


def write_pickle(
    path: Path, splits: dict[str, list[Sample]], steps: dict[str, int], protocol: int = 4, aligned: bool = False
) -> Path:
    """A pickle with those splits; returns its path."""
    content = {name: split_content(samples, steps, aligned) for name, samples in splits.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol))
    return path
