"""Ten times the samples: what each further one takes, and the driver's memory; `--most 200000` has a hundred times.

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
    further = [
        [
            1000 * (more["wall"] - fewer["wall"]) / (to - since)
            for fewer, more in zip(found[since], found[to], strict=True)
        ]
        for since, to in pairwise(sizes)
    ]
    for (since, to), each in zip(pairwise(sizes), further, strict=True):
        yield Row("each further sample", f"{since:,} to {to:,}", Spread.of(each), "ms")
    most = sizes[-1]
    if len(further) > 1:
        yield Row(
            "each further sample, over those before", f"up to {most:,}", ratio(further[-1], further[0]), at_most=1.1
        )
    memory = ratio([run["coming"] for run in found[most]], [run["coming"] for run in found[FEWEST]])
    yield Row("the driver's memory while clips come", f"{most:,} over {FEWEST:,}", memory, at_most=1.1)
