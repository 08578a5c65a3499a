"""Ray's price: time a sample and the driver's memory as a dataset grows, against a plain loop, and over pool sizes.

    python -m benchmarks.scale --out /tmp/scale

Text and short audio features, a tiny UBM; the large model is a tiny Qwen2.5-Omni, or recorded answers that cost
nothing, so that what is left is Ray. Each run is a process of its own on a Ray of 8 logical CPUs whose object store
holds 256 MiB. The loop asks the same predictors in one process and writes the same files. "Beyond start-up" means
from the fourth part written, when all are at work, to the last. Prints Markdown.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks import workload

STORE = 256 * 2**20
GROWTH, REPEATS = (5_000, 50_000), 3
COLUMNS = ("large model", "samples", "UBM pool", "ms a sample beyond start-up", "driver's peak, MiB", "wall, s")
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, models and runs")
    parser.add_argument("--one", nargs=4, metavar=("MODEL", "SAMPLES", "POOL", "RUN"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        model, samples, pool, run = options.one
        kind = loop if pool == "loop" else cascade
        print(json.dumps(kind(material(options.out, int(samples), model), pool, Path(run))))
        return
    for samples in GROWTH:
        material(options.out, samples, "tiny")
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs\n\n{HEAD}", flush=True)
    grow(options.out)
    for model in ("tiny", "recorded"):
        pools(options.out, model)


def grow(out: Path) -> None:
    """Ten times the samples: what becomes of the time a sample and of the driver's memory."""
    small, large = (one(out, "tiny", samples, "2", 0) for samples in GROWTH)
    for samples, found in zip(GROWTH, (small, large), strict=True):
        print(line("tiny", samples, "2", found), flush=True)
    each, peak = (large[key] / small[key] for key in ("ms", "mib"))
    print(f"\nTen times the samples: time a sample x {each:.2f}, driver's peak x {peak:.2f}\n\n{HEAD}", flush=True)


def pools(out: Path, model: str) -> None:
    """The loop and pools of several sizes, in turn, so that a machine that slows down slows all of them."""
    kinds = ("loop", "1", "2", "4")
    rounds = [{kind: one(out, model, GROWTH[0], kind, i) for kind in kinds} for i in range(REPEATS)]
    for kind in kinds:
        print(line(model, GROWTH[0], kind, {key: median(f[kind][key] for f in rounds) for key in rounds[0][kind]}))
    ratios = sorted(found["1"]["ms"] / found["loop"]["ms"] for found in rounds)
    print(f"\n{model}: one worker against the loop, pair by pair x {', '.join(f'{ratio:.2f}' for ratio in ratios)}\n")


def line(model: str, samples: int, pool: str, found: dict[str, float]) -> str:
    """A row of the table."""
    return f"| {model} | {samples:,} | {pool} | {found['ms']:.2f} | {found['mib']:.0f} | {found['wall']:.0f} |"


def one(out: Path, model: str, samples: int, pool: str, number: int) -> dict[str, float]:
    """One run in a process of its own."""
    run = out / f"run-{model}-{samples}-{pool}-{number}"
    command = [sys.executable, "-m", "benchmarks.scale", "--out", out, "--one", model, samples, pool, run]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def material(out: Path, samples: int, model: str):
    """Data, UBM, large model and thresholds, made once; the models are the same for all sizes."""
    data = workload.dataset(out / str(samples), samples)
    recorded, tiny = workload.recorded(out / str(samples), data), workload.large(out, data)
    small, path = out / "ubm", out / "thresholds.json"
    if not path.exists():
        workload.thresholds(out, data, workload.ubm(out, data))
    return data, small, tiny if model == "tiny" else recorded, path


def cascade(made, pool: str, run: Path) -> dict[str, float]:
    """`uacs evaluate`, as a driver."""
    from uacs.cascade.thresholds import Thresholds
    from uacs.cluster.evaluation import Models, evaluate
    from uacs.cluster.resources import Resources
    from uacs.config import EvaluationSettings

    import ray  # isort: skip  uacs.cluster sets Ray's environment first

    data, small, spec, thresholds = made
    options = dict(include_dashboard=False, log_to_driver=False, logging_level="ERROR", _node_ip_address="127.0.0.1")
    ray.init(num_cpus=8, object_store_memory=STORE, **options)
    started = time.perf_counter()
    settings = EvaluationSettings(resources=Resources(pool=pool, parts_in_flight=3), chunk_size=256)
    coming = []
    evaluate(
        Models(data, "test", small, spec),
        Thresholds.load(thresholds),
        run,
        settings,
        progress=lambda *_: coming.append(peak()),
    )
    return measured(run, time.perf_counter() - started) | {"coming": coming[-1]}


def loop(made, pool: str, run: Path) -> dict[str, float]:
    """The same predictors, routing and files in one process, without Ray."""
    import numpy as np

    from uacs.cascade import outcomes, routing
    from uacs.cascade.thresholds import Thresholds
    from uacs.cluster.runs import write_outcome
    from uacs.mllm import MllmSettings, build
    from uacs.mllm.chunk import answer_chunk, ask
    from uacs.ubm.predictor import SmallPredictor

    data, small, spec, path = made
    tau, predictor = Thresholds.load(path), SmallPredictor(small, threads=1)
    model = build(spec, MllmSettings(), data.info.score_range)
    started = time.perf_counter()
    for part in data.parts("test"):
        found = data.read(part)
        answers = predictor.predict(found)
        due = routing.escalated(np.array([a.u for a in answers]), tau.tau_small)
        asked = ask(
            found, answers, due, tau.tau_large, "due", 32, lambda chunks: [answer_chunk(model, c) for c in chunks]
        )
        table = outcomes.build(found, answers, asked.large, asked.verify)
        write_outcome(run / "outcomes" / part, outcomes.with_decision(table, tau.tau_small, tau.tau_large))
    return measured(run, time.perf_counter() - started)


def measured(run: Path, wall: float) -> dict[str, float]:
    """Milliseconds a sample from the fourth part written, when all work, to the last, and this process's peak."""
    written = sorted(path.stat().st_mtime for path in (run / "outcomes").glob("*.parquet"))
    rows = 256 * (len(written) - 4)  # but for the last part, which may hold fewer
    return {"ms": 1000 * (written[-1] - written[3]) / rows, "mib": peak(), "wall": wall}


def peak() -> float:
    """The most MiB that this process has had in memory."""
    status = Path("/proc/self/status").read_text()
    return next(int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
