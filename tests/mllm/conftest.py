"""A thinker small enough to train within a test, and clips of every kind for it."""

from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest

from uacs.data.prepared import DatasetInfo, PreparedDataset, write_part
from uacs.mllm import MllmSettings, finetuning, prompts, tiny_native, tiny_omni, training
from uacs.mllm.finetuning_settings import FinetuningSettings, Training
from uacs.mllm.predictor import LargePredictor
from uacs.records import LargeOutput, Sample

RANGE = (-3.0, 3.0)
SIZES = tiny_omni.TinySettings(width=64, layers=1, tower_width=32, tower_layers=1)
NATIVE_SIZES = tiny_native.TinySettings(width=64, layers=1, tower_width=32, tower_layers=1)
FAMILIES = {
    "qwen2_5_omni": (tiny_omni.create, SIZES, 24),
    "humanomni": (tiny_native.create_humanomni, NATIVE_SIZES, 20),
    "videollama2": (tiny_native.create_videollama2, NATIVE_SIZES, 20),
}
"""What makes a tiny model of each family, of which size, and in how many epochs it learns to answer in numbers."""
WORDS = ("great", "awful", "fine", "dull", "lovely")


def close(a: list[LargeOutput], b: list[LargeOutput]) -> bool:
    """Equal statuses, and equal scores and entropies within 1e-5."""
    numbers = [np.array([[o.y, o.u] for o in outputs]) for outputs in (a, b)]
    return [o.status for o in a] == [o.status for o in b] and np.allclose(*numbers, rtol=0, atol=1e-5, equal_nan=True)


def _write_clip(path: Path, frames: np.ndarray | None, waveform: np.ndarray | None) -> str:
    """frames (T, H, W, 3) uint8 at 6 a second, waveform (N,) in [-1, 1] at 16 kHz; either may be left out."""
    with av.open(str(path), "w") as container:
        picture = sound = None
        if frames is not None:
            picture = container.add_stream("libx264", rate=6, options={"preset": "ultrafast", "crf": "18"})
            picture.height, picture.width, picture.pix_fmt = *frames.shape[1:3], "yuv420p"
        if waveform is not None:
            sound = container.add_stream("aac", rate=16000, layout="mono")
        for image in frames if frames is not None else ():
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        if waveform is not None:
            block = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
            block.sample_rate, block.time_base, block.pts = 16000, Fraction(1, 16000), 0
            container.mux(sound.encode(block))
        for stream in filter(None, (picture, sound)):
            container.mux(stream.encode(None))
    return str(path)


def _footage(rng: np.random.Generator, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    frames = rng.integers(0, 256, (int(6 * seconds), 1, 1, 3), np.uint8).repeat(56, 1).repeat(56, 2)
    time = np.arange(int(16000 * seconds)) / 16000
    return frames, 0.5 * np.sin(2 * np.pi * rng.uniform(100, 800) * time)


@pytest.fixture
def write_clip():
    """A function (path, frames, waveform) that writes a clip and returns its path."""
    return _write_clip


@pytest.fixture
def footage():
    """A function (rng, seconds) that draws frames and a waveform."""
    return _footage


@pytest.fixture
def sizes() -> tiny_omni.TinySettings:
    """The sizes that `untrained` was created with."""
    return SIZES


@pytest.fixture(scope="session")
def samples(tmp_path_factory) -> list[Sample]:
    """Forty labelled samples: both media, one of them, none, with text and without; lengths differ."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    made = []
    for i in range(40):
        frames, waveform = _footage(rng, rng.uniform(0.7, 2.0))
        kind = i % 5
        clip = None
        if kind != 4:
            clip = _write_clip(folder / f"{i}.mp4", None if kind == 2 else frames, None if kind == 3 else waveform)
        text = None if kind == 1 else f"it was {WORDS[i % 5]} " + "and " * (i % 7) + WORDS[i % 3]
        made.append(Sample(f"s{i}", text=text, clip=clip, label=round(float(rng.uniform(*RANGE)), 1)))
    return made


@pytest.fixture(scope="session")
def untrained_of(tmp_path_factory, samples):
    """A function from a family's name to an untrained folder of it."""

    @cache
    def made(family: str) -> Path:
        create, sizes, _ = FAMILIES[family]
        folder = tmp_path_factory.mktemp("untrained") / family
        create(folder, [s.text or "" for s in samples], prompts.phrases(RANGE), sizes)
        return folder

    return made


@pytest.fixture(scope="session")
def trained_of(tmp_path_factory, untrained_of, samples):
    """The same, trained until it answers in numbers, which is long before the numbers are right."""

    @cache
    def made(family: str) -> Path:
        folder = tmp_path_factory.mktemp("trained") / family
        epochs = FAMILIES[family][-1]
        settings = training.TrainingSettings(epochs=epochs, batch_size=8, lr=3e-3, warmup_steps=5, threads=1)
        training.train(untrained_of(family), samples, folder, settings, RANGE)
        return folder

    return made


@pytest.fixture(scope="session")
def untrained(untrained_of) -> Path:
    return untrained_of("qwen2_5_omni")


@pytest.fixture(scope="session")
def trained(trained_of) -> Path:
    return trained_of("qwen2_5_omni")


@pytest.fixture
def build():
    """A predictor of a folder, one thread, with settings as given."""

    def model(folder: Path, **settings) -> LargePredictor:
        return LargePredictor(str(folder), MllmSettings(threads=1, **settings), RANGE)

    return model


@pytest.fixture(scope="session")
def model(trained):
    return LargePredictor(str(trained), MllmSettings(threads=1), RANGE)


@pytest.fixture(scope="session")
def answers(model, samples):
    outputs = model.answer(samples)
    assert {o.status for o in outputs} <= {"ok", "clipped"}, "the fixture's model was trained too little to answer"
    return outputs


@pytest.fixture(scope="session")
def course(tmp_path_factory, samples) -> PreparedDataset:
    """The samples as a dataset with labels by their kind: thirty to learn from, ten to look at."""
    labelled = [replace(sample, label=(-2.4, -1.2, 0.2, 1.2, 2.4)[i % 5]) for i, sample in enumerate(samples)]
    return dataset_of(tmp_path_factory.mktemp("course"), {"train": labelled[:30], "valid": labelled[30:]})


def dataset_of(folder: Path, splits: dict[str, list[Sample]], name: str = "demo") -> PreparedDataset:
    """A prepared dataset of samples as they are."""
    parts = {f"{split}-00000.parquet": write_part(folder, f"{split}-00000.parquet", of) for split, of in splits.items()}
    info = DatasetInfo(name=name, like="mosi", score_range=RANGE, language="en", features={}, parts=parts)
    (folder / "dataset.json").write_text(info.model_dump_json())
    return PreparedDataset(folder)


@pytest.fixture(scope="session")
def short() -> FinetuningSettings:
    """Settings for a training of a few steps, in which each of them is seen."""
    settings = dict(rank=4, alpha=8, lr=5e-3, epochs=2, batch_size=8, at_once=4, validations=1, save_steps=2)
    return FinetuningSettings(**settings, mllm=MllmSettings(frames=2, threads=1))


@pytest.fixture(scope="session")
def adapter_of(tmp_path_factory, trained_of, course, short):
    """A function from a family's name to an adapter over its trained folder."""

    @cache
    def made(family: str) -> Path:
        folder = tmp_path_factory.mktemp("adapter") / family
        finetuning.train(Training(course, str(trained_of(family)), short, folder))
        return folder

    return made
