"""Ten times the samples: time a sample beyond start-up, and the driver's memory; `--most 200000` has a hundred times.

Text and short features, a tiny UBM, recorded answers of the large model, which cost nothing: what is left is Ray. The
runs are `benchmarks.scale`'s, on an object store of 256 MiB; each size is ten times the last, up to `--most`.
"""

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from benchmarks import scale
from benchmarks.speed.sides import Row, Spread, ratio

FEWEST = 2_000


def measure(out: Path, rounds: int, most: int) -> Iterator[Row]:
    """The rows of part growth."""
    sizes = [FEWEST]
    while sizes[-1] * 10 <= most:
        sizes.append(sizes[-1] * 10)
    for samples in sizes:
        scale.material(out / "growth", samples, "recorded")
    found: dict[int, list[dict[str, float]]] = {samples: [] for samples in sizes}
    for _ in range(rounds):
        for samples in sizes:
            found[samples].append(scale.one(out / "growth", "recorded", samples, "2", time.time_ns()))
    for samples, runs in found.items():
        of = f"{samples:,} samples"
        yield Row("the driver's memory while clips come", of, Spread.of([run["coming"] for run in runs]), "MiB", 0)
        yield Row("its peak, with the report at the end", of, Spread.of([run["mib"] for run in runs]), "MiB", 0)
        yield Row("whole run", of, Spread.of([run["wall"] for run in runs]), "s", 0)
        if samples > FEWEST:  # whose few parts are all under way at once
            yield Row("a sample beyond start-up", of, Spread.of([run["ms"] for run in runs]), "ms")
    for fewer, more in pairwise(sizes[1:]):
        each = ratio([run["ms"] for run in found[more]], [run["ms"] for run in found[fewer]])
        yield Row("a sample beyond start-up", f"{more:,} over {fewer:,}", each, at_most=1.1)
    most = sizes[-1]
    memory = ratio([run["coming"] for run in found[most]], [run["coming"] for run in found[FEWEST]])
    yield Row("the driver's memory while clips come", f"{most:,} over {FEWEST:,}", memory, at_most=1.1)
