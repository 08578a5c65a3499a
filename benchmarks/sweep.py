"""A 200 x 200 grid of thresholds over 22,856 samples (MOSEI's), all metrics: the sweep against a NumPy loop.

    python -m benchmarks.sweep

The loop is what one would write with care: the shares of `uacs.metrics` are computed once for each of a sample's
three fates, and a grid point is three matrix-vector products with the masks of who meets which. It goes through
every 40th point; its time for all is that times 40. Both run on one thread, alternately; prints medians of rounds,
the ratio, and the largest difference between the two. JSON last.
"""

import argparse
import json
import statistics
import time

import numpy as np
from threadpoolctl import threadpool_limits

from uacs import metrics
from uacs.cascade import routing
from uacs.cascade.prices import Prices
from uacs.cascade.recording import Recording
from uacs.cascade.replay import Answers
from uacs.cascade.sweep import Sweep, sweep

SAMPLES, GRID, EVERY = 22_856, 200, 40
PRICES = Prices(0.001, 0.5, 0.6)


def recording(seed: int = 0) -> Recording:
    """Answers and labels like MOSEI's: thirds in [-3, 3], a good fifth of them 0."""
    draw = np.random.default_rng(seed)
    label = (draw.normal(0.2, 1.1, SAMPLES).clip(-3, 3) * 3).round() / 3
    small, large, verify = ((label + draw.normal(0, sd, SAMPLES)).clip(-3, 3) for sd in (0.9, 0.6, 0.6))
    u_small, u_large = draw.beta(1, 1.5, SAMPLES) * np.log(3), draw.gamma(2, 0.3, SAMPLES)
    answers = Answers(small, u_small, large, u_large, verify)
    return Recording("mosei", answers, label, np.full((SAMPLES, 3), 1 / 3), np.ones(SAMPLES, bool))


def loop(made: Recording, tau_small: np.ndarray, tau_large: np.ndarray, points: np.ndarray) -> list[dict]:
    """The metrics of some of a grid's points, one after the other."""
    answers, n = made.answers, len(made.label)
    predictions = [
        routing.settle(np.full(n, asked), **vars(answers), tau_large=tau).prediction
        for asked, tau in ((False, np.inf), (True, np.inf), (True, -np.inf))
    ]
    centre = made.label.mean()
    shares = [metrics.shares(prediction, made.label, "mosei", centre) for prediction in predictions]
    added = [name for name in shares[0] if name not in metrics.EXTREMES]
    small, large, fused = (np.stack([of[name].astype(float) for name in added]) for of in shares)
    found = []
    for point in points:
        row, column = divmod(int(point), len(tau_large))
        kept = answers.u_small <= tau_small[row]
        sure = ~kept & (answers.u_large <= tau_large[column])
        unsure = ~(kept | sure)
        sums = dict(zip(added, small @ kept + large @ sure + fused @ unsure, strict=True))
        masks = ((kept, 0), (sure, 1), (unsure, 2))
        for name, of in metrics.EXTREMES.items():
            values = [of.reduce(shares[fate][name][mask]) for mask, fate in masks if mask.any()]
            sums[name] = of.reduce(values)
        found.append(metrics.of_sums(sums, metrics.names("mosei")))
    return found


def largest_difference(grid: Sweep, found: list[dict], points: np.ndarray) -> float:
    """Between the loop's metrics and the grid's at the same points."""
    return max(
        float(np.max(np.abs(values.ravel()[points] - np.array([scores[name] for scores in found]))))
        for name, values in grid.metrics.items()
    )


def timed(work) -> tuple[float, object]:
    """Seconds, and what came of it."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    made = recording()
    tau_small, tau_large = np.linspace(0, 1.1, GRID), np.linspace(0, 2.5, GRID)
    points = np.arange(0, GRID * GRID, EVERY)
    swept, looped, apart = [], [], 0.0
    with threadpool_limits(1):
        for _ in range(rounds):
            seconds, grid = timed(lambda: sweep(made, tau_small, tau_large, PRICES))
            swept.append(seconds)
            seconds, found = timed(lambda: loop(made, tau_small, tau_large, points))
            looped.append(seconds * EVERY)
            apart = max(apart, largest_difference(grid, found, points))
    ours, theirs = statistics.median(swept), statistics.median(looped)
    print(f"sweep        {ours:8.3f} s   {GRID * GRID:,} points, {SAMPLES:,} samples, {len(grid.metrics)} metrics")
    print(f"NumPy loop   {theirs:8.1f} s   ({len(points):,} points measured, times {EVERY})")
    print(f"ratio        {theirs / ours:8.0f}     largest difference {apart:.1e}")
    print(json.dumps({"sweep_s": ours, "loop_s": theirs, "ratio": theirs / ours, "difference": apart}))


if __name__ == "__main__":
    main()
