"""What HTTP and Ray cost a request that the UBM settles: against calling it, and against a plain service.

The measurement is `benchmarks.serving.overhead`'s; `benchmarks.serving.load` and `scaling` have what load does.
"""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.serving.overhead import MANY, measured
from benchmarks.speed.sides import Row, Spread, ratio

SECONDS = 5.0  # of each load in each round


def measure(out: Path, rounds: int, demo: Path) -> Iterator[Row]:
    """The rows of part service."""
    called, plain, *ours = measured(demo, rounds, SECONDS).items()
    for name, found in ours:
        added = [one[0] - alone[0] for one, alone in zip(found, called[1], strict=True)]
        yield Row("added to a call, one client, in the middle", name, Spread.of(added), "ms", 1)
        yield Row(
            f"requests a second over plain FastAPI's, {MANY} clients",
            name,
            ratio([one[4] for one in found], [one[4] for one in plain[1]]),
        )
        yield Row("requests a second", name, Spread.of([one[4] for one in found]), "/s", 0)
