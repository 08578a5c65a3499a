"""Are our metrics MMSA's? Both score thousands of random tables, ties and edge cases among them.

MMSA (https://github.com/thuiar/MMSA, MIT) is not a dependency; give it an environment of its own:

    python -m venv mmsa-env
    mmsa-env/bin/pip install --constraint constraints.txt MMSA==2.2.1 --editable .
    mmsa-env/bin/python benchmarks/metrics_against_mmsa.py

MMSA rounds to four decimals, so two numbers are equal where they differ by no more than half of the last
one. Where it crashes because no label is non-zero, ours must be NaN. Exit code 1 on any mismatch.
"""

import argparse
import sys
import warnings
from collections import Counter, defaultdict

import numpy as np
import torch

from uacs import datasets, metrics

try:
    from MMSA.utils.metricsTop import MetricsTop
except ImportError as error:
    sys.exit(f"MMSA cannot be imported ({error}); pip install MMSA==2.2.1 in an environment of its own")

LARGEST_TABLE = 800
TOLERANCE = 0.5e-4 + 1e-6  # MMSA's rounding, and what float32 leaves of MAE

# MMSA 2.2.1 has no rules under SIMSv2's name; labels and ranges are those of SIMS
THEIR_RULES = {"mosi": "MOSI", "mosei": "MOSEI", "sims": "SIMS", "simsv2": "SIMS"}
THEIR_NAMES = {
    "mosi": {
        "acc2": "Non0_acc_2",
        "f1": "Non0_F1_score",
        "acc2_has0": "Has0_acc_2",
        "f1_has0": "Has0_F1_score",
        "acc7": "Mult_acc_7",
        "acc5": "Mult_acc_5",
        "mae": "MAE",
        "corr": "Corr",
    },
    "sims": {
        "acc2": "Mult_acc_2",
        "f1": "F1_score",
        "acc5": "Mult_acc_5",
        "acc3": "Mult_acc_3",
        "mae": "MAE",
        "corr": "Corr",
    },
}

# annotators' means: of five in MOSI, of three in MOSEI, of five signs in SIMS
GRIDS = {
    "mosi": np.arange(-15, 16) / 5,
    "mosei": np.arange(-9, 10) / 3,
    "sims": np.arange(-5, 6) / 5,
    "simsv2": np.arange(-5, 6) / 5,
}
EDGES = {
    "mosi": np.array([0, 0.5, 1, 1.5, 2, 2.5, 3, -0.5, -1, -1.5, -2, -2.5, -3]),
    "sims": np.array([0, 0.1, 0.7, 1, 1.01, -0.1, -0.7, -1, -1.01, 0.5, 1.5, -0.5, -1.5]),
}


def main() -> None:
    """Parse, compare, print, exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=5000, help="random tables for each dataset's rules")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # numpy's about constants: those tables are here on purpose
    mismatches = 0
    print(f"{'rules':8}{'tables':>8}{'compared':>10}{'NaN':>7}{'MMSA crashed':>14}  largest difference (1e-4)")
    for i, dataset in enumerate(THEIR_RULES):
        mismatches += compare(dataset, args.tables, np.random.default_rng([args.seed, i]))
    print(f"{mismatches} mismatches")
    sys.exit(1 if mismatches else 0)


def compare(dataset: str, tables: int, draw: np.random.Generator) -> int:
    """Score `tables` tables both ways, print a line of the summary, and return the number of mismatches."""
    counts: Counter[str] = Counter()
    largest: defaultdict[str, float] = defaultdict(float)
    for number in range(tables):
        prediction, label = table(dataset, draw)
        ours, theirs = metrics.score(prediction, label, dataset), mmsa(dataset, prediction, label)
        counts["crashed"] += theirs is None
        if theirs is None:
            theirs = {"acc2": np.nan, "f1": np.nan}
        for name, value in theirs.items():
            difference = 0.0 if np.isnan(ours[name]) and np.isnan(value) else abs(ours[name] - value)
            counts["compared"] += 1
            counts["nan"] += bool(np.isnan(value))
            if difference <= TOLERANCE:
                largest[name] = max(largest[name], difference)
            else:
                counts["mismatches"] += 1
                print(f"{dataset}, table {number}, n {len(label)}, {name}: ours {ours[name]:.6f}, MMSA's {value:.4f}")
    each = "  ".join(f"{name} {1e4 * value:.3f}" for name, value in largest.items())
    print(f"{dataset:8}{tables:8}{counts['compared']:10}{counts['nan']:7}{counts['crashed']:14}  {each}", flush=True)
    return counts["mismatches"]


def mmsa(dataset: str, prediction: np.ndarray, label: np.ndarray) -> dict[str, float] | None:
    """MMSA's metrics under our names; None where it crashes, indexing with an empty float array."""
    evaluate = MetricsTop("regression").getMetics(THEIR_RULES[dataset])
    try:
        theirs = evaluate(torch.tensor(prediction, dtype=torch.float32), torch.tensor(label, dtype=torch.float32))
    except IndexError:
        if np.any(np.float32(label) != 0):
            raise
        return None
    names = THEIR_NAMES[datasets.kind(dataset).rules]
    return {ours: float(theirs[name]) for ours, name in names.items()}


def table(dataset: str, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels (n,) as float64, n from 1 to `LARGEST_TABLE`, small ones often."""
    n = int(
        draw.choice(
            [1, 2, 3, draw.integers(4, 30), draw.integers(30, LARGEST_TABLE + 1)], p=[0.05, 0.05, 0.1, 0.3, 0.5]
        )
    )
    label = values(dataset, n, draw, ["grid", "grid", "edges", "uniform", "constant", "one sign", "zeros"])
    kind = draw.choice(["near", "other"])
    if kind == "near":
        prediction = label + draw.normal(0, draw.choice([0.05, 0.3, 1.0]) * top(dataset), n)
    else:
        prediction = values(dataset, n, draw, ["edges", "edges", "uniform", "grid", "constant", "one sign", "zeros"])
    prediction[draw.random(n) < draw.choice([0, 0, 0.2])] = 0.0
    return prediction, label


def values(dataset: str, n: int, draw: np.random.Generator, kinds: list[str]) -> np.ndarray:
    """n scores of a kind drawn from `kinds`, at times kept as float32 or moved off a tie by the least step.

    The whole table is moved at once: two scores never differ by less than float32 can tell, which
    would make Corr a matter of precision.
    """
    limit = top(dataset)
    edges = EDGES[datasets.kind(dataset).rules]
    scores = {
        "grid": lambda: draw.choice(GRIDS[dataset], n),
        "edges": lambda: draw.choice(edges, n),
        "uniform": lambda: draw.uniform(-2.5 * limit, 2.5 * limit, n),
        "constant": lambda: np.full(n, draw.choice(edges)),
        "one sign": lambda: draw.choice([-1, 1]) * draw.uniform(0.01, limit, n),
        "zeros": lambda: np.zeros(n),
    }[str(draw.choice(kinds))]()
    moved = {
        "not": lambda: scores,
        "stored as float32": lambda: np.float32(scores).astype(float),
        "up": lambda: np.nextafter(np.float32(scores), np.float32(9)).astype(float),
        "down": lambda: np.nextafter(np.float32(scores), np.float32(-9)).astype(float),
        "up by less than float32 tells": lambda: scores * (1 + 1e-9),
        "down by less than float32 tells": lambda: scores * (1 - 1e-9),
    }
    return moved[str(draw.choice(list(moved)))]()


def top(dataset: str) -> float:
    """The end of the dataset's range."""
    return datasets.kind(dataset).score_range[1]


if __name__ == "__main__":
    main()
