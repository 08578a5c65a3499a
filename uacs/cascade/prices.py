"""What a sample costs in each stage: as measured, or as a user pays for it."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from uacs.cascade.outcomes import column
from uacs.errors import WrongUse

CALLS, SECONDS, OWN = "large calls", "model seconds", "price"
STAGES = ("small", "large", "verify")


@dataclass(frozen=True)
class Prices:
    """Of one sample in stage 1, 2 and 3, and the unit: everyone pays `small`, who is asked pays the others too."""

    small: float
    large: float
    verify: float
    unit: str = OWN

    def of(self, asked, second):
        """The price of a sample where these shares of the samples are asked, and asked twice."""
        return self.small + asked * self.large + second * self.verify

    @property
    def alone(self) -> float:
        """What the large model costs alone: run time is told relative to this."""
        return self.large


def prices(table: pa.Table, given: dict[str, float] | None = None) -> Prices:
    """The stages' mean seconds in an outcome table, or a user's own price of each.

    Answers that carry no time (recorded elsewhere, say) are counted instead: 1 for a look of the large model, 0
    for the small one. Raises `WrongUse` for a price that is negative or no stage's, where one is missing beside
    others, and for a free large model.
    """
    given = given or {}
    if wrong := [name for name in given if name not in STAGES]:
        raise WrongUse(f"--price {wrong[0]}: no stage of that name; there is {', '.join(STAGES)}")
    if wrong := [name for name, price in given.items() if not (np.isfinite(price) and price >= 0)]:
        raise WrongUse(f"--price {wrong[0]}={given[wrong[0]]:g}: a price is 0 or more")
    if missing := [name for name in STAGES if given and name not in given]:
        raise WrongUse(f"--price must name {', '.join(missing)} as well: prices and measured seconds do not mix")
    found = (
        Prices(given["small"], given["large"], given["verify"])
        if given
        else _measured(table) or Prices(0.0, 1.0, 1.0, CALLS)
    )
    if not found.large > 0:
        raise WrongUse(
            f"the large model costs {found.large:g} a sample, so there is nothing to save; give a --price of large"
        )
    return found


def _measured(table: pa.Table) -> Prices | None:
    """Mean seconds of those that a stage answered; None unless both models were timed."""
    means = []
    for stage in STAGES:
        seconds = column(table, f"seconds_{stage}")
        timed = seconds[np.isfinite(seconds)]
        means.append(float(timed.mean()) if len(timed) else None)
    small, large, verify = means
    if small is None or not large:
        return None
    return Prices(small, large, large if verify is None else verify, SECONDS)
