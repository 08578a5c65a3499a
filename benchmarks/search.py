"""How near Ray Tune comes to the exact sweep of thresholds, and what either takes.

    python -m benchmarks.search RUN...

Each RUN is one of `uacs calibrate`. For every objective, both kinds of knobs and three seeds: the hypervolume under
Tune's front by that of the exact one (the reference point is the small model alone, at the price of the dearest
point), the objective's value at both choices and by how much Tune's is less in percent of the exact one's, and
seconds. 200 trials, on a Ray of its own. JSON last.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from uacs.cascade.objectives import Objective, hypervolume
from uacs.cascade.prices import prices
from uacs.cascade.recording import Recording
from uacs.cluster.runs import Run
from uacs.cluster.search_thresholds import Ledger, Points, Problem, ThresholdSearch, search
from uacs.cluster.session import ray_session

SEEDS, TRIALS = 3, 200


def objectives(problem: Problem) -> list[Objective]:
    """A front, a weight, a budget and a floor that can be met."""
    exact = problem.exact()
    within = exact.quality[exact.time <= 0.3]
    return [Objective(), Objective("weight", 0.1), Objective("budget", 0.3), Objective("floor", float(within.max()))]


def worth(problem: Problem, objective: Objective, of: Points) -> float:
    """The objective's value at its choice."""
    at = objective.choose(of.quality, of.time, problem.large)
    return float(objective.utility(of.quality, of.time, problem.large)[at])


def measure(run: Path, knobs: str) -> list[dict]:
    """A row for each objective and seed."""
    table, like = Run.open(run).table(), Run.open(run).like
    recording, at, rows = Recording.of(table, like), prices(table), []
    for objective in objectives(Problem.of(recording, Objective(), at, knobs)):
        problem = Problem.of(recording, objective, at, knobs)
        started = time.perf_counter()
        exact = problem.exact()
        taken = time.perf_counter() - started
        worst = float(exact.quality[np.argmin(exact.time)]), float(exact.time.max())
        whole = hypervolume(exact.quality, exact.time, *worst)
        for seed in range(SEEDS):
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                ledger = Ledger(f"{folder}/trials.parquet")
                found = search(problem, ThresholdSearch(knobs=knobs, trials=TRIALS), seed, ledger)
                seconds = time.perf_counter() - started
            best, ours = worth(problem, objective, exact), worth(problem, objective, found)
            rows.append(
                {
                    "run": str(run),
                    "knobs": knobs,
                    "objective": objective.kind,
                    "seed": seed,
                    "hypervolume": hypervolume(found.quality, found.time, *worst) / whole if whole else 1.0,
                    "exact": best,
                    "tune": ours,
                    "short": (best - ours) / abs(best),
                    "exact_s": taken,
                    "tune_s": seconds,
                }
            )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--knobs", nargs="+", default=["each", "shared"])
    words, rows = parser.parse_args(), []
    with ray_session():
        for run in words.runs:
            for knobs in words.knobs:
                for row in measure(run, knobs):
                    rows.append(row)
                    print(
                        f"{row['run'][-28:]:28} {row['knobs']:6} {row['objective']:6} seed {row['seed']}  hypervolume "
                        f"{row['hypervolume']:.4f}  exact {row['exact']:+.4f} tune {row['tune']:+.4f} "
                        f"({row['short']:.2%} short)  exact {row['exact_s']:.2f} s, tune {row['tune_s']:.1f} s",
                        flush=True,
                    )
    least = min(row["hypervolume"] for row in rows if row["objective"] == "front")
    most = max(row["short"] for row in rows)
    print(f"least hypervolume of a search for the front {least:.4f}, most short {most:.2%}")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
