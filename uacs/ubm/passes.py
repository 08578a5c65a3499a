"""Which rows of a batch an encoder reads together, so that little of what it reads is padding."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Passes:
    """What a pass costs beside its steps, in steps, and how many it may have, padding among them."""

    price: int
    most: int

    def of(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Rows by their places, those of like length together, shortest first; cut where it costs the least.

        lengths (R,) in steps. A pass costs its rows times its longest row, and `price` besides; each row is in one, and
        one that has more steps than a pass may have is alone.

        >>> [rows.tolist() for rows in Passes(price=5, most=100).of(np.array([9, 2, 8, 2]))]
        [[1, 3], [2, 0]]
        """
        order = np.argsort(lengths, kind="stable")
        longest, first = np.unique(lengths[order], return_index=True)
        ends = np.append(first[1:], len(lengths))
        rows_of = np.maximum(1, self.most // longest)
        cheapest, cuts = np.zeros(len(ends) + 1), []
        for k, (length, end) in enumerate(zip(longest, ends, strict=True)):
            rows = end - first[: k + 1]
            costs = cheapest[: k + 1] + rows * length + self.price * np.ceil(rows / rows_of[k])
            cuts.append(int(np.argmin(costs)))
            cheapest[k + 1] = costs[cuts[k]]
        found: list[np.ndarray] = []
        k = len(ends)
        while k:
            start, rows = first[cuts[k - 1]], rows_of[k - 1]
            group = [order[at : min(at + rows, ends[k - 1])] for at in range(start, ends[k - 1], rows)]
            found, k = group + found, cuts[k - 1]
        return found
