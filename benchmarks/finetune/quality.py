"""What an adapter is worth: the untuned base, the base with its adapter, and full training, on split test.

    make demo OUT=/tmp/demo
    python -m benchmarks.finetune.quality /tmp/demo/data --model qwen2_5_omni --seeds 0 1 --out /tmp/quality

For each seed a tiny model of a family is made and trained in full for an epoch: it has learnt to answer in numbers, and
little more, and is the base. An adapter learns over it for `--epochs` epochs, alone and with the connectors; and the
same tiny model is trained in full for as long as base and adapter together, which is the limit. All answer split test
(read-out decode). Brackets: 95 % intervals of 2000 resamples. Folders under --out that are there are not trained again.
Prints Markdown.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from uacs import mllm
from uacs.data.prepared import PreparedDataset
from uacs.demo import TINY, train_large
from uacs.metrics import bootstrap, per_sample
from uacs.mllm import MllmSettings, finetuning
from uacs.mllm.adapters import MANIFEST, WEIGHTS
from uacs.mllm.finetuning_settings import FinetuningSettings, Training
from uacs.mllm.training import TrainingSettings
from uacs.records import ANSWERED

COLUMNS = ("model", "seed", "", "trained", "epochs", "s", "answered", "Acc2", "MAE")
LORA, BOTH = "LoRA", "LoRA and connectors"
ASKED = MllmSettings(frames=2, threads=1)


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", choices=TINY, nargs="+", default=[*TINY])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=6, help="of an adapter")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = PreparedDataset(options.data)
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for seed in options.seeds:
        for model in options.model:
            place = options.out / f"{model}-{seed}"
            place.mkdir(parents=True, exist_ok=True)
            for name, epochs in (
                ("base", 1),
                (LORA, options.epochs),
                (BOTH, options.epochs),
                ("full", 1 + options.epochs),
            ):
                took = trained(place, name, epochs, data, model, seed, options)
                cells = [model, str(seed), name, parameters(place / name), str(epochs), f"{took:.0f}" if took else ""]
                print(f"| {' | '.join([*cells, *scores(place / name, data)])} |", flush=True)


def trained(place: Path, name: str, epochs: int, data: PreparedDataset, model: str, seed: int, options) -> float:
    """Train what is of that name, unless it is there; returns the seconds that it took now."""
    if (place / name / "config.json").exists() or (place / name / MANIFEST).exists():
        return 0.0
    started = time.perf_counter()
    if name in (LORA, BOTH):
        settings = FinetuningSettings(
            epochs=epochs,
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
        finetuning.train(Training(data, str(place / "base"), settings, place / name))
    else:
        train_large(place / name, data, model, TrainingSettings(epochs=epochs, seed=seed, frames=2, threads=1))
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
