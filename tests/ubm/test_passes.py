"""Which rows are read together: each once, and no other way of grouping them by length costs less."""

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from uacs.ubm.passes import MOST, passes

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=9).map(np.array)


def cost(groups, lengths, price):
    return sum(len(rows) * lengths[rows].max() + price for rows in groups)


@given(LENGTHS, st.integers(0, 50))
def test_every_row_is_in_one_pass_and_no_cuts_of_the_sorted_rows_cost_less(lengths, price):
    found = passes(lengths, price)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    order = np.argsort(lengths, kind="stable")
    every_way = [np.split(order, cuts) for n in range(len(lengths)) for cuts in combinations(range(1, len(lengths)), n)]
    assert cost(found, lengths, price) == min(cost(way, lengths, price) for way in every_way)


def test_a_pass_takes_no_more_tokens_than_it_may_unless_a_row_alone_has_more():
    lengths = np.full(100, MOST // 30)
    assert {len(rows) for rows in passes(lengths, 10**6)} == {30, 10}
    assert [rows.tolist() for rows in passes(np.array([MOST + 1, MOST + 1]), 10**6)] == [[0], [1]]
