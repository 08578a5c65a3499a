import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen2Config

from uacs.mllm.batches import BATCH_PRICE, cut, position_bytes

LENGTHS = st.lists(st.integers(1, 5000), max_size=60)


def price(batches, lengths):
    return sum(len(batch) * max(lengths[k] for k in batch) + BATCH_PRICE for batch in batches)


@given(LENGTHS, st.integers(1, 20), st.integers(1, 40_000))
def test_every_row_is_in_one_batch_and_no_batch_is_larger_than_its_bounds(lengths, rows, positions):
    batches = cut(lengths, rows, positions)
    assert sorted(k for batch in batches for k in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= rows
        assert len(batch) == 1 or len(batch) * max(lengths[k] for k in batch) <= positions


@given(LENGTHS, st.integers(1, 20), st.integers(1, 40_000))
def test_no_way_to_cut_the_sorted_rows_at_a_fixed_number_is_cheaper(lengths, rows, positions):
    ours = price(cut(lengths, rows, positions), lengths)
    order = sorted(range(len(lengths)), key=lambda k: lengths[k])
    for size in range(1, rows + 1):
        batches = [order[k : k + size] for k in range(0, len(order), size)]
        if all(len(b) == 1 or len(b) * max(lengths[k] for k in b) <= positions for b in batches):
            assert ours <= price(batches, lengths)


def test_padding_is_paid_for():
    # by hand: 4 x 50 + 128 and 4 x 2000 + 128 are less than 8 x 2000 + 128
    assert cut([2000, 50, 50, 2000, 50, 2000, 50, 2000], 16, 10**6) == [[1, 2, 4, 6], [0, 3, 5, 7]]
    # and a batch more is not worth it where little is padded: 4 x 60 + 128 is less than 2 x 50 + 2 x 60 + 2 x 128
    assert cut([50, 60, 50, 60], 16, 10**6) == [[0, 2, 1, 3]]


def test_the_longest_row_goes_alone_where_it_takes_all_there_is():
    assert cut([100, 5000, 100], 8, 1000) == [[0, 2], [1]]


def test_a_position_of_the_published_decoder_is_56_kib():
    qwen2_7b = Qwen2Config(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4
    )
    held, read = position_bytes(qwen2_7b, item=2)
    assert held == 56 * 1024  # 2 x 28 layers x 4 heads x 128 x 2 bytes
    assert read == (16 * 3584 + 4 * 18944) * 2


MEASURED = """
import re, sys
from pathlib import Path
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from uacs.mllm.batches import position_bytes
from uacs.mllm.context import Context

def resident(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

rows, length, padding = map(int, sys.argv[1:])
config = Qwen2Config(
    vocab_size=500, hidden_size=512, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=8,
    num_key_value_heads=2,
)
torch.set_num_threads(1)
model = Qwen2ForCausalLM(config).eval()
mask = torch.ones(rows, length, dtype=torch.long)
mask[0, :padding] = 0
embeds = torch.randn(rows, length, 512)
inputs = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = resident("VmRSS")
with torch.inference_mode():
    Context(model.model, model.lm_head, inputs)
print((resident("VmHWM") - before) / (rows * length * sum(position_bytes(config, 4))))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")
def test_reading_takes_no_more_memory_than_was_reckoned_with():
    rows, length, padding = 3, 1500, 5
    words = [sys.executable, "-c", MEASURED, str(rows), str(length), str(padding)]
    share = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert 0.3 < share < 1.05
