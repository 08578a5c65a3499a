"""Which rows a model reads together: those of a length, as many as its memory takes.

A batch costs what its longest row costs times its rows, and something for being one at all. What is cut here is
counted in positions, padding among them, so it is the same on every device.
"""

from collections.abc import Sequence

from transformers import PreTrainedConfig

BATCH_PRICE = 128
"""Positions that one more batch costs: reading the weights anew takes an H100 the time of about 150 positions of a
7B model, and a CPU core that of a few dozen."""

STATES, GATES = 16, 4  # of a layer's width and of its MLP's, alive at once while a position is read


def cut(lengths: Sequence[int], most_rows: int, most_positions: int) -> list[list[int]]:
    """The cheapest batches of rows of some lengths, as their places, shortest first.

    No batch has more than `most_rows`, nor more positions, its padding included, than `most_positions`, unless it is a
    single row.

    >>> cut([900, 40, 50, 880], 8, 100_000)
    [[1, 2], [3, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda k: lengths[k])
    price, begins = [0.0], [0]  # of the first rows, and where the last batch of them begins
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        fitting = max(1, min(most_rows, most_positions // max(longest, 1)))
        options = ((price[k] + (end - k) * longest + BATCH_PRICE, k) for k in range(max(0, end - fitting), end))
        best, begin = min(options)
        price.append(best)
        begins.append(begin)
    batches, end = [], len(order)
    while end:
        batches.append(order[begins[end] : end])
        end = begins[end]
    return batches[::-1]


def position_bytes(text: PreTrainedConfig, item: int) -> tuple[int, int]:
    """Bytes that one position takes of a decoder with numbers of `item` bytes: held as keys and values, and while it
    is being read."""
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    held = 2 * text.num_hidden_layers * text.num_key_value_heads * width * item
    return held, (STATES * text.hidden_size + GATES * text.intermediate_size) * item
