"""Faults at random against one run after another, counted: does a run ever lose or repeat a sample?

    python -m benchmarks.soak --minutes 10 --seed 1 --out /tmp/soak

A Ray of a head and two workers on 127.0.0.1; every few seconds a UBM worker, a replica, a whole node or the driver
is killed at random, and a killed driver is started again. Each run's table must equal that of a run in peace, bit by
bit. Prints what was killed how often; exit code 1 at the first difference.
"""

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks import workload
from tests.cluster.chaos import REPLICAS, WORKERS, Driver, last_word, nodes, wait_until, written
from uacs.cluster.runs import Run

SAMPLES = 5_000
SECONDS = ["seconds_small", "seconds_large", "seconds_verify"]
FAULTS = {"driver": 3, "UBM worker": 3, "replica": 3, "node": 1}  # and how likely each is


def main() -> None:
    """Soak for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    data = workload.dataset(options.out / "material", SAMPLES)
    spec, small = workload.recorded(options.out / "material", data), workload.ubm(options.out / "material", data)
    thresholds = workload.thresholds(options.out / "material", data, small)
    words = ["evaluate", data.folder, "--ubm", small, "--mllm", spec, "--thresholds", thresholds]
    words += ["--set", "batch_size=2", "--set", "chunk_size=8", "--out"]

    draw, killed, runs = random.Random(options.seed), Counter(), 0
    end = time.monotonic() + 60 * options.minutes
    with nodes() as ray:
        quiet = options.out / "quiet"
        assert Driver([*words, quiet], ray.environment, options.out / "quiet.log").wait() == 0
        while time.monotonic() < end:
            runs += 1
            out = options.out / f"run-{runs}"
            redone = soak([*words, out], out, ray, draw, killed)
            same = table(out).equals(table(quiet))
            print(f"run {runs}: {'equal' if same else 'DIFFERENT'}, {redone} samples begun again; {dict(killed)}")
            if not same:
                sys.exit(1)
    print(
        f"{runs} runs of {SAMPLES:,} samples, {sum(killed.values())} faults: {dict(killed)}; nothing lost or repeated"
    )


def soak(words: list, out: Path, ray, draw: random.Random, killed: Counter) -> int:
    """One run among faults; returns how many samples its dead drivers had begun and not written."""
    log = out.with_suffix(".log")
    driver, redone = Driver(words, ray.environment, log), 0
    while driver.running:
        pause = time.monotonic() + draw.uniform(2, 10)
        wait_until(lambda driver=driver, pause=pause: not driver.running or time.monotonic() > pause)
        fault = draw.choices(list(FAULTS), list(FAULTS.values()))[0]
        if not driver.running:
            break
        if fault == "driver":
            driver.kill()
            if (out / "status.json").exists():
                left = last_word(out).progress.counts
                redone += left.small - left.written
            driver = Driver(words, ray.environment, log)
        elif fault == "node":
            ray.lose()
        elif not ray.kill(WORKERS if fault == "UBM worker" else REPLICAS):
            continue
        killed[fault] += 1
    if driver.wait() != 0:
        sys.exit(f"{out}: {log.read_text()}")
    assert written(out) == written(out.parent / "quiet")
    return redone


def table(out: Path):
    """Outcomes without their times."""
    return Run.open(out).table().drop_columns(SECONDS)


if __name__ == "__main__":
    main()
