"""Every pair of thresholds at once: Algorithm 1 over a recording for a whole grid, all metrics and the price.

A sample has one of three fates: its small answer stands (u_small <= tau_small), its large one does
(u_large <= tau_large), or both are unsure and the answer is fused. Which it is at a grid point depends only
on how many thresholds of either axis lie below its two uncertainties. So what the samples add to a metric's
sums (`metrics.shares`) is counted into the cells of the grid, and cumulated over both axes: the work is
N + A x B a share rather than N x A x B. docs/tuning.md has what that is worth.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from uacs import metrics
from uacs.cascade import routing
from uacs.cascade.prices import Prices
from uacs.cascade.recording import Recording

MOST_VALUES = 2000  # thresholds of an axis
BEYOND = 0.05  # of the range of u: how far the outermost thresholds lie outside it


@dataclass(frozen=True)
class Sweep:
    """A grid of thresholds (A,) x (B,), and at each point metrics, shares of samples and the price, (A, B).

    asked and second are the shares of all samples that went to the large model, and that it looked at twice;
    cost is the price of a sample, in the unit of the prices.
    """

    tau_small: np.ndarray
    tau_large: np.ndarray
    metrics: dict[str, np.ndarray]
    asked: np.ndarray
    second: np.ndarray
    cost: np.ndarray


def sweep(
    recording: Recording,
    tau_small: np.ndarray,
    tau_large: np.ndarray,
    prices: Prices,
    names: Iterable[str] | None = None,
    doubt: np.ndarray | None = None,
) -> Sweep:
    """Replay every pair of thresholds, tau_small (A,) and tau_large (B,), both rising.

    names are the metrics wanted, by default all that the dataset has. doubt (N,) is what tau_small is held
    against where that is not u_small (`cascade/deferral.py`). Only samples with a label and a small answer are
    scored; all are paid for.
    """
    names = tuple(names or metrics.names(recording.dataset))
    answers = recording.answers
    fates = [
        routing.settle(np.full(len(recording.label), asked), **vars(answers), tau_large=tau)
        for asked, tau in ((False, np.inf), (True, np.inf), (True, -np.inf))
    ]
    cells = _Cells.of(answers.u_small if doubt is None else doubt, answers.u_large, tau_small, tau_large)

    known = recording.known
    label = recording.label[known]
    centre = float(label.mean())
    scored = [metrics.shares(fate.prediction[known], label, recording.dataset, centre) for fate in fates]
    here = cells.subset(known)
    sums = {name: here.combine(name, *(shares[name] for shares in scored)) for name in metrics.needed(names)}

    answered = fates[0].stage != routing.FAILED
    nobody = np.zeros(len(answered))
    asked = cells.combine("asked", nobody, answered, answered) / len(answered)
    verify = (fates[2].stage == routing.VERIFY) & recording.twice
    second = cells.combine("second", nobody, nobody, verify) / len(answered)
    shape = (len(tau_small), len(tau_large))
    found = {name: np.broadcast_to(values, shape) for name, values in metrics.of_sums(sums, names).items()}
    asked, second = np.broadcast_to(asked, shape), np.broadcast_to(second, shape)
    return Sweep(tau_small, tau_large, found, asked, second, prices.of(asked, second))


def axis(u: np.ndarray, most: int = MOST_VALUES) -> np.ndarray:
    """Thresholds that part the values of u (N,) in every way: below all, between any two, above all.

    They lie midway between values, so that what is a little more or less unsure elsewhere falls on the same side.
    Where that would be more than `most`, they are the quantiles of u at equal steps.

    >>> axis(np.array([1.0, 3.0, 1.0]))
    array([0.9, 2. , 3.1])
    """
    values = np.unique(u[np.isfinite(u)])
    beyond = BEYOND * (values[-1] - values[0]) or BEYOND
    between = values[:-1] + (values[1:] - values[:-1]) / 2
    between = np.where(between < values[1:], between, values[:-1])  # of neighbouring floats the mean may be the upper
    if len(between) + 2 > most:
        between = np.unique(np.quantile(u[np.isfinite(u)], np.linspace(0, 1, most)[1:-1], method="inverted_cdf"))
        between = between[between < values[-1]]
    below = min(values[0] - beyond, np.nextafter(values[0], -np.inf))
    return np.concatenate([[below], between, [values[-1] + beyond]])


@dataclass(frozen=True)
class _Cells:
    """Where on a grid of (A, B) thresholds each sample changes its fate.

    row (N,) is how many of the A thresholds escalate it, the first ones; column (N,) how many of the B find the
    large model unsure about it.
    """

    row: np.ndarray
    column: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def of(cls, doubt: np.ndarray, u_large: np.ndarray, tau_small: np.ndarray, tau_large: np.ndarray) -> "_Cells":
        """A tie is accepted (Eq. 13, 14): a threshold escalates what is greater than it."""
        row = np.searchsorted(tau_small, doubt, side="left")
        column = np.searchsorted(tau_large, u_large, side="left")
        return cls(row, column, (len(tau_small), len(tau_large)))

    def subset(self, mask: np.ndarray) -> "_Cells":
        """Of some of the samples."""
        return _Cells(self.row[mask], self.column[mask], self.shape)

    def combine(self, name: str, small: np.ndarray, large: np.ndarray, fused: np.ndarray) -> np.ndarray:
        """A share summed up at every grid point, each sample adding what its fate there gives: (A, B) or less.

        small, large and fused (N,) are what it adds if its small answer stands, its large one, or a fused one.
        """
        if name in metrics.EXTREMES:
            return self._extreme(name, small, large, fused)
        small, large, fused = (np.asarray(values, float) for values in (small, large, fused))
        if np.array_equal(small, large) and np.array_equal(large, fused):
            return np.asarray(metrics.total(name, small))
        rows = self.shape[0]
        stands = np.bincount(self.row, small, rows + 1).cumsum()[:rows]
        asked = np.bincount(self.row, fused, rows + 1)[::-1].cumsum()[::-1][1:]
        by_row = (stands + asked)[:, None]
        if np.array_equal(large, fused):
            return by_row
        moved = self._histogram(np.add, large - fused, 0.0)  # from fused to large, where the large one is sure
        np.cumsum(moved, axis=1, out=moved)
        np.cumsum(moved[::-1], axis=0, out=moved[::-1])
        return moved[1:, :-1] + by_row

    def _extreme(self, name: str, small: np.ndarray, large: np.ndarray, fused: np.ndarray) -> np.ndarray:
        """The least or greatest over the samples of a grid point's three fates."""
        of, nothing = metrics.EXTREMES[name], metrics.nothing(name)
        rows = self.shape[0]
        stands = np.full(rows + 1, nothing)
        of.at(stands, self.row, small)
        sure, unsure = self._histogram(of, large, nothing), self._histogram(of, fused, nothing)
        of.accumulate(sure, axis=1, out=sure)
        of.accumulate(unsure[:, ::-1], axis=1, out=unsure[:, ::-1])
        for grid in (sure, unsure):
            of.accumulate(grid[::-1], axis=0, out=grid[::-1])
        return of(of(sure[1:, :-1], unsure[1:, 1:]), of.accumulate(stands)[:rows, None])

    def _histogram(self, of: np.ufunc, values: np.ndarray, nothing: float) -> np.ndarray:
        """Values gathered into the cells in which their samples change fate, (A + 1, B + 1)."""
        rows, columns = (size + 1 for size in self.shape)
        cell = self.row * columns + self.column
        if of is np.add:
            return np.bincount(cell, values, rows * columns).reshape(rows, columns)
        grid = np.full(rows * columns, nothing)
        of.at(grid, cell, values)
        return grid.reshape(rows, columns)
