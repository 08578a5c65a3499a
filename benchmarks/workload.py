"""A dataset of any size with text and short features, a tiny UBM and recorded answers: what the benchmarks run on."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd

from uacs.data.prepare import PrepareSettings, prepare
from uacs.data.prepared import PreparedDataset

WORDS = {1: ["lovely", "great", "wonderful", "warm"], -1: ["awful", "dull", "terrible", "cold"]}
FILLERS = ["the", "film", "was", "really", "and", "quite", "I", "must", "say", "that", "it", "we", "saw"]
STEPS, SIZE = 10, 20  # of the audio features


def dataset(folder: Path, samples: int, seed: int = 0) -> PreparedDataset:
    """`samples` of split test, and a few to train on, prepared under `folder`; made once."""
    if (folder / "data" / "dataset.json").exists():
        return PreparedDataset(folder / "data")
    draw = np.random.default_rng(seed)
    rows = []
    for split, size in {"train": 768, "valid": 128, "test": samples}.items():
        label = np.round(draw.choice([-1, 1], size) * draw.uniform(0.4, 3, size), 1)
        for i in range(size):
            side = int(np.sign(label[i])) * (1 if draw.random() < 0.85 else -1)
            words = [*draw.choice(FILLERS, draw.integers(6, 25)), *draw.choice(WORDS[side], 2)]
            audio = draw.normal(label[i], 2.0, (STEPS, SIZE)).astype(np.float32)
            rows.append((f"{split}_{i}", " ".join(words), label[i], split, audio.ravel(), STEPS))
    table = pd.DataFrame(rows, columns=["sample_id", "text", "label", "split", "audio", "audio_steps"])
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "raw.parquet")
    return prepare(folder / "raw.parquet", folder / "data", PrepareSettings(dataset="bench", like="mosi"))


def recorded(folder: Path, data: PreparedDataset, seed: int = 1) -> str:
    """A SPEC of recorded answers to every test sample, right in nine of ten."""
    path = folder / "large.parquet"
    if not path.exists():
        draw = np.random.default_rng(seed)
        ids, label = zip(*((s.sample_id, s.label) for s in data.samples("test")), strict=True)
        y = np.array(label) * np.where(draw.random(len(ids)) < 0.9, 1, -1)
        u, again = draw.uniform(0, 1, (2, len(ids)))
        columns = {"sample_id": ids, "y_large": y, "u_large": u, "y_verify": label, "u_verify": again}
        pd.DataFrame(columns).to_parquet(path)
    return f"recorded:{path}"


def large(folder: Path, data: PreparedDataset, width: int = 128, layers: int = 3, epochs: int = 6) -> str:
    """A small Qwen2.5-Omni that reads text alone, trained for a minute so that it answers with numbers."""
    out = folder / "mllm"
    if not (out / "config.json").exists():
        from uacs.mllm import prompts, tiny_omni
        from uacs.mllm import training as mllm_training

        samples, score_range = list(data.samples("train")), data.info.score_range
        texts = (s.text for s in samples if s.text)
        sizes = tiny_omni.TinySettings(width=width, layers=layers)
        tiny_omni.create(folder / "untrained", texts, prompts.phrases(score_range), sizes)
        settings = mllm_training.TrainingSettings(epochs=epochs, threads=os.cpu_count() or 1)
        mllm_training.train(folder / "untrained", samples, out, settings, score_range)
    return str(out)


def ubm(folder: Path, data: PreparedDataset, layers: int = 2, width: int = 128) -> Path:
    """A UBM on a tiny BERT, trained for an epoch."""
    from uacs.ubm import tiny_bert  # torch stays out of who only reads
    from uacs.ubm.settings import TrainingSettings
    from uacs.ubm.training import train

    if not (folder / "ubm" / "config.json").exists():
        texts = (s.text for s in data.samples("train") if s.text)
        tiny_bert.create(folder / "encoder", texts, width=width, layers=layers)
        train(data, str(folder / "encoder"), TrainingSettings(max_epochs=1, threads=1, accumulate=1), folder / "ubm")
    return folder / "ubm"


def thresholds(folder: Path, data: PreparedDataset, small: Path, share: float = 0.35) -> Path:
    """thresholds.json with which about that share of the samples is escalated."""
    from uacs.ubm.predictor import SmallPredictor

    u = [output.u for output in SmallPredictor(small).predict(list(data.samples("valid")))]
    path = folder / "thresholds.json"
    path.write_text(json.dumps({"tau_small": float(np.quantile(u, 1 - share)), "tau_large": 0.5}))
    return path
