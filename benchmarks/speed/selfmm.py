"""Our small model beside MMSA's Self-MM, which it is built on: the same data, encoder, threads and seeds, in turns.

MMSA (https://github.com/thuiar/MMSA, MIT) is not a dependency; give it an environment of its own, then name its Python:

    python -m venv mmsa-env
    mmsa-env/bin/pip install --constraint constraints.txt torch==2.13.0 MMSA==2.2.1
    python -m benchmarks.speed --parts selfmm --mmsa-python mmsa-env/bin/python
    python -m benchmarks.speed --parts selfmm --mmsa-python mmsa-env/bin/python \
        --pickle MOSI/Processed/unaligned_50.pkl --encoder bert-base-uncased

Without --pickle data like MOSI's, but fewer, are generated (`selfmm_data`; five minutes on a core). Without --encoder
both train a small BERT of random weights by Self-MM's rates, but for the text's; else each has its own rates for MOSI.
Batch size, accumulated batches and patience are the same, and checked to be. Each round trains both with one seed, each
in a process of its own, the other one first than in the round before; its best epoch answers split test. A row is

    steps of an epoch   forward and back over split train, which is in memory
    epoch               that, validation, and keeping on disk what is to be kept
    whole training      all epochs until early stopping; ours fits its estimators of doubt, and saves, besides
    split test          answers from memory; ours tokenises, and tells probabilities and doubts, besides
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np

from benchmarks.speed.selfmm_data import TOKENS, Workload, generate
from benchmarks.speed.sides import Row, Spread
from uacs import metrics
from uacs.data.prepare import PrepareSettings, prepare
from uacs.data.prepared import PreparedDataset

THEIRS = Path(__file__).with_name("selfmm_theirs.py")
SIDES = ("Self-MM", "U-ACS")
REPEATS, SEED = 3, 1111  # timed passes over split test; MMSA's first seed
SCRATCH = {"lr_text": 1e-3, "lr_audio": 5e-3, "lr_vision": 5e-3, "lr_other": 1e-3}  # where the encoder is random
BATCHES = (16, 256)  # of inference: what Self-MM has for MOSI, and our predictor's
SECONDS = {"steps": "steps of an epoch, s", "epoch": "epoch, s", "whole": "whole training, s"}
RATES = {f"batch {n}": f"split test in batches of {n}, samples/s" for n in BATCHES}
SCORES = ("epochs", "acc2", "acc7", "mae", "corr")


def measure(
    out: Path, rounds: int, mmsa_python: Path, pickle: str | None = None, encoder: str | None = None
) -> Iterator[Row]:
    """The rows of part selfmm."""
    found = beside(out / f"selfmm-{time.time_ns()}", mmsa_python, rounds, encoder=encoder, pickle=pickle)["summary"]
    of = Path(encoder).name if encoder else "BERT 160 x 3"
    for name, title in (SECONDS | RATES).items():
        row = found[name]
        least = 2 if name in ("steps", "epoch", f"batch {BATCHES[-1]}") else None
        yield Row(f"{title.rpartition(', ')[0]}: how many times as fast", of, Spread(*row["compared"]), at_least=least)
        yield Row(f"{title}: U-ACS", of, Spread(*row["U-ACS"]), "", 4 if name in SECONDS else 0)
    for name in SCORES:
        for side in SIDES:
            yield Row(f"{name}: {side}", of, Spread(*found[name][side]), "", 0 if name == "epochs" else 3)
    yield Row("acc2: U-ACS less Self-MM", of, Spread(*found["acc2"]["compared"]), "", 3, at_least=-0.01)
    yield Row("mae: U-ACS less Self-MM", of, Spread(*found["mae"]["compared"]), "", 3, at_most=0.01)


def beside(
    out: Path,
    mmsa_python: Path,
    rounds: int = 3,
    threads: int = 1,
    encoder: str | None = None,
    pickle: str | None = None,
    workload: Workload | None = None,
    epochs: int = 100,
) -> dict:
    """Every round's figures by side, and a summary of them; `out` is a new folder, `epochs` the most that there are."""
    if pickle and not encoder:
        sys.exit("--pickle: name with --encoder the BERT whose tokens its text_bert has")
    out.mkdir(parents=True)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of both sides' processes
    scratch = {} if encoder else SCRATCH
    if not (pickle and encoder):
        pickle, encoder = generate(out, encoder, workload or Workload())
    prepare(pickle, out / "data", PrepareSettings(dataset="mosi"))
    measured: dict[str, list[dict]] = {side: [] for side in SIDES}
    for seed in range(SEED, SEED + rounds):
        alike = {"seed": seed, "threads": threads}
        options = alike | {"pickle": pickle, "encoder": encoder, "epochs": epochs, "out": out / "theirs.json"}
        changed = alike | {"max_epochs": epochs, "max_text_tokens": TOKENS} | scratch
        train = {
            "Self-MM": partial(theirs, mmsa_python, options, scratch),
            "U-ACS": partial(apart, out / "data", encoder, changed),
        }
        told = {side: train[side]() for side in (SIDES if seed % 2 else SIDES[::-1])}
        if told["Self-MM"]["settings"] != told["U-ACS"]["settings"]:
            sys.exit(f"not the same training: {[told[side]['settings'] for side in SIDES]}")
        for side in SIDES:
            measured[side].append(figures(told[side]))
    return {"rounds": measured, "summary": summary(measured)}


def theirs(python: Path, options: dict[str, object], scratch: dict[str, float]) -> dict:
    """What `selfmm_theirs` writes, run by the Python that has MMSA."""
    changed = {"learning_rate_bert": scratch["lr_text"]} if scratch else {}  # the others are its own
    every = options | {"repeats": REPEATS, "set": json.dumps(changed)}
    words = [str(word) for name, value in every.items() for word in (f"--{name}", value)]
    subprocess.run([python, "-I", THEIRS, *words, "--batches", *map(str, BATCHES)], check=True)
    return json.loads(Path(str(options["out"])).read_text())


def apart(data: Path, encoder: str, changed: dict[str, float]) -> dict:
    """`ours`, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(ours, data, encoder, changed).result()


def ours(data: Path, encoder: str, changed: dict[str, float]) -> dict:
    """What `selfmm_theirs` writes, of a UBM with the preset for MOSI but for what is `changed`."""
    from uacs.ubm import training
    from uacs.ubm.predictor import SmallPredictor
    from uacs.ubm.settings import training_settings

    dataset, settings = PreparedDataset(data), training_settings("mosi").model_copy(update=changed)
    samples, epochs, train_epoch = list(dataset.samples("test")), list[tuple[float, float]](), training._train_epoch

    def watched(*words):
        began = time.perf_counter()
        loss = train_epoch(*words)
        epochs.append((began, time.perf_counter()))
        return loss

    with TemporaryDirectory() as folder, patch.object(training, "_train_epoch", watched):
        training.train(dataset, encoder, settings, Path(folder) / "ubm")
        ended = time.perf_counter()
        predictors = {n: SmallPredictor(Path(folder) / "ubm", n, threads=settings.threads) for n in BATCHES}
    same = {"batch_size": settings.batch_size, "update_epochs": settings.accumulate, "early_stop": settings.patience}
    return {
        "settings": same,
        "epochs": epochs,
        "ended": ended,
        "inference": {n: answer_timed(predictor, samples) for n, predictor in predictors.items()},
        "prediction": [answer.y for answer in predictors[BATCHES[0]].predict(samples)],
        "label": [sample.label for sample in samples],
    }


def answer_timed(predictor, samples: list) -> list[float]:
    """Seconds of each pass over the samples, after one that is not counted."""
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        predictor.predict(samples)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def figures(told: dict) -> dict[str, float]:
    """One training's figures by the names of the table's rows, medians over its epochs and over passes."""
    began, done = np.array(told["epochs"]).T
    starts = np.append(began, told["ended"])
    took = {"steps": np.median(done - began), "epoch": np.median(np.diff(starts)), "whole": starts[-1] - starts[0]}
    rates = {f"batch {n}": len(told["label"]) / median(seconds) for n, seconds in told["inference"].items()}
    scores = metrics.score(np.array(told["prediction"]), np.array(told["label"]), "mosi") | {"epochs": len(began)}
    return {name: float(value) for name, value in (took | rates).items()} | {name: scores[name] for name in SCORES}


def summary(measured: dict[str, list[dict]]) -> dict[str, dict[str, list[float]]]:
    """By row, of each side and of the two compared: the median, least and most over rounds."""
    rows = {}
    for name in (*SECONDS, *RATES, *SCORES):
        theirs, ours = (np.array([one[name] for one in measured[side]]) for side in SIDES)
        compared = ours - theirs if name in SCORES else ours / theirs if name in RATES else theirs / ours
        each = {"Self-MM": theirs, "U-ACS": ours, "compared": compared}
        rows[name] = {side: [float(f(values)) for f in (np.median, np.min, np.max)] for side, values in each.items()}
    return rows
