"""Things measured side by side: in turns, so that a machine that slows down slows all of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Seconds = dict[str, list[float]]
"""Of each thing, in each round."""


@dataclass(frozen=True)
class Spread:
    """A figure over rounds: the middle one, the least and the greatest."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """
        >>> Spread.of([3, 1, 2])
        Spread(median=2, least=1, most=3)
        """
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """A figure with what it is of, its unit, how many digits say something, and what was wanted of it, if anything.

    of is the case: a size, a model, a load. at_least and at_most bound the median.
    """

    what: str
    of: str
    figure: Spread
    unit: str = "x"
    digits: int = 2
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether it is as wanted; None where nothing was."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.figure.median >= self.at_least) and (
            self.at_most is None or self.figure.median <= self.at_most
        )

    @property
    def wanted(self) -> str:
        """The bound in words."""
        bounds = (("≥", self.at_least), ("≤", self.at_most))
        return " and ".join(f"{sign} {bound:g} {self.unit}" for sign, bound in bounds if bound is not None)


def in_turns(works: Mapping[str, Callable[[], object]], rounds: int) -> Seconds:
    """Seconds of each work in each of some rounds, every other one backwards; one more round before warms up."""
    taken: Seconds = {name: [] for name in works}
    for turn in range(rounds + 1):
        names = list(works)
        for name in names if turn % 2 else reversed(names):
            started = time.perf_counter()
            works[name]()
            taken[name].append(time.perf_counter() - started)
    return {name: seconds[1:] for name, seconds in taken.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """One thing over another, round by round."""
    return Spread.of([one / other for one, other in zip(above, below, strict=True)])
