"""What a LoRA step of HumanOmni-7B takes of a GPU, by a dry run of its published config: GiB by rank, bits and frames.

    python -m benchmarks.finetune.memory              the table; two processes, a minute and a half
    python -m benchmarks.finetune.memory --check      what was told, against steps that are taken

A check takes the steps too, on tensors of zeros: where there is a GPU those of HumanOmni-7B, against the most that
PyTorch's allocator had handed out, and had reserved; else those of a model of 60 M parameters on a CPU, against the
allocations that PyTorch's profiler saw, which may be within a kernel too. Prints Markdown, and JSON last.
"""

import argparse
import gc
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from uacs.mllm import MllmSettings, prompts, sizing, tiny_native
from uacs.mllm.finetuning_settings import FinetuningSettings

MIB = 2**20
HUMANOMNI_7B = {
    "model_type": "HumanOmni_qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "mm_hidden_size": 1152,
    "mm_vision_select_layer": -2,
    "mm_projector_type": "all_in_one",
    "mm_audio_tower": "openai/whisper-large-v3",
    "mm_audio_projector_type": "mlp2x_gelu",
    "mm_use_x_start_end": True,
    "num_frames": 32,
}
"""What of its config.json makes sizes."""
SMALL = tiny_native.TinySettings(width=640, layers=10, tower_width=192, tower_layers=4, pixels=112)


def main() -> None:
    """Print the table, or the check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.check:
        check()
        return
    started = time.perf_counter()
    spawned = get_context("spawn")
    with ProcessPoolExecutor(options.processes, spawned, initializer=partial(torch.set_num_threads, 1)) as pool:
        shapes = options.ranks, options.frames, options.rows
        print(sizing.table(HUMANOMNI_7B, FinetuningSettings(), *shapes, each=pool.map))
    print(json.dumps({"seconds": round(time.perf_counter() - started)}))


def check() -> None:
    """Steps told and taken, side by side."""
    print("| model, rows x frames | on | told, MiB | taken, MiB | by | told / taken |\n|---|---|---:|---:|---|---:|")
    found = []
    for line in on_gpu() if torch.cuda.is_available() else on_cpu():
        found.append(line)
        told, taken = line["told"] / MIB, line["taken"] / MIB
        print(f"| {line['model']} | {line['on']} | {told:.1f} | {taken:.1f} | {line['by']} | {told / taken:.3f} |")
    print(json.dumps(found))


def on_gpu() -> Iterator[dict]:
    """HumanOmni-7B with weights of zeros: all that lies there at the peak."""
    for bits in (False, True):
        asked = FinetuningSettings(rank=16, mllm=MllmSettings(device="cuda", dtype="bfloat16", load_in_4bit=bits))
        dry = sizing.Rehearsal(HUMANOMNI_7B, asked)
        wet = sizing.Rehearsal(HUMANOMNI_7B, asked, torch.device("cuda"))
        for frames, rows in ((8, 1), (32, 1), (32, 4)):
            told = dry.step(frames, rows).total
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            wet.step(frames, rows)
            model = f"HumanOmni-7B, {'4-bit' if bits else 'bf16'}, r 16, {rows} x {frames}"
            shared = {"model": model, "on": torch.cuda.get_device_name(), "told": told}
            yield shared | {"taken": torch.cuda.max_memory_allocated(), "by": "allocated"}
            yield shared | {"taken": torch.cuda.max_memory_reserved(), "by": "reserved"}
        del wet
        gc.collect()


def on_cpu() -> Iterator[dict]:
    """A small HumanOmni: activations, gradients and Adam's states, which is what a step allocates."""
    with tempfile.TemporaryDirectory() as folder:
        tiny_native.create_humanomni(Path(folder), ["it was great"], prompts.phrases((-3.0, 3.0)), SMALL)
        for dtype, checkpointing in itertools.product(("float32", "bfloat16"), (True, False)):
            asked = FinetuningSettings(rank=16, checkpointing=checkpointing, mllm=MllmSettings(dtype=dtype))
            dry, wet = sizing.Rehearsal(folder, asked), sizing.Rehearsal(folder, asked, torch.device("cpu"))
            size = sum(weight.numel() for weight in wet.pupil.parameters()) / 1e6
            model = f"{size:.0f} M, {dtype}, r 16, {'' if checkpointing else 'no '}checkpointing"
            for frames, rows in ((8, 2), (32, 4)):
                need = dry.step(frames, rows)
                wet.step(frames, rows)  # once before, so that what stays for good is there
                told = need.trained * 3 // 4 + need.activations
                taken = profiled(partial(wet.step, frames, rows))
                yield {
                    "model": f"{model}, {rows} x {frames}",
                    "on": "CPU",
                    "told": told,
                    "taken": taken,
                    "by": "profiler",
                }


def profiled(step: Callable[[], object]) -> int:
    """Bytes that a step had allocated at its peak."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


if __name__ == "__main__":
    main()
