"""How long pickles of MOSI's and MOSEI's real sizes take to prepare and to train on, and in how much memory.

    python benchmarks/mmsa_pickles.py mosi --text-encoder FOLDER
    python benchmarks/mmsa_pickles.py mosei --text-encoder FOLDER

Writes a pickle with MMSA's arrays (names, shapes and types of the unaligned files; random numbers, every
sequence at its full length, which is the worst case), prepares it and trains a UBM for one epoch, each by
its command in a process of its own. Prints seconds and peak resident memory of each, then one JSON line.
MOSEI's takes 9 GB of disk for the pickle, 5 GB for its prepared form, and 12 GB of memory to write.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np

SHAPES = {
    "mosi": {"rows": (1284, 229, 686), "audio": (375, 5), "vision": (500, 20)},
    "mosei": {"rows": (16326, 1871, 4659), "audio": (500, 74), "vision": (500, 35)},
}
WORDS = ("well i think the film", "was really not", "so good but", "her acting", "made me laugh", "and cry")


def write(path: Path, shape: dict, seed: int = 0) -> None:
    """A pickle of one dataset's shapes; protocol 4, as files of over 4 GB must be."""
    draw = np.random.default_rng(seed)
    content = {}
    for split, rows in zip(("train", "valid", "test"), shape["rows"], strict=True):
        label = draw.integers(-15, 16, rows) / 5
        content[split] = {
            "raw_text": [" ".join(draw.choice(WORDS, 6)) for _ in range(rows)],
            "id": [f"{split}{i // 10}$_${i % 10}" for i in range(rows)],
            "text": np.zeros((rows, 50, 768), np.float32),
            "text_bert": np.ones((rows, 3, 50), np.float32),
            "regression_labels": label.astype(np.float32),
            "annotations": ["Neutral"] * rows,
        }
        for modality in ("audio", "vision"):
            steps, size = shape[modality]
            values = draw.standard_normal((rows, steps, size), np.float32)
            values += label[:, None, None].astype(np.float32) / 4
            if modality == "audio":
                values[::50, 0, 0] = -np.inf
            content[split] |= {modality: values, f"{modality}_lengths": [steps] * rows}
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=4)


def measured(*words: object) -> dict[str, float]:
    """Run a command; its wall seconds and peak resident memory in GiB."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "uacs", *map(str, words)], stdout=sys.stderr)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{words[0]} failed")
    return {"seconds": time.perf_counter() - started, "gib": used.ru_maxrss / 2**20}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=SHAPES)
    parser.add_argument("--text-encoder", required=True, help="a BERT's folder or hub id")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch)
        source = folder / f"{arguments.dataset}.pkl"
        # in a process of its own: a child's peak begins at that of the parent that started it
        writer = get_context("spawn").Process(target=write, args=(source, SHAPES[arguments.dataset]))
        writer.start()
        writer.join()
        size = source.stat().st_size / 2**30
        steps = {"prepare": measured("prepare", source, folder / "data")}
        source.unlink()
        encoder = ["--text-encoder", arguments.text_encoder, "--set", "max_epochs=1", "--set", "threads=1"]
        steps["train, 1 epoch"] = measured("train", "ubm", folder / "data", "--out", folder / "ubm", *encoder)
    print(f"{arguments.dataset}: a pickle of {size:.1f} GiB")
    for step, figures in steps.items():
        print(f"{step:16} {figures['seconds']:8.1f} s   peak {figures['gib']:5.2f} GiB")
    print(json.dumps({"dataset": arguments.dataset, "pickle_gib": size, "steps": steps}))


if __name__ == "__main__":
    main()
