"""Stages 2 and 3 of the large model: counted multiplications over what the machine's own matrix product does.

The decoder is a Qwen2 of random weights; what is measured and what is counted are `benchmarks.readout.speed`'s. The
matrix rate is that of torch.mm on the decoder's own shapes, measured in the same rounds.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.readout import speed
from benchmarks.speed.sides import Row, Spread
from uacs.mllm.readouts import OverTrie

SIZES = {"cpu": (768, 12), "cuda": (3584, 28)}  # width, layers: a GPU gets Qwen2-7B's
CASES = [(1000, 1), (1000, 2)]  # tokens, rows
PRODUCTS = 20  # in a round
GIGA = 1e9


def measure(out: Path, rounds: int, device: str) -> Iterator[Row]:
    """The rows of part large."""
    width, layers = SIZES[device]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = speed.decoder(width, layers).to(device, dtype).eval()
    count = sum(weight.numel() for weight in model.parameters()) / 1e6
    for tokens, rows in CASES:
        yield from of_case(model, tokens, rows, rounds, f"{count:,.0f} M, {tokens:,} tokens, batch {rows}")


@torch.inference_mode()
def of_case(model, tokens: int, rows: int, rounds: int, of: str) -> Iterator[Row]:
    """Shares of the matrix rate, of both stages, and the rate."""
    first, second = speed.prompts(tokens, rows)
    trie = OverTrie(speed.answer_ids, {speed.END}, speed.RANGE, model.device)
    nodes, suffix = len(trie.trie), len(second[0]) - (tokens - speed.TAIL)
    counted = {
        "2": speed.flops(model, tokens, 0) + speed.flops(model, nodes, tokens, every=True),
        "3": speed.flops(model, suffix, tokens - speed.TAIL) + speed.flops(model, nodes, len(second[0]), every=True),
    }
    rates: dict[str, list[float]] = {"matrix": [], "2": [], "3": []}
    for _ in range(rounds + 1):  # the first warms up
        rates["matrix"].append(product_rate(model, tokens * rows))
        took = speed.by_read_out(model, "trie", trie, first, second)
        for stage in "23":
            rates[stage].append(rows * counted[stage] / took[f"{stage} trie"])
    best = max(rates.pop("matrix")[1:])
    for stage, of_rounds in rates.items():
        yield Row(
            f"stage {stage}: counted multiplications over the matrix rate",
            of,
            Spread.of([r / best for r in of_rounds[1:]]),
        )
    yield Row("matrix rate", of, Spread.of([2 * best / GIGA]), "GFLOP/s", 0)


def product_rate(model, tokens: int) -> float:
    """Multiplications a second of so many rows by the decoder's own feed-forward weight."""
    weight = model.model.layers[0].mlp.up_proj.weight
    rows = torch.randn(tokens, weight.shape[1], dtype=weight.dtype, device=weight.device)

    def products() -> None:
        for _ in range(PRODUCTS):
            rows @ weight.T

    return PRODUCTS * tokens * weight.numel() / speed.timed(products, model)
