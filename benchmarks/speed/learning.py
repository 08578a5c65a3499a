"""An epoch of the UBM's training over a plain PyTorch loop: the same model, loss and optimiser, nothing else.

The plain loop has its batches collated before, and only steps through them. As a second one, batches of clips as they
come by chance, which is what one would write first: what windows of like length are worth.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.speed.material import clips, untrained
from benchmarks.speed.sides import Row, Spread, in_turns, ratio
from benchmarks.speed.small import size
from uacs.cascade.uncertainty import training_class
from uacs.ubm import folder as ubm_folder
from uacs.ubm import training
from uacs.ubm.batches import collate, encode
from uacs.ubm.model import Rows, Ubm
from uacs.ubm.settings import TrainingSettings

CASES = {"cpu": [(96, 2, 512), (384, 6, 128)], "cuda": [(768, 12, 2048)]}  # width, layers, clips


class Split:
    """What `training` steps through, without a dataset on disk."""

    def __init__(self, place: Path, count: int):
        self.model, tokenizer, config = ubm_folder.load(place)
        samples = clips(count)
        self.encoded = encode(samples, tokenizer, config.features, config.training.max_text_tokens)
        labels = np.array([sample.label for sample in samples])
        self.labels = torch.tensor(labels, dtype=torch.float32)
        self.classes = torch.tensor(training_class(labels))


def measure(out: Path, rounds: int, device: str) -> Iterator[Row]:
    """The rows of part learning."""
    settings = TrainingSettings(device=device, threads=1)
    torch.set_num_threads(1)
    for width, layers, count in CASES[device]:
        yield from epochs(untrained(out, width, layers), count, rounds, settings, size(width, layers))


def epochs(place: Path, count: int, rounds: int, settings: TrainingSettings, of: str) -> Iterator[Row]:
    """An epoch each way; every one begins where the last one ended, which changes no time."""
    split, draw = Split(place, count), np.random.default_rng(10_000 * settings.seed)  # as epoch 0 draws
    model = split.model.to(settings.device)
    optimiser = torch.optim.Adam(training._parameter_groups(model, settings))
    alike = training._batches(split, settings.batch_size, draw)
    by_chance = np.array_split(draw.permutation(count), len(alike))
    works = {
        "U-ACS": lambda: training._train_epoch(model, optimiser, split, settings, 0),
        "plain": plain(model, optimiser, split, alike, settings),
        "by chance": plain(model, optimiser, split, [chosen.tolist() for chosen in by_chance], settings),
    }
    taken = in_turns(works, rounds)
    yield Row("training epoch over a plain loop, in pace", of, ratio(taken["plain"], taken["U-ACS"]), at_least=0.9)
    yield Row("over a plain loop with batches by chance, in pace", of, ratio(taken["by chance"], taken["U-ACS"]))
    yield Row("training", of, Spread.of([1000 * s / count for s in taken["U-ACS"]]), "ms a clip", 1)


def plain(model: Ubm, optimiser, split: Split, batches: list[list[int]], settings: TrainingSettings):
    """Forward, loss, backward, a step after every few batches; batches are on the device before."""
    device = settings.device
    ready: list[tuple[dict[str, Rows], torch.Tensor, torch.Tensor]] = []
    for chosen in batches:
        rows = collate([split.encoded[i] for i in chosen])
        rows = {name: of.to(device) for name, of in rows.items()}
        ready.append((rows, split.labels[chosen].to(device), split.classes[chosen].to(device)))

    def epoch() -> None:
        model.train()
        total = 0.0
        for k, (rows, labels, classes) in enumerate(ready, 1):
            said = model(rows, len(labels))
            loss = nn.functional.mse_loss(said.score, labels) + nn.functional.cross_entropy(said.logits, classes)
            loss = loss + nn.functional.l1_loss(said.deviation, (said.score.detach() - labels).abs())
            (loss / settings.accumulate).backward()
            total += loss.item()
            if k % settings.accumulate == 0 or k == len(ready):
                optimiser.step()
                optimiser.zero_grad()

    return epoch
