"""What tests share: one Ray for the session, a small dataset with a pattern, and a UBM trained on it."""

import atexit
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

import uacs.cluster
from uacs import cli
from uacs.data.prepare import PrepareSettings, prepare
from uacs.data.prepared import PreparedDataset

# matplotlib keeps its list of fonts in the user's home, and the hub its models; tests leave it as it is, and ask no hub
CACHES = tempfile.mkdtemp(prefix="caches-")
atexit.register(shutil.rmtree, CACHES, ignore_errors=True)
os.environ |= {"MPLCONFIGDIR": f"{CACHES}/fonts", "HF_HOME": f"{CACHES}/hub", "HF_HUB_OFFLINE": "1"}

# the same examples every time, and no verdict by the clock of a busy machine
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

DEMO_SIZES = {"train": 160, "valid": 24, "test": 40}
WORDS = {1: ["lovely", "great", "wonderful", "warm"], -1: ["awful", "dull", "terrible", "cold"]}
FILLERS = ["the", "film", "was", "really", "and", "quite"]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def write_raw(folder: Path, sizes: dict[str, int], seed: int = 0) -> Path:
    """A label.csv and audio.npz in which good words and loud voices are positive; returns label.csv's path."""
    draw = np.random.default_rng(seed)
    rows, ids, audio = ["video_id,clip_id,text,label,mode"], [], []
    for split, size in sizes.items():
        for i in range(size):
            label = round(float(draw.choice([-1, 1]) * draw.uniform(0.4, 3)), 1)
            side = int(np.sign(label)) * (1 if draw.random() < 0.85 else -1)
            words = [*draw.choice(FILLERS, 4), *draw.choice(WORDS[side], 1 + int(abs(label)))]
            rows.append(f"{split}{i // 10},{i % 10},{' '.join(words)},{label},{split}")
            ids.append(f"{split}{i // 10}_{i % 10}")
            audio.append(draw.normal(label, 2.0, (4, 3)))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "label.csv").write_text("\n".join(rows) + "\n")
    np.savez(folder / "audio.npz", ids=np.array(ids), audio=np.array(audio, np.float32))
    return folder / "label.csv"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> PreparedDataset:
    """Text and audio of 240 training, 80 validation and 600 test samples, prepared; three test parts."""
    folder = tmp_path_factory.mktemp("dataset")
    labels = write_raw(folder / "raw", {"train": 240, "valid": 80, "test": 600})
    settings = PrepareSettings(dataset="mosi", audio=folder / "raw" / "audio.npz")
    return prepare(labels, folder / "data", settings)


@pytest.fixture(scope="session")
def encoder(dataset, tmp_path_factory) -> Path:
    """An untrained text encoder with the dataset's words."""
    from uacs.ubm import tiny_bert

    folder = tmp_path_factory.mktemp("encoder")
    tiny_bert.create(folder, (s.text for s in dataset.samples("train")), width=32)
    return folder


@pytest.fixture(scope="session")
def fast():
    """Training settings for a few seconds."""
    from uacs.ubm.settings import TrainingSettings

    return TrainingSettings(
        lr_text=2e-3, lr_audio=5e-3, lr_other=5e-3, batch_size=16, accumulate=1, max_epochs=3, threads=1
    )


@pytest.fixture(scope="session")
def ubm(dataset, encoder, fast, tmp_path_factory) -> Path:
    """A UBM trained on the dataset for three epochs."""
    from uacs.ubm.training import train

    folder = tmp_path_factory.mktemp("models") / "ubm"
    train(dataset, str(encoder), fast, folder)
    return folder


@pytest.fixture(scope="session")
def recorded(dataset, tmp_path_factory) -> Path:
    """A large model's recorded answers: right in nine of ten, unsure where wrong, with second looks."""
    import pandas as pd

    draw = np.random.default_rng(7)
    samples = [s for split in ("valid", "test") for s in dataset.samples(split)]
    label = np.array([s.label for s in samples])
    right = draw.random(len(label)) < 0.9
    table = pd.DataFrame(
        {
            "sample_id": [s.sample_id for s in samples],
            "y_large": np.where(right, label, -label).round(1),
            "u_large": np.where(right, draw.uniform(0, 0.6, len(label)), draw.uniform(0.3, 1.0, len(label))),
            "y_verify": label,
            "u_verify": draw.uniform(0, 0.5, len(label)),
            "seconds_large": 0.5,
            "seconds_verify": 0.25,
        }
    )
    path = tmp_path_factory.mktemp("recorded") / "large.parquet"
    table.to_parquet(path)
    return path


@pytest.fixture(scope="session")
def recogniser(tmp_path_factory) -> str:
    """The folder of a tiny speech recogniser."""
    from tests.tiny_recogniser import save

    folder = tmp_path_factory.mktemp("recogniser")
    save(folder)
    return str(folder)


@pytest.fixture(scope="session")
def ray_cluster():
    """The one Ray of the test session; what runs inside joins it."""
    from uacs.cluster.serving.local import start_http
    from uacs.cluster.session import ray_session

    with ray_session():
        start_http("127.0.0.1", free_port(), deadline=60)
        yield


@pytest.fixture(scope="session")
def tiny_demo(ray_cluster, tmp_path_factory):
    """A demo of few clips: its folder, and the content of metrics.json."""
    from uacs import demo

    out = tmp_path_factory.mktemp("demo") / "run"
    return out, demo.run(out, sizes=DEMO_SIZES)


@pytest.fixture
def uacs(monkeypatch, capsys):
    """Run a command line; gives exit code, stdout and stderr."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["uacs", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return run
