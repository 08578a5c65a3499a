"""Full supervised training of a large model's folder: the tiny models' way to an education.

The model learns to finish its own prompts: each sample is asked as `LargePredictor` asks it, and the answer is
written as the read-out reads it. Only the answer's tokens count in the loss. A share of the batches is
asked stage 3's way, with hints drawn about the label, so that the second look is a prompt it has seen.
A head learns beside it to read score and polarity off the state that the answer begins from.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from uacs.errors import BadInput
from uacs.mllm import MllmSettings, family, load, prompts
from uacs.mllm.head import FILE as HEAD_FILE
from uacs.mllm.head import Head
from uacs.mllm.predictor import moved
from uacs.mllm.reading import spell
from uacs.records import Sample, transcript

Progress = Callable[[int, int, float], None]

MOST_UNSURE = math.log(3)  # nats: the entropy of three equal classes


class TrainingSettings(BaseModel):
    """How a folder is trained; the defaults suit the tiny models from scratch."""

    model_config = ConfigDict(extra="forbid")

    epochs: int = Field(9, ge=1)
    batch_size: int = Field(32, ge=1)
    lr: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(0.01, ge=0)
    clip_gradient: float = Field(1.0, gt=0, description="largest gradient norm of a step")
    warmup_steps: int = Field(60, ge=0)
    final_lr: float = Field(0.05, ge=0, le=1, description="share of lr that the cosine ends at")
    hinted: float = Field(0.35, ge=0, le=1, description="share of batches that are asked stage 3's way")
    hint_noise: float = Field(1.0, gt=0, description="mean sd of a hint about the label, where the range is [-3, 3]")
    frames: int = Field(2, ge=1, description="frames of a clip, in training and afterwards")
    head: Literal["none", "apart", "joint"] = Field(
        "apart",
        description="for the read-out head: one that learns from states as they are, or one that they learn for too",
    )
    hints: prompts.Hints = Field("numbers", description="how a prompt of stage 3 tells the earlier answers")
    seed: int = 0
    device: str = "cpu"
    threads: int = Field(2, ge=1, description="torch threads on CPU")


@dataclass(frozen=True)
class TrainingReport:
    """What came of it: steps taken, mean loss of each epoch (nats a token), and what was left out."""

    steps: int
    losses: list[float]
    notes: list[str] = field(default_factory=list)


def train(
    start: str | Path,
    samples: list[Sample],
    out: Path,
    settings: TrainingSettings,
    score_range: tuple[float, float],
    language: str = "en",
    progress: Progress | None = None,
) -> TrainingReport:
    """Train the checkpoint `start` on labelled samples and write the folder `out`, config.json last.

    Equal seed and threads give equal weights. A clip that does not decode is left out and noted.
    `progress` is called with steps done, steps to do and the step's loss. Raises `BadInput` for a sample
    without a label.
    """
    if settings.device == "cpu":
        torch.set_num_threads(settings.threads)
    kind = family(str(start))
    model = load(start, device=settings.device).train()
    inputs = kind.Inputs(str(start), model, MllmSettings(frames=settings.frames))
    lessons, notes = _lessons(samples, inputs)
    rng = np.random.default_rng(settings.seed)
    head = None if settings.head == "none" else _head(model, score_range, settings)
    parameters = [*model.parameters(), *(head.parameters() if head else ())]
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    per_epoch = math.ceil(len(lessons) / settings.batch_size)
    steps, step, losses = settings.epochs * per_epoch, 0, []
    for _ in range(settings.epochs):
        epoch = []
        for batch in _batches(lessons, settings.batch_size, rng):
            # all of a batch or none: stage 3's prompts are half as long again, and a batch is as long as its longest
            hint_noise = settings.hint_noise if rng.random() < settings.hinted else None
            rows = [_row(lesson, inputs, hint_noise, score_range, language, settings.hints, rng) for lesson in batch]
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * lr_share(step, steps, settings.warmup_steps, settings.final_lr)
            loss, ends = answer_loss(kind, model, inputs, rows)
            epoch.append(loss.item())
            if head:
                seen = ends if settings.head == "joint" else ends.detach()
                loss = loss + head.loss(seen, [lesson.label for lesson in batch])
            optimizer.zero_grad()
            loss.backward()
            for part in filter(None, (model, head)):  # each by itself: a head apart changes nothing of the model
                torch.nn.utils.clip_grad_norm_(part.parameters(), settings.clip_gradient)
            optimizer.step()
            step += 1
            if progress:
                progress(step, steps, epoch[-1])
        losses.append(float(np.mean(epoch)))
    report = TrainingReport(steps, losses, notes)
    record = {
        "settings": settings.model_dump(),
        "score_range": score_range,
        "language": language,
        "prompts": prompts.version(language),
        "steps": report.steps,
        "losses": report.losses,
        "notes": report.notes,
    }
    parts = [lambda folder: kind.save(model, folder), inputs.save, *([head.save] if head else [])]
    _save(parts, out, record)
    return report


def answer_loss(
    kind: ModuleType, model, inputs, rows: list[tuple], reduction: str = "mean"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy in nats over the answers' tokens, and the states (rows, H) that the answers begin from.

    rows are pairs of a turn with its answer and n, how many of its last tokens are the answer; kind is the model's
    family; reduction is as PyTorch's cross_entropy has it.
    """
    batch = moved(inputs.collate([row for row, _ in rows], padding="right"), model.device)
    hidden = kind.decoder_of(model)(**kind.embedded(model, batch), use_cache=False).last_hidden_state
    # each token is told by the position before it; the vocabulary is only spread out where that counts
    told = [hidden[k, row.length - n - 1 : row.length - 1] for k, (row, n) in enumerate(rows)]
    logits = model.get_output_embeddings()(torch.cat(told))
    answers = torch.tensor([token for row, n in rows for token in row.ids[-n:]], device=logits.device)
    loss = torch.nn.functional.cross_entropy(logits.float(), answers, reduction=reduction)
    return loss, torch.stack([states[0] for states in told])


def _head(model, score_range: tuple[float, float], settings: TrainingSettings) -> Head:
    """A new head for the model's states."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return Head(model.get_output_embeddings().weight.shape[-1], score_range[1]).to(model.device)


def lr_share(step: int, steps: int, warmup_steps: int, final: float) -> float:
    """The share of the full learning rate at a step: a straight warm-up, then a cosine down to `final`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class _Lesson:
    """A labelled sample with its clip as model inputs, made once."""

    sample: Sample
    label: float
    media: object


def _lessons(samples: list[Sample], inputs) -> tuple[list[_Lesson], list[str]]:
    lessons, notes = [], []
    for sample in samples:
        if sample.label is None:
            raise BadInput(f"sample '{sample.sample_id}': no label to learn from; leave it out")
        try:
            if transcript(sample) is None and sample.clip is None:
                raise BadInput(f"sample '{sample.sample_id}': neither clip nor text")
            lessons.append(_Lesson(sample, sample.label, inputs.media(sample)))
        except BadInput as error:
            notes.append(f"{error}; left out")
    if not lessons:
        raise BadInput("no sample with a clip that decodes or a text; give some to train on")
    return lessons, notes


def _batches(lessons: list[_Lesson], size: int, rng: np.random.Generator) -> Iterator[list[_Lesson]]:
    order = rng.permutation(len(lessons))
    for start in range(0, len(order), size):
        yield [lessons[i] for i in order[start : start + size]]


def _row(
    lesson: _Lesson,
    inputs,
    hint_noise: float | None,
    score_range: tuple[float, float],
    language: str,
    style: prompts.Hints,
    rng: np.random.Generator,
) -> tuple:
    """A prompt, stage 3's where there is a hint noise, with its answer; and how many tokens the answer takes."""
    text = transcript(lesson.sample)
    if hint_noise is None:
        prompt = prompts.question(text, score_range, language)
    else:
        hints = draw_hints(lesson.label, hint_noise, score_range, rng)
        prompt = prompts.second_question(text, score_range, language, **hints, hints=style)
    turn = inputs.encode(lesson.sample, lesson.media, prompt)
    answer = inputs.answer_ids(spell(lesson.label))
    return replace(turn, ids=turn.ids + answer), len(answer)


def draw_hints(
    label: float, noise: float, score_range: tuple[float, float], rng: np.random.Generator
) -> dict[str, float]:
    """Two made-up earlier answers with uncertainties, for a stage-3 prompt: the surer one is nearer to the label.

    An uncertainty is uniform in [0, ln 3] nats; the answer's sd grows with it from half of `noise` to
    one and a half of it.
    """
    low, high = score_range
    hints: dict[str, float] = {}
    for name in ("small", "large"):
        u = float(rng.uniform(0, MOST_UNSURE))
        sd = noise * (0.5 + u / MOST_UNSURE) * (high - low) / 6
        hints |= {f"y_{name}": float(np.clip(label + rng.normal(0, sd), low, high)), f"u_{name}": u}
    return hints


def _save(parts: list[Callable[[Path], None]], out: Path, record: dict) -> None:
    """Write aside, then move; config.json last, so that a folder with one is whole."""
    aside = out / ".partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for save in parts:
        save(aside)
    (aside / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    (out / HEAD_FILE).unlink(missing_ok=True)  # an earlier one belongs to the weights that go
    for path in sorted(aside.iterdir(), key=lambda path: path.name == "config.json"):
        if path.is_dir():
            shutil.rmtree(out / path.name, ignore_errors=True)
        path.replace(out / path.name)
    aside.rmdir()
