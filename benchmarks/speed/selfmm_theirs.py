"""Self-MM as MMSA 2.2.1 ships it, on a CPU: trained once on a pickle, then asked for its test split.

`benchmarks.speed.selfmm` runs this in an environment of MMSA's own, where U-ACS need not be. By hand:

    python -m venv mmsa-env
    mmsa-env/bin/pip install --constraint constraints.txt torch==2.13.0 MMSA==2.2.1
    mmsa-env/bin/python benchmarks/speed/selfmm_theirs.py --pickle mosi.pkl --encoder FOLDER --out theirs.json

Model, trainer, data loader and MOSI's settings are MMSA's, put together as its own `_run` puts them. As they are they
work with torch 2.13.0 and transformers 5.23.0, but for what `settings` and `Passes` say. Times are of a clock in
seconds that starts anywhere.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # read on import: MMSA draws a bar of every pass over data

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoConfig
from transformers.utils import logging

try:
    from MMSA.config import get_config_regression
    from MMSA.data_loader import MMDataLoader
    from MMSA.models import AMIO
    from MMSA.trains import ATIO
    from MMSA.utils import setup_seed
except ImportError as error:
    sys.exit(f"MMSA cannot be imported ({error}); pip install MMSA==2.2.1 in an environment of its own")


class Enough(Exception):
    """So many epochs as were asked for are done."""


class Passes:
    """The training split's loader, which notes when each pass over it began and ended, its steps included.

    MMSA's `do_train` goes on until no epoch has been better for `early_stop` epochs, however many that takes; it is
    stopped here where the pass after the last epoch would begin. Its first pass is no epoch: it fills in labels.
    """

    def __init__(self, loader: DataLoader, epochs: int):
        self.loader, self.epochs = loader, epochs
        self.times: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict]:
        if len(self.times) > self.epochs:
            raise Enough
        began = time.perf_counter()
        yield from self.loader
        self.times.append((began, time.perf_counter()))


def settings(pickle: Path, encoder: str, weights: Path, changed: dict[str, float]):
    """MMSA's configuration of Self-MM for MOSI, with what `MMSA_run` adds to it, and `changed` over both.

    `MMSA_run` itself cannot be used on a CPU: it calls `torch.cuda.set_device` with whatever device there is, which
    raises ValueError of 'cpu'. It would also send weights and results to the home folder.
    """
    args = get_config_regression("self_mm", "mosi")
    args.update(
        featurePath=str(pickle),
        pretrained=encoder,
        text_out=AutoConfig.from_pretrained(encoder).hidden_size,  # configured as 768, whatever the encoder
        model_save_path=weights,
        device=torch.device("cpu"),
        train_mode="regression",
        custom_feature="",
        feature_T="",
        feature_A="",
        feature_V="",
    )
    args.update(changed)
    return args


def train(args, seed: int, epochs: int) -> tuple[nn.Module, DataLoader, dict]:
    """The best epoch's model, the test split's loader, and when each epoch's training began and ended."""
    setup_seed(seed)
    loaders = MMDataLoader(args, num_workers=0)  # worker processes would be further cores
    args["train_samples"] = len(loaders["train"].dataset)  # configured as MOSI's 1,284, whatever the file
    model = AMIO(args).to(args["device"])
    trainer = ATIO().getTrain(args)
    loaders["train"] = passes = Passes(loaders["train"], epochs)
    with suppress(Enough):
        trainer.do_train(model, loaders)
    ended = time.perf_counter()
    model.load_state_dict(torch.load(args["model_save_path"]))
    return model, loaders["test"], {"epochs": passes.times[1:], "ended": ended}


@torch.no_grad()
def answer(model: nn.Module, loader: DataLoader) -> tuple[list[float], list[float]]:
    """Predictions and labels (N,) of a split, in the loader's order.

    The forward passes of `do_test`, which would also compute losses and metrics, and falls over a last batch of one.
    """
    model.eval()
    prediction: list[float] = []
    label: list[float] = []
    for batch in loader:
        audio, vision = ((batch[m], batch[f"{m}_lengths"]) for m in ("audio", "vision"))
        prediction += model(batch["text"], audio, vision)["M"].view(-1).tolist()
        label += batch["labels"]["M"].view(-1).tolist()
    return prediction, label


def answer_timed(model: nn.Module, loader: DataLoader, repeats: int) -> list[float]:
    """Seconds of each of `repeats` passes over a split, after one that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        answer(model, loader)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def main() -> None:
    """Train, answer, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pickle", type=Path, required=True, help="MOSI in MMSA's layout, unaligned")
    parser.add_argument("--encoder", required=True, help="a BERT's folder or hub id, whose tokens text_bert has")
    parser.add_argument("--out", type=Path, required=True, help="the JSON to write")
    parser.add_argument("--seed", type=int, default=1111)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=100, help="at most; MMSA's early stopping comes first")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes over the test split")
    parser.add_argument("--batches", type=int, nargs="*", default=[], help="of inference, beside the configured one")
    parser.add_argument("--set", type=json.loads, default={}, help="JSON of settings that are not MMSA's own")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        args = settings(options.pickle, options.encoder, Path(folder) / "best.pth", options.set)
        model, loader, times = train(args, options.seed, options.epochs)
    prediction, label = answer(model, loader)
    loaders = {args["batch_size"]: loader} | {n: DataLoader(loader.dataset, batch_size=n) for n in options.batches}
    told = {
        "settings": {name: args[name] for name in ("batch_size", "update_epochs", "early_stop")},
        **times,
        "inference": {size: answer_timed(model, one, options.repeats) for size, one in loaders.items()},
        "prediction": prediction,
        "label": label,
    }
    options.out.write_text(json.dumps(told))


if __name__ == "__main__":
    main()
