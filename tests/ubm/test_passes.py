"""Which rows are read together: each once, and no other way of grouping them by length costs less."""

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from uacs.ubm.passes import Passes

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=9).map(np.array)


def cost(groups, lengths, passes):
    """Of groups that are cut where they have more steps than a pass may have."""
    total = 0
    for rows in groups:
        longest = lengths[rows].max()
        total += len(rows) * longest + passes.price * -(-len(rows) // max(1, passes.most // longest))
    return total


@given(LENGTHS, st.builds(Passes, st.integers(0, 50), st.integers(1, 100)))
def test_every_row_is_in_one_pass_and_no_cuts_between_lengths_cost_less(lengths, passes):
    found = passes.of(lengths)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    assert all(len(rows) == 1 or len(rows) * lengths[rows].max() <= passes.most for rows in found)
    order = np.argsort(lengths, kind="stable")
    between = [k for k in range(1, len(lengths)) if lengths[order[k]] != lengths[order[k - 1]]]
    every_way = [np.split(order, cuts) for n in range(len(between) + 1) for cuts in combinations(between, n)]
    assert cost(found, lengths, passes) == min(cost(way, lengths, passes) for way in every_way)


def test_a_pass_takes_no_more_steps_than_it_may_unless_a_row_alone_has_more():
    passes = Passes(price=10**6, most=1000)
    assert {len(rows) for rows in passes.of(np.full(100, 33))} == {30, 10}
    assert [rows.tolist() for rows in passes.of(np.array([1001, 1001]))] == [[0], [1]]
