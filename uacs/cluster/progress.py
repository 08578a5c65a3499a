"""How far a run is: counts of samples, as the ledger, the stages under way, the screen and status.json have them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

import numpy as np
import pyarrow as pa

from uacs.records import NOT_ASKED, STAGES


@dataclass(frozen=True)
class Counts:
    """Samples that got so far. `due` are those that the large model is to be asked about, of those answered so far."""

    small: int = 0
    due: int = 0
    asked: int = 0
    looked_twice: int = 0
    written: int = 0
    errors: int = 0
    degraded: int = 0
    by_small: int = 0
    by_large: int = 0
    by_average: int = 0
    by_verify: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    @property
    def settled(self) -> dict[str, int]:
        """How many each stage settled."""
        return {stage: getattr(self, f"by_{stage}") for stage in STAGES}


COUNTED = tuple(field.name for field in fields(Counts))
READ = ["stage", "status", "large_status", "verify_status"]
"""The columns that `of_table` reads."""


@dataclass(frozen=True)
class Progress:
    """A run under way: samples in all, what earlier sessions wrote, all so far, and this session's seconds."""

    total: int
    earlier: Counts
    counts: Counts
    seconds: float = 0.0


Told = Callable[[Progress], None]
"""Who wants to know, some times a second."""


def of_table(table: pa.Table) -> Counts:
    """What rows of the outcome table amount to."""
    column = {name: np.array(table[name].to_pylist(), object) for name in READ}
    asked = int((column["large_status"] != NOT_ASKED.status).sum())
    return Counts(
        small=table.num_rows,
        due=asked,
        asked=asked,
        looked_twice=int((column["verify_status"] != NOT_ASKED.status).sum()),
        written=table.num_rows,
        errors=int((column["status"] == "error").sum()),
        degraded=int((column["status"] == "degraded").sum()),
        **{f"by_{stage}": int((column["stage"] == stage).sum()) for stage in STAGES},
    )
