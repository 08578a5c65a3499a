"""Stages 2 and 3 for a chunk of escalated samples, as a notebook, a test and a Serve replica call it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from uacs.cascade.routing import Verify, second_look
from uacs.mllm import LargeModel
from uacs.records import NOT_ASKED, LargeOutput, Sample, SmallOutput


@dataclass(frozen=True)
class Chunk:
    """Escalated samples with their small answers, and what is wanted of the large model.

    tau_large decides with `verify: due`; it may be NaN where `verify` is conflict or never.
    """

    samples: list[Sample]
    small: list[SmallOutput]
    tau_large: float
    verify: Verify

    def due(self, small: list[SmallOutput], large: list[LargeOutput]) -> np.ndarray:
        """Which of some samples, by both models' answers to them, are asked about again, (N,) truths."""
        y_small, y_large = np.array([s.y for s in small]), np.array([o.y for o in large])
        return second_look(y_small, y_large, np.array([o.u for o in large]), self.tau_large, self.verify)

    def halves(self) -> list["Chunk"]:
        """The same in two chunks."""
        middle = len(self.samples) // 2
        cuts = (slice(middle), slice(middle, None))
        return [replace(self, samples=self.samples[cut], small=self.small[cut]) for cut in cuts]


@dataclass(frozen=True)
class ChunkAnswer:
    """One stage-2 and one stage-3 output a sample, in the chunk's order."""

    large: list[LargeOutput]
    verify: list[LargeOutput]


def ask(
    samples: list[Sample],
    small: list[SmallOutput],
    due: np.ndarray,
    tau_large: float,
    verify: Verify,
    size: int,
    answer: Callable[[list[Chunk]], list[ChunkAnswer]],
) -> ChunkAnswer:
    """Have the samples that are `due`, a mask (N,), answered in chunks of `size`; the others are not asked.

    Chunks are cut by position, so that answers do not depend on timing.
    """
    asked = np.flatnonzero(due).tolist()
    positions = [asked[i : i + size] for i in range(0, len(asked), size)]
    chunks = [Chunk([samples[i] for i in at], [small[i] for i in at], tau_large, verify) for at in positions]
    large, looked = [NOT_ASKED] * len(samples), [NOT_ASKED] * len(samples)
    for at, answers in zip(positions, answer(chunks), strict=True):
        for i, second, third in zip(at, answers.large, answers.verify, strict=True):
            large[i], looked[i] = second, third
    return ChunkAnswer(large, looked)


def answer_chunk(model: LargeModel, chunk: Chunk) -> ChunkAnswer:
    """Stage 2 for the whole chunk, then stage 3 for the samples that `chunk.verify` selects."""
    return ChunkAnswer(*model.answer_and_verify(chunk.samples, chunk.small, chunk.due))
