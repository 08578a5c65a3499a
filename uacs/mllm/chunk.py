"""Stages 2 and 3 for a chunk of escalated samples, as a notebook, a test and a Serve replica call it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from uacs.cascade.routing import Verify, second_look
from uacs.mllm import LargeModel
from uacs.records import NOT_ASKED, LargeOutput, Sample, SmallOutput


@dataclass(frozen=True)
class Chunk:
    """Escalated samples with their small answers, and what is wanted of the large model.

    tau_large decides with `verify: due`; it may be NaN where `verify` is conflict or never. Where another model has
    answered stage 2, large has its answers, and stage 3 alone is wanted. dataset names the adapter that is to answer.
    """

    samples: list[Sample]
    small: list[SmallOutput]
    tau_large: float
    verify: Verify
    large: list[LargeOutput] | None = None
    dataset: str | None = None

    def due(self, small: list[SmallOutput], large: list[LargeOutput]) -> np.ndarray:
        """Which of some samples, by both models' answers to them, are asked about again, (N,) truths."""
        y_small, y_large = np.array([s.y for s in small]), np.array([o.y for o in large])
        return second_look(y_small, y_large, np.array([o.u for o in large]), self.tau_large, self.verify)

    def halves(self) -> list["Chunk"]:
        """The same in two chunks."""
        middle = len(self.samples) // 2
        cuts = (slice(middle), slice(middle, None))
        return [self.part(range(len(self.samples))[cut]) for cut in cuts]

    def part(self, at: Sequence[int]) -> "Chunk":
        """The same of some of its samples, by their places."""
        large = None if self.large is None else [self.large[i] for i in at]
        return replace(self, samples=[self.samples[i] for i in at], small=[self.small[i] for i in at], large=large)


@dataclass(frozen=True)
class ChunkAnswer:
    """One stage-2 and one stage-3 output a sample, in the chunk's order."""

    large: list[LargeOutput]
    verify: list[LargeOutput]


Answering = Callable[[list[Chunk]], list[ChunkAnswer]]
"""What has chunks answered, one answer each."""


def ask(
    samples: list[Sample],
    small: list[SmallOutput],
    due: np.ndarray,
    tau_large: float,
    verify: Verify,
    size: int,
    answer: Answering,
    dataset: str | None = None,
) -> ChunkAnswer:
    """Have the samples that are `due`, a mask (N,), answered in chunks of `size`; the others are not asked.

    Chunks are cut by position, so that answers do not depend on timing.
    """
    asked = np.flatnonzero(due).tolist()
    positions = [asked[i : i + size] for i in range(0, len(asked), size)]
    chunks = [
        Chunk([samples[i] for i in at], [small[i] for i in at], tau_large, verify, dataset=dataset) for at in positions
    ]
    large, looked = [NOT_ASKED] * len(samples), [NOT_ASKED] * len(samples)
    for at, answers in zip(positions, answer(chunks), strict=True):
        for i, second, third in zip(at, answers.large, answers.verify, strict=True):
            large[i], looked[i] = second, third
    return ChunkAnswer(large, looked)


def answer_chunk(model: LargeModel, chunk: Chunk) -> ChunkAnswer:
    """Stage 2 for the whole chunk, unless it has been answered, and stage 3 for the samples that are due for it."""
    if chunk.large is None and chunk.verify == "never":
        return ChunkAnswer(model.answer(chunk.samples), [NOT_ASKED] * len(chunk.samples))
    if chunk.large is None:
        return ChunkAnswer(*model.answer_and_verify(chunk.samples, chunk.small, chunk.due))
    verify = [NOT_ASKED] * len(chunk.large)
    at = np.flatnonzero(chunk.due(chunk.small, chunk.large)).tolist()
    again = chunk.part(at)
    for i, output in zip(at, model.verify(again.samples, again.small, again.large or []), strict=True):
        verify[i] = output
    return ChunkAnswer(chunk.large, verify)


def by_two(answer: Answering, verifier: Answering) -> Answering:
    """Stage 2 by one model, and stage 3 by another, which is told of nothing but the samples that are due for it."""

    def both(chunks: list[Chunk]) -> list[ChunkAnswer]:
        first = answer([replace(chunk, verify="never") for chunk in chunks])
        due = [np.flatnonzero(chunk.due(chunk.small, a.large)).tolist() for chunk, a in zip(chunks, first, strict=True)]
        asked = [replace(chunk, large=a.large).part(at) for chunk, a, at in zip(chunks, first, due, strict=True) if at]
        looks = iter(verifier(asked))
        for a, at in zip(first, due, strict=True):
            if not at:
                continue
            for i, looked in zip(at, next(looks).verify, strict=True):
                a.verify[i] = looked
        return first

    return both
