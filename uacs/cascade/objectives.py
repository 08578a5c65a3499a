"""What a search is after: accuracy against run time, as a front, or as one point of it.

Run time is the price of a sample relative to the large model's own (`Prices.alone`): 1 is the large model about
everyone. Qualities are metrics of `uacs.metrics`, of which MAE is better smaller.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from uacs.errors import BadInput, WrongUse

Kind = Literal["front", "weight", "budget", "floor"]


@dataclass(frozen=True)
class Objective:
    """Which point of a front is wanted.

    front    the cheapest that is as good as the large model alone, else the best there is; the search itself is
             after all of the front
    weight   quality minus `value` times run time
    budget   the best that takes no more run time than `value`
    floor    the cheapest whose quality is no worse than `value`
    """

    kind: Kind = "front"
    value: float | None = None
    metric: str = "acc2"

    def __post_init__(self):
        if (self.value is None) != (self.kind == "front"):
            raise WrongUse(f"objective {self.kind}: a value belongs to every one but front")
        if self.value is not None and not np.isfinite(self.value):
            raise WrongUse(f"objective {self.kind}: {self.value} is not a number to reckon with")
        if self.kind in ("weight", "budget") and (self.value or 0) < 0:
            raise WrongUse(f"objective {self.kind}: {self.value:g} is below 0")

    @property
    def sign(self) -> int:
        """1 where more of the metric is better, -1 for MAE."""
        return -1 if self.metric == "mae" else 1

    def gain(self, quality):
        """The metric the way round that more is better."""
        return self.sign * np.asarray(quality, float)

    def utility(self, quality, time, large: float) -> np.ndarray:
        """One number to be made large, for metric and run time of one shape; `large` is the large model's metric.

        A point that misses a budget or a floor is worth less than any that meets it, and the less the farther
        off it is. NaN where the metric is.
        """
        gain, time = self.gain(quality), np.asarray(time, float)
        if self.kind == "weight":
            return gain - float(self.value or 0) * time
        if self.kind == "budget":
            over = np.maximum(time - float(self.value or 0), 0)
            return np.where(over > 0, -_FAR - over, gain) + 0 * gain  # NaN stays NaN
        short = np.maximum(self._floor(large) - gain, 0)
        return np.where(short > _TIE, -_FAR - short, -time) + 0 * gain

    def choose(self, quality: np.ndarray, time: np.ndarray, large: float) -> int:
        """The position of the wanted point among (P,); of equals the cheapest, then the first.

        Raises `BadInput` where no point is within the budget, or reaches the floor.
        """
        worth = self.utility(quality, time, large)
        if not np.isfinite(worth).any():
            raise BadInput(f"{self.metric} is undefined at every point, so there is nothing to choose by")
        gain = self.gain(quality)
        best = float(np.nanmax(worth))
        if best <= -_FAR / 2:
            if self.kind == "front":
                best_gain = np.nanmax(gain)
                return _first(gain >= best_gain - _TIE, time, gain)
            raise BadInput(self._unreachable(quality, time))
        return _first(worth >= best - _TIE, time, gain)

    def _floor(self, large: float) -> float:
        return float(self.gain(large if self.kind == "front" else self.value))

    def _unreachable(self, quality: np.ndarray, time: np.ndarray) -> str:
        if self.kind == "budget":
            return (
                f"a budget of {self.value:.4g} of the large model's run time cannot be met: the small model alone "
                f"takes {np.nanmin(time):.4g}; raise it"
            )
        best = self.sign * np.nanmax(self.gain(quality))
        return (
            f"a floor of {self.metric} {self.value:.4g} cannot be reached: the best there is has {best:.4g}; lower it"
        )

    def text(self) -> str:
        """In words."""
        if self.kind == "front":
            return f"the cheapest with the large model's {self.metric}, else the best {self.metric}"
        if self.kind == "weight":
            return f"{self.metric} {'plus' if self.sign < 0 else 'minus'} {self.value:g} x run time"
        if self.kind == "budget":
            share = 100 * float(self.value or 0)
            return f"the best {self.metric} at no more than {share:.3g} % of the large model's run time"
        return f"the cheapest with {self.metric} of {self.value:g} or better"


_FAR, _TIE = 1e6, 1e-12


def _first(among: np.ndarray, time: np.ndarray, gain: np.ndarray) -> int:
    """The cheapest of a mask's points, then the best, then the first."""
    positions = np.flatnonzero(among)
    return int(positions[np.lexsort((-gain[positions], time[positions]))[0]])


def front(gain: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Positions, by rising run time, of the points (P,) that no other one betters: more gain for less time.

    >>> front(np.array([0.8, 0.7, 0.9, 0.9]), np.array([0.2, 0.3, 0.5, 0.6]))
    array([0, 2])
    """
    order = np.lexsort((-gain, time))
    order = order[np.isfinite(gain[order]) & np.isfinite(time[order])]
    best = np.maximum.accumulate(gain[order]) if len(order) else gain[order]
    return order[np.r_[True, best[1:] > best[:-1]]] if len(order) else order


def hypervolume(gain: np.ndarray, time: np.ndarray, worst_gain: float, worst_time: float) -> float:
    """The area that points (P,) dominate, as far as a reference point: what a front is worth as a whole.

    >>> hypervolume(np.array([0.8, 0.9]), np.array([0.2, 0.5]), 0.7, 1.0)  # 0.1 x 0.8 + 0.1 x 0.5
    0.13
    """
    inside = (gain > worst_gain) & (time < worst_time)
    gain, time = gain[inside], time[inside]
    along = front(gain, time)
    ends = np.append(time[along][1:], worst_time)
    return float(np.sum((ends - time[along]) * (gain[along] - worst_gain)).round(15))
