"""Data like MOSI's in MMSA's layout, and a small BERT: what `selfmm` measures on where nobody names a pickle.

Words tell the score as far as annotators agree, sound and picture hint at it. A clip takes as long as its words do to
say, 12 in the mean, so that most sequences are far shorter than the longest.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.workload import FILLERS, WORDS

TOKENS, MOST_WORDS = 50, 48  # of a text, as in MMSA's files; the words that such a text can have
SPREAD, NOISE = 1.5, 0.9  # of what is meant; of its score, and twice that of what sound and picture show


@dataclass(frozen=True)
class Workload:
    """What is generated: samples of each split (MOSI has 1284, 229, 686), steps of the longest clip, and a BERT."""

    train: int = 256
    valid: int = 96
    test: int = 256
    audio_steps: int = 375
    vision_steps: int = 500
    width: int = 160
    layers: int = 3


def generate(out: Path, encoder: str | None, workload: Workload) -> tuple[str, str]:
    """A pickle under `out`, and the encoder whose tokens it has: a BERT of random weights if none is named."""
    from transformers import AutoTokenizer

    from uacs.ubm import tiny_bert

    draw = np.random.default_rng(0)
    content = {name: split(name, getattr(workload, name), workload, draw) for name in ("train", "valid", "test")}
    if encoder is None:
        encoder = str(out / "encoder")
        tiny_bert.create(out / "encoder", content["train"]["raw_text"], width=workload.width, layers=workload.layers)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    for values in content.values():
        tokens = tokenizer(values["raw_text"], padding="max_length", truncation=True, max_length=TOKENS)
        ids, mask = np.array(tokens["input_ids"]), np.array(tokens["attention_mask"])
        values["text_bert"] = np.stack([ids, mask, 0 * ids], axis=1).astype(np.float32)
    path = out / "mosi.pkl"
    path.write_bytes(pickle.dumps(content, protocol=4))
    return str(path), encoder


def split(name: str, n: int, workload: Workload, draw: np.random.Generator) -> dict:
    """n samples but for their tokens: audio (n, audio_steps, 5) and vision (n, vision_steps, 20), 0 past their ends."""
    meant = draw.normal(0.2, SPREAD, n)
    label = np.round(np.clip(meant + draw.normal(0, NOISE, n), -3, 3) * 5) / 5
    texts = [sentence(score, draw) for score in meant]
    content: dict[str, object] = {"id": [f"{name}{i // 10}$_${i % 10}" for i in range(n)], "raw_text": texts}
    for modality, steps, size in (("audio", workload.audio_steps, 5), ("vision", workload.vision_steps, 20)):
        share = np.array([len(text.split()) for text in texts]) / MOST_WORDS * draw.uniform(0.6, 1, n)
        lengths = np.maximum(1, share * steps).astype(int)
        inside = np.arange(steps) < lengths[:, None]
        shown = meant + draw.normal(0, 2 * NOISE, n)
        values = draw.standard_normal((n, steps, size), np.float32) + 0.1 * shown[:, None, None]
        content |= {modality: np.float32(values * inside[..., None]), f"{modality}_lengths": lengths.tolist()}
    return content | {"regression_labels": label.astype(np.float32)}


def sentence(score: float, draw: np.random.Generator) -> str:
    """Words without meaning, among them as many of the score's sign as it has points."""
    words = draw.choice(FILLERS, np.clip(int(draw.lognormal(2.25, 0.65)), 4, MOST_WORDS)).tolist()
    for at in draw.choice(len(words), min(round(abs(score)), len(words)), replace=False):
        words[at] = str(draw.choice(WORDS[int(np.sign(score))]))
    return " ".join(words)
