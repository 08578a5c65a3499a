"""What comes before the first answer: a command's help, an evaluation of ten samples, an endpoint."""

import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import httpx2
import yaml

from benchmarks.serving.bodies import of_demo
from benchmarks.serving.endpoint import endpoint
from benchmarks.speed.sides import Row, Spread
from uacs.data.prepared import PreparedDataset, write_part

FEW, HELPS = 10, 5  # samples; how often help is asked for in a round


def measure(out: Path, rounds: int, demo: Path) -> Iterator[Row]:
    """The rows of part startup."""
    few = of_few(demo / "data", out / "few")
    body = of_demo(demo, "small")[0]
    help_, evaluation, serve = [], [], []
    for _ in range(rounds + 1):
        help_ += [seconds_of("--help") for _ in range(HELPS)]
        evaluation.append(seconds_of(*evaluate(demo, few, out / f"few-{time.time_ns()}")))
        serve.append(to_first_answer(demo, body))
    yield Row("uacs --help", "no model", Spread.of(help_[HELPS:]), "s", at_most=0.5)
    yield Row(
        f"uacs evaluate, {FEW} samples, from start to end", "the demo's models", Spread.of(evaluation[1:]), "s", 1
    )
    yield Row("uacs serve, to the first answer", "the demo's models", Spread.of(serve[1:]), "s", 1)


def of_few(folder: Path, out: Path) -> Path:
    """A prepared dataset of the first samples of split test."""
    out.mkdir(parents=True, exist_ok=True)
    data, part = PreparedDataset(folder), "test-00000.parquet"
    written = write_part(out, part, list(islice(data.samples("test"), FEW)))
    info = data.info.model_copy(update={"parts": {part: written}})
    (out / "dataset.json").write_text(info.model_dump_json())
    return out


def evaluate(demo: Path, data: Path, out: Path) -> list[str]:
    """The words of `uacs evaluate` with the demo's models."""
    models = ["--ubm", demo / "ubm", "--mllm", demo / "mllm", "--thresholds", demo / "calibration" / "thresholds.json"]
    settings = yaml.safe_load((demo / "serve.yaml").read_text())["settings"]
    told = [word for name, value in settings.items() for word in ("--set", f"mllm.{name}={value}")]
    return list(map(str, ["evaluate", data, *models, *told, "--out", out]))


def seconds_of(*words: str) -> float:
    """Seconds of a command, from start to end."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "uacs", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    return time.perf_counter() - began


def to_first_answer(demo: Path, body: dict) -> float:
    """Seconds from `uacs serve` to its first answer."""
    began = time.perf_counter()
    with endpoint(demo) as url:
        httpx2.post(f"{url}/v1/predict", json=body, timeout=60).raise_for_status()
        return time.perf_counter() - began
