"""What a training costs beside what it must: its tokens a second over those of a bare forward and backward.

    make demo OUT=/tmp/demo
    python -m benchmarks.finetune.speed /tmp/demo/data           on 2 threads; --device cuda on a GPU

A HumanOmni of random weights, 66 M parameters, and the clips of a finished demo. After each step of `uacs train mllm`
the same rows, decoded beforehand, go through the same model with the same adapter once more, forward and backward in as
many batches: nothing is read, summed, clipped, moved or saved. So both take turns, and the table shows medians over
steps, which the machine's moods leave alone, and quartiles of the ratio. Padding: of all positions computed, those that
stand for nothing; `drawn` is what it would be in batches as they are drawn, without regard to length. Prints Markdown.
"""

import argparse
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median, quantiles

import torch

from uacs.data.prepared import PreparedDataset
from uacs.mllm import MllmSettings, prompts, tiny_native
from uacs.mllm.finetuning import train
from uacs.mllm.finetuning_settings import FinetuningSettings, Training
from uacs.mllm.lessons import Rows, lessons, share, steps
from uacs.mllm.pupil import Pupil

CASES = [(32, 4, True), (32, 4, False)]
COLUMNS = (
    "samples a step",
    "at once",
    "layers computed again",
    "steps",
    "tokens/s",
    "bare",
    "ratio",
    "padding",
    "drawn",
)


class Enough(Exception):
    """As many steps as were asked for."""


def main() -> None:
    """Measure every case and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--frames", type=int, default=8)
    options = parser.parse_args()
    dtype = "float32" if options.device == "cpu" else "bfloat16"
    asked = MllmSettings(frames=options.frames, threads=options.threads, device=options.device, dtype=dtype)
    data = PreparedDataset(options.data)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        sizes = tiny_native.TinySettings(width=options.width, layers=options.layers, frames=options.frames)
        texts = [sample.text or "" for sample in data.samples("train")]
        tiny_native.create_humanomni(base, texts, prompts.phrases(data.info.score_range), sizes)
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
        for batch_size, at_once, again in CASES:
            settings = FinetuningSettings(
                rank=16, alpha=32, batch_size=batch_size, at_once=at_once, checkpointing=again, head="none", mllm=asked
            )
            task = Training(data, str(base), settings, Path(folder) / "out")
            print(line(task, options.steps), flush=True)
            shutil.rmtree(task.out)


def line(task: Training, wanted: int) -> str:
    """One case's row of the table."""
    bare, settings = Bare(task), task.settings
    ours, theirs, padding, drawn, last = [], [], [], [], time.perf_counter()

    def heard(news: dict) -> None:
        nonlocal last
        took = time.perf_counter() - last  # reading, saving and telling among it
        seconds, loose = bare.step(news["step"] - 1)
        if news["step"] > 1:  # the first warms up
            ours.append(news["positions"] / took)
            theirs.append(news["positions"] / seconds)
            padding.append(news["padding"])
            drawn.append(loose)
        if len(ours) == wanted:
            raise Enough
        last = time.perf_counter()

    with suppress(Enough):
        train(task, heard)
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    cells = [
        str(settings.batch_size),
        str(settings.at_once),
        "yes" if settings.checkpointing else "no",
        str(len(ours)),
        f"{median(ours):,.0f}",
        f"{median(theirs):,.0f}",
        f"{median(ratios):.2f} ({low:.2f} to {high:.2f})",
        f"{sum(padding) / len(padding):.1%}",
        f"{sum(drawn) / len(drawn):.1%}",
    ]
    return f"| {' | '.join(cells)} |"


class Bare:
    """The same model beside the training's, and the rows of each of its steps."""

    def __init__(self, task: Training):
        self.task, self.pupil, settings = task, Pupil(task), task.settings
        self.of = lessons(task.dataset, "train")
        self.course = steps(self.of, settings.batch_size, 0.0, settings.seed, 0)
        info = task.dataset.info
        self.rows = Rows(self.pupil.inputs, info.score_range, info.language, "numbers", 1.0, settings.seed)

    def step(self, number: int) -> tuple[float, float]:
        """Seconds of the step's forward and backward; and the padding, had its batches been as they were drawn."""
        tasks, at_once = self.course[number], self.task.settings.at_once
        made = {
            one.lesson: self.rows.row(lesson, self.pupil.inputs.media(lesson.sample), one, 0)
            for one in tasks
            for lesson in [self.of[one.lesson]]
        }
        batches = [[made[one.lesson] for one in batch] for batch in share(tasks, self.of, 0, 1, at_once)]
        loose = [[made[one.lesson] for one in tasks[k : k + at_once]] for k in range(0, len(tasks), at_once)]
        tokens = sum(row.tokens for row in made.values())
        self.pupil.decoder.train()
        self._wait()
        started = time.perf_counter()
        for batch in batches:
            with torch.autocast(self.pupil.model.device.type, torch.bfloat16, enabled=self._half):
                self.pupil(batch, tokens, len(tasks)).backward()
        self._wait()
        took = time.perf_counter() - started
        self.pupil.zero_grad()
        lengths = [[row.turn.length for row in batch] for batch in loose]
        return took, 1 - sum(map(sum, lengths)) / sum(max(some) * len(some) for some in lengths)

    @property
    def _half(self) -> bool:
        return self.task.settings.mllm.dtype == "bfloat16"

    def _wait(self) -> None:
        if self.pupil.model.device.type == "cuda":
            torch.cuda.synchronize()


if __name__ == "__main__":
    main()
