"""Ten times the samples: time a sample beyond start-up, and the driver's memory; `--most 200000` has a hundred times.

Text and short features, a tiny UBM, recorded answers of the large model, which cost nothing: what is left is Ray. The
runs are `benchmarks.scale`'s, on an object store of 256 MiB; each size is ten times the last, up to `--most`.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import scale
from benchmarks.speed.sides import Row, Spread

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
        yield Row("a sample beyond start-up", of, Spread.of([run["ms"] for run in runs]), "ms")
        yield Row("the driver's memory while clips come", of, Spread.of([run["coming"] for run in runs]), "MiB", 0)
        yield Row("its peak, with the report at the end", of, Spread.of([run["mib"] for run in runs]), "MiB", 0)
        yield Row("whole run", of, Spread.of([run["wall"] for run in runs]), "s", 0)
    for samples in sizes[1:]:
        of = f"{samples:,} over {FEWEST:,}"
        pairs = list(zip(found[samples], found[FEWEST], strict=True))
        yield Row("time a sample", of, Spread.of([a["ms"] / b["ms"] for a, b in pairs]), at_most=1.1)
        memory = Spread.of([a["coming"] / b["coming"] for a, b in pairs])
        yield Row("the driver's memory while clips come", of, memory, at_most=1.1)
