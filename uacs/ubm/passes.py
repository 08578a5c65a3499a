"""Which rows of a batch a text encoder reads together, so that little of what it reads is padding."""

import numpy as np

MOST = 4096
"""Tokens, padding among them, that one pass takes at most; one row may have more."""
PRICE = {"cpu": 64, "cuda": 2048}
"""What a pass costs beside its tokens, in tokens, by the kind of device. The first lies between a tiny BERT's and
bert-base's as measured (`benchmarks.speed`, part small); the second is a reckoning from bert-base's launches."""


def passes(lengths: np.ndarray, price: int) -> list[np.ndarray]:
    """Rows by their places, those of like length together; together the passes cost the least that they can.

    lengths (R,) in tokens. A pass costs its rows times its longest row, and `price` besides; each row is in one.

    >>> [rows.tolist() for rows in passes(np.array([9, 2, 8, 2]), price=5)]
    [[1, 3], [2, 0]]
    """
    order = np.argsort(lengths, kind="stable")
    longest, first = np.unique(lengths[order], return_index=True)
    ends = np.append(first[1:], len(lengths))
    cheapest, cuts = np.zeros(len(ends) + 1), []
    for k, (length, end) in enumerate(zip(longest, ends, strict=True)):
        costs = cheapest[: k + 1] + (end - first[: k + 1]) * length + price
        cuts.append(int(np.argmin(costs)))
        cheapest[k + 1] = costs[cuts[k]]
    found, k = [], len(ends)
    while k:
        start = cuts[k - 1]
        rows = max(1, MOST // int(longest[k - 1]))
        found += [order[at : min(at + rows, ends[k - 1])] for at in range(first[start], ends[k - 1], rows)]
        k = start
    return found
