"""What an adapter is worth: a base untuned, with an adapter, and trained in full as long, on split test.

    make demo OUT=/tmp/demo
    python -m benchmarks.finetune.quality /tmp/demo/data --seeds 0 1 --out /tmp/quality

The base stands in for a large model that sees, hears, reads and judges, but was not made for the dataset: a tiny
model of a family, trained from nothing on split train on another scale (`--before` epochs; one that runs the other
way, so that 3 is most negative). Then it learns the dataset's own for `--epochs` epochs: by
LoRA, by LoRA and the connectors, and in full. All answer split test (read-out decode); s are those of training.
Brackets: 95 % intervals of 2000 resamples.
Folders under --out that are there are not trained again. Prints Markdown.
"""

import argparse
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from uacs import mllm
from uacs.data.prepared import PreparedDataset
from uacs.demo import TINY
from uacs.metrics import bootstrap, per_sample
from uacs.mllm import MllmSettings, finetuning, prompts, training
from uacs.mllm.adapters import MANIFEST, WEIGHTS
from uacs.mllm.finetuning_settings import FinetuningSettings, Training
from uacs.mllm.training import TrainingSettings
from uacs.records import ANSWERED

COLUMNS = ("model", "seed", "", "trained", "epochs", "s", "answered", "Acc2", "MAE")
BASE, LORA, BOTH, FULL = "untuned", "LoRA", "LoRA and connectors", "full training"
ASKED = MllmSettings(frames=2, threads=1)


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", choices=TINY, nargs="+", default=[*TINY])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--before", type=int, default=6, help="epochs of the base")
    parser.add_argument("--epochs", type=int, default=6, help="of what is made of it")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = PreparedDataset(options.data)
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for seed in options.seeds:
        for model in options.model:
            place = options.out / f"{model}-{seed}"
            place.mkdir(parents=True, exist_ok=True)
            for name in (BASE, LORA, BOTH, FULL):
                took = trained(place, name, data, model, seed, options)
                epochs = options.before if name == BASE else options.epochs
                cells = [model, str(seed), name, parameters(place / name), str(epochs), f"{took:.0f}" if took else ""]
                print(f"| {' | '.join([*cells, *scores(place / name, data)])} |", flush=True)


def trained(place: Path, name: str, data: PreparedDataset, model: str, seed: int, options) -> float:
    """Train what is of that name, unless it is there; returns the seconds that it took now."""
    if (place / name / "config.json").exists() or (place / name / MANIFEST).exists():
        return 0.0
    base, started = place / BASE, time.perf_counter()
    samples = list(data.samples("train"))
    about = data.info.score_range, data.info.language
    if name in (LORA, BOTH):
        settings = FinetuningSettings(
            epochs=options.epochs,
            rank=options.rank,
            alpha=2 * options.rank,
            lr=options.lr,
            projector=name == BOTH,
            projector_lr=options.lr / 2,
            batch_size=32,
            at_once=32,
            checkpointing=False,
            validations=1,
            seed=seed,
            mllm=ASKED,
        )
        finetuning.train(Training(data, str(base), settings, place / name))
    elif name == FULL:
        settings = TrainingSettings(epochs=options.epochs, seed=seed, frames=2, threads=1)
        training.train(base, samples, place / name, settings, *about)
    else:
        scaled = [replace(sample, label=-sample.label) for sample in samples]
        settings = TrainingSettings(epochs=options.before, seed=seed, frames=2, threads=1)
        module, _, create = TINY[model].partition(":")
        tiny, start = import_module(module), place / "untrained"
        getattr(tiny, create)(
            start, [s.text or "" for s in samples], prompts.phrases(*about), tiny.TinySettings(seed=seed)
        )
        training.train(start, scaled, base, settings, *about)
    return time.perf_counter() - started


def parameters(folder: Path) -> str:
    """How many parameters of it were trained."""
    if (folder / MANIFEST).exists():
        count = sum(weight.numel() for weight in load_file(folder / WEIGHTS).values())
    else:
        count = sum(weight.numel() for weight in mllm.load(folder).parameters())
    return f"{count / 1e6:.2f} M"


def scores(folder: Path, data: PreparedDataset) -> list[str]:
    """Of split test: the share answered, Acc2 in percent and MAE, of the answered, with intervals."""
    samples = list(data.samples("test"))
    outputs = mllm.build(str(folder), ASKED, data.info.score_range, data.info.language).answer(samples)
    known = [k for k, output in enumerate(outputs) if output.status in ANSWERED]
    answers, labels = np.array([outputs[k].y for k in known]), np.array([samples[k].label for k in known])
    cells = [f"{len(known) / len(samples):.1%}"]
    for metric, scale, digits in (("acc2", 100, 1), ("mae", 1, 3)):
        values = scale * per_sample(answers, labels, data.info.like)[metric]
        low, high = bootstrap(values, 2000)
        cells.append(f"{np.nanmean(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
    return cells


if __name__ == "__main__":
    main()
