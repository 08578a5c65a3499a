"""What HTTP and Ray cost a request that the small model settles: against calling it, and against a plain service.

    make demo OUT=/tmp/demo
    python -m benchmarks.serving.overhead /tmp/demo

All servers are up at once and are asked in turns, `--rounds` times: one client, then sixteen, which ask again as soon
as they are answered (closed loop, 127.0.0.1; clients share the cores with the servers). `called` is SmallPredictor in
this process, one sample at a time, one thread. Prints Markdown; medians over rounds.
"""

import argparse
import asyncio
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.serving.bodies import of_demo
from benchmarks.serving.clients import closed, milliseconds
from benchmarks.serving.endpoint import endpoint, free_port, process
from uacs.data.prepared import PreparedDataset
from uacs.ubm.predictor import SmallPredictor

MANY = 16


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each load in each round")
    options = parser.parse_args()
    found = measured(options.demo, options.rounds, options.seconds)
    medians = {name: np.median(rounds, axis=0) for name, rounds in found.items()}
    print(f"| | p50, ms | p99 | added p50 | added p99 | {MANY} clients: p50 | p99 | requests/s | of plain |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    base, service = medians["called"], medians["plain FastAPI"]
    for name, (p50, p99, *rest) in medians.items():
        cells = [f"{p50:.1f}", f"{p99:.1f}"]
        if rest:
            cells += [f"{p50 - base[0]:.1f}", f"{p99 - base[1]:.1f}", f"{rest[0]:.0f}", f"{rest[1]:.0f}"]
            cells += [f"{rest[2]:.0f}", f"{rest[2] / service[4]:.2f}"]
        print(f"| {name} | {' | '.join(cells + [''] * (8 - len(cells)))} |")


def measured(demo: Path, rounds: int, seconds: float) -> dict[str, list[list[float]]]:
    """Of the predictor, and of each server, a list a round: ms of one client's answers, 50th and 99th percentile; of a
    server then the same of `MANY` clients', and requests a second."""
    bodies = of_demo(demo, "small")
    with ExitStack() as stack:
        port = free_port()
        plain = [sys.executable, "-m", "uvicorn", "benchmarks.serving.plain:api", "--port", str(port)]
        plain += ["--log-level", "error"]
        ubm = str(demo / "ubm")
        servers = {
            "plain FastAPI": stack.enter_context(process(plain, f"http://127.0.0.1:{port}", "/v1/health", UBM=ubm)),
            "U-ACS": stack.enter_context(endpoint(demo)),
            "U-ACS, HAProxy": stack.enter_context(endpoint(demo, "--ha-proxy")),
        }
        rows: dict[str, list[list[float]]] = {name: [] for name in ("called", *servers)}
        for _ in range(rounds + 1):  # the first warms up
            rows["called"].append(called(demo, seconds))
            for name, url in servers.items():
                alone = asyncio.run(closed(url, bodies, 1, seconds))
                many = asyncio.run(closed(url, bodies, MANY, seconds))
                rate = sum(outcome.code == 200 for outcome in many) / seconds
                rows[name].append([*milliseconds(alone, 50, 99), *milliseconds(many, 50, 99), rate])
    return {name: found[1:] for name, found in rows.items()}


def called(demo: Path, seconds: float) -> list[float]:
    """Milliseconds of a call, 50th and 99th percentile."""
    predictor, taken = SmallPredictor(demo / "ubm"), []
    samples = list(PreparedDataset(demo / "data").samples("test"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        predictor.predict([samples[len(taken) % len(samples)]])
        taken.append(time.perf_counter() - began)
    return [float(np.percentile(taken, p)) * 1000 for p in (50, 99)]


if __name__ == "__main__":
    main()
