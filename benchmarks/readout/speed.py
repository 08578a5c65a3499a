"""What a score costs: stage 2 by each read-out over a bare prefill, stage 3 read on over stage 2, both over generating.

    python -m benchmarks.readout.speed                       on 2 threads; --device cuda on a GPU

A Qwen2 decoder of random weights (the numbers do not change what they cost) and prompts of random tokens. Of each
length and batch, in turns and `--repeats` times, every round measures

    bare        the prompts through the decoder, and the logits of their last tokens
    stage 2     the same with keys and values kept, and the read-out
    stage 3     the last words taken back, the hints and the ending read on, and the read-out, for all rows
    generate    transformers' greedy generation of an answer's tokens; twice, the second time of the longer prompt

and the table shows the median over rounds of each ratio, which the machine's moods leave alone, and what would be
if time went by counted multiplications: (L + 79 (1 + head / body)) / L for the trie, with attention counted in body
and head only where it counts. Prints Markdown.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median, quantiles

import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from uacs.mllm.context import Context
from uacs.mllm.head import Head
from uacs.mllm.readouts import Decode, FromHead, OverTrie, ReadOut

RANGE = (-3.0, 3.0)
VOCABULARY, DIGITS, END = 32_000, range(15, 25), 0  # '+' 10, '-' 12 and '.' 13, as Qwen2 has them
TAIL, ENDING, HINTS = 6, 5, 80  # words that are taken back; the turn's ending; stage 3's hints, by Qwen2's tokenizer
ANSWER = 5  # tokens of "+0.4" and the turn's end
CASES = [(1000, 1), (1000, 2), (1000, 3), (1000, 4), (2300, 1), (3900, 1)]


def main() -> None:
    """Measure every case and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    model = decoder(options.width, options.layers).to(options.device, dtype).eval()
    count = sum(weight.numel() for weight in model.parameters())
    where = f"{options.threads} threads" if options.device == "cpu" else torch.cuda.get_device_name()
    print(f"{count / 1e6:.0f} M parameters, {str(dtype).removeprefix('torch.')}, {where}, {options.repeats} rounds\n")
    names = ("trie", "head", "decode")
    columns = ["tokens", "rows", "bare, s", *(f"stage 2 by {name} / bare" for name in names), "counted"]
    columns += ["stage 3 by trie / stage 2", "counted", "generate twice / both by trie", "/ both by decode"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for length, rows in CASES:
        print(line(model, length, rows, options.repeats), flush=True)


def decoder(width: int, layers: int) -> Qwen2ForCausalLM:
    """A decoder as Qwen2's, smaller."""
    torch.manual_seed(0)
    heads = width // 64
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 6),
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        )
    )


def answer_ids(answer: str) -> list[int]:
    """'+0.4' as Qwen2 tokenises it, and the turn's end."""
    signs = {"+": 10, "-": 12, ".": 13}
    return [signs.get(sign) or DIGITS[int(sign)] for sign in answer] + [END]


def prompts(length: int, rows: int) -> tuple[list[list[int]], list[list[int]]]:
    """Random tokens of both stages: the second goes on from the first but for its last words."""
    draw = torch.Generator().manual_seed(length + rows)
    body, tail, hints = (
        torch.randint(100, VOCABULARY, (rows, n), generator=draw).tolist() for n in (length - TAIL, TAIL, HINTS)
    )
    first = [one + two for one, two in zip(body, tail, strict=True)]
    second = [[*one, 99, *two, *three[-ENDING:]] for one, two, three in zip(body, hints, tail, strict=True)]
    return first, second


@torch.inference_mode()
def line(model: Qwen2ForCausalLM, length: int, rows: int, repeats: int) -> str:
    """One case's row of the table."""
    device = model.device
    first, second = prompts(length, rows)
    reads: dict[str, ReadOut] = {
        "trie": OverTrie(answer_ids, {END}, RANGE, device),
        "head": FromHead(Head(model.config.hidden_size, 3.0).to(device), RANGE),
        "decode": Decode(lambda ids: " ".join(map(str, ids)), set(), ANSWER, RANGE),  # no end: all of ANSWER's steps
    }
    rounds = [measured(model, first, second, reads) for _ in range(repeats + 1)][1:]  # the first warms up
    stage2 = [ratio(rounds, f"2 {name}", "bare") for name in reads]
    nodes = len(reads["trie"].trie)
    cells = [
        str(length),
        str(rows),
        f"{median(one['bare'] for one in rounds):.2f}",
        *stage2,
        f"{1 + flops(model, nodes, length, every=True) / flops(model, length, 0):.3f}",
        ratio(rounds, "3 trie", "2 trie"),
        f"{counted_again(model, length, len(second[0]), nodes):.3f}",
        ratio(rounds, "generate", "both trie"),
        ratio(rounds, "generate", "both decode"),
    ]
    return f"| {' | '.join(cells)} |"


def measured(
    model: Qwen2ForCausalLM, first: list[list[int]], second: list[list[int]], reads: dict[str, ReadOut]
) -> dict[str, float]:
    """Seconds of one round."""
    took = {"bare": timed(lambda: model.lm_head(model.model(**inputs(model, first), use_cache=False)[0][:, -1]), model)}
    for name, read_out in reads.items():
        took |= by_read_out(model, name, read_out, first, second)
    config = GenerationConfig(do_sample=False, max_new_tokens=ANSWER, min_new_tokens=ANSWER, pad_token_id=END)
    took["generate"] = sum(
        timed(
            lambda ids=ids: model.generate(
                **{k: v for k, v in inputs(model, ids).items() if k != "position_ids"}, generation_config=config
            ),
            model,
        )
        for ids in (first, second)
    )
    return took


def by_read_out(
    model: Qwen2ForCausalLM, name: str, read_out: ReadOut, first: list[list[int]], second: list[list[int]]
) -> dict[str, float]:
    """Seconds of stage 2, of stage 3 read on from it, and of both."""
    held: list[Context] = []

    def stage2() -> None:
        held.append(Context(model.model, model.lm_head, inputs(model, first)))
        read_out.read(held[0])

    def stage3() -> None:
        held[0].read_instead(list(range(len(first))), first, second, pad=END)
        read_out.read(held[0])

    two, three = timed(stage2, model), timed(stage3, model)
    return {f"2 {name}": two, f"3 {name}": three, f"both {name}": two + three}


def inputs(model: Qwen2ForCausalLM, ids: list[list[int]]) -> dict[str, torch.Tensor]:
    """What a family's `embedded` gives for rows of one length."""
    tokens = torch.tensor(ids, device=model.device)
    positions = torch.arange(tokens.shape[1], device=model.device).expand(len(ids), -1)
    embeds = model.get_input_embeddings()(tokens)
    return {"inputs_embeds": embeds, "attention_mask": torch.ones_like(tokens), "position_ids": positions}


def timed(work: Callable[[], object], model: Qwen2ForCausalLM) -> float:
    """Seconds that it takes, whatever it leaves on the device included."""
    wait = torch.cuda.synchronize if model.device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def ratio(rounds: list[dict[str, float]], what: str, over: str) -> str:
    """The median round's ratio, and the quartiles."""
    each = [one[what] / one[over] for one in rounds]
    low, _, high = quantiles(each, n=4) if len(each) > 1 else (each[0],) * 3
    return f"{median(each):.3f} [{low:.3f}, {high:.3f}]"


def flops(model: Qwen2ForCausalLM, tokens: int, before: int, every: bool = False) -> float:
    """Multiplications of reading tokens behind others, and of the logits of the last one, or of every one."""
    config = model.config
    layers = sum(weight.numel() for weight in model.model.layers.parameters())
    attention = 2 * config.num_hidden_layers * config.hidden_size * tokens * (before + tokens / 2)
    return layers * tokens + attention + config.hidden_size * config.vocab_size * (tokens if every else 1)


def counted_again(model: Qwen2ForCausalLM, length: int, longer: int, nodes: int) -> float:
    """Stage 3 over stage 2, by the trie."""
    suffix = longer - (length - TAIL)
    first = flops(model, length, 0) + flops(model, nodes, length, every=True)
    return (flops(model, suffix, length - TAIL) + flops(model, nodes, longer, every=True)) / first


if __name__ == "__main__":
    main()
