"""Clips as the field's are, generated: words that tell polarity, features as long as MOSI's, and a UBM for them."""

from pathlib import Path

import numpy as np
import torch

from uacs.data.prepared import FeatureInfo
from uacs.records import Sample
from uacs.ubm import folder as ubm_folder
from uacs.ubm import tiny_bert
from uacs.ubm.settings import TrainingSettings, UbmConfig

WORDS = [f"word{i}" for i in range(2_000)]
FEATURES = {"audio": FeatureInfo(size=5, extractor="covarep"), "vision": FeatureInfo(size=20, extractor="facet")}
STEPS = {"audio": 375, "vision": 500}  # at most, as in MOSI's unaligned features


def clips(count: int, seed: int = 0) -> list[Sample]:
    """Samples with text, audio and vision; words as in MOSI: a dozen in the middle, few clips with very many."""
    draw = np.random.default_rng(seed)
    made = []
    for i in range(count):
        label = round(float(draw.uniform(-3, 3)), 1)
        text = " ".join(draw.choice(WORDS, int(np.clip(draw.lognormal(2.4, 0.6), 2, 90))))
        features = {
            name: draw.normal(label, 2, (int(draw.integers(20, most)), FEATURES[name].size)).astype(np.float32)
            for name, most in STEPS.items()
        }
        made.append(Sample(f"clip_{i}", text, **features, label=label, split="test"))
    return made


def untrained(folder: Path, width: int, layers: int) -> Path:
    """A UBM of random weights around a BERT of that size: what it costs does not depend on what it knows."""
    place = folder / f"ubm-{width}-{layers}"
    if (place / "config.json").exists():
        return place
    encoder = folder / f"encoder-{width}-{layers}"
    tiny_bert.create(encoder, [" ".join(WORDS)], width=width, layers=layers)
    config = UbmConfig(
        dataset="mosi",
        language="en",
        score_range=(-3, 3),
        features=FEATURES,
        text_encoder=str(encoder),
        training=TrainingSettings(),
    )
    torch.manual_seed(0)
    model, tokenizer = ubm_folder.new(config)
    place.mkdir(parents=True)
    ubm_folder.save_weights(model, place)
    ubm_folder.save(model, tokenizer, config, place)
    return place
