"""What the endpoint's deployments say to each other.

Deadlines travel as the seconds that are `left` when a call is `sent`, in seconds since 1970.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.serve.handle import DeploymentHandle

from uacs.cascade import routing
from uacs.cascade.deferral import doubts
from uacs.cascade.thresholds import Thresholds
from uacs.cluster.serving.trouble import Down
from uacs.mllm.chunk import Chunk, ChunkAnswer
from uacs.records import Footage, Sample, SmallOutput

Media = dict[int, bytes]
"""Footage that came with a request, by its sample's place among the others."""


ON_THE_WAY = 0.05  # seconds before a deadline at which what there is goes back


@dataclass(frozen=True)
class SmallCall:
    """Samples for the small model. What is not answered in time is not wanted any more.

    Of a clip whose sample is due for the large model, by the thresholds, so many frames and the sound come back; none
    without them.
    """

    samples: list[Sample]
    media: Media
    left: float
    sent: float = 0.0
    frames: int | None = None
    thresholds: Thresholds | None = None

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class SmallAnswer:
    """The small model's output, and the modalities that it had to do without; ours if it failed, not the sample.

    footage is what was decoded of its clip for the large model, heard what a speech recogniser wrote down.
    """

    output: SmallOutput
    missing: tuple[str, ...]
    ours: bool = False
    footage: Footage | None = None
    heard: str | None = None


@dataclass(frozen=True)
class LargeCall:
    """A chunk for the large model or the verifier; what there is of it when the time is up is the answer.

    media are clips, by their samples' places, for whoever has no use for the footage that comes along.
    """

    chunk: Chunk
    media: Media
    left: float
    sent: float = 0.0

    def __len__(self) -> int:
        return len(self.chunk.samples)


def due(outputs: list[SmallOutput], thresholds: Thresholds) -> np.ndarray:
    """Who goes to the large model (Eq. 13), (N,) truths; nobody whom the small model could not read."""
    read = np.isfinite(np.array([output.u for output in outputs]))
    return routing.escalated(doubts(outputs, thresholds.deferral), thresholds.tau_small) & read


def until(call: SmallCall | LargeCall) -> float:
    """When a call's time is over, by this process's `time.monotonic`: what it waited on its way counts.

    That is seen by two nodes' clocks, which may differ, and so believed for half of the time at most.
    """
    waited = time.time() - call.sent if call.sent else 0.0
    return time.monotonic() + call.left - min(max(waited, 0.0), call.left / 2) - ON_THE_WAY


LargeReply = ChunkAnswer
"""What could not be answered in time has status `timeout`."""

Asking = Callable[[Any], Awaitable[Any]]
"""Sends a deployment a call and gives its reply; cancelling it cancels the call."""


def through(handle: DeploymentHandle, runs: Callable[[], Awaitable[bool]] | None = None) -> Asking:
    """A deployment, as the cascade asks it: not at all while none of it runs, for a call would wait out its time.

    It raises `Down` then.
    """

    async def ask(call):
        if runs and not await runs():
            raise Down
        response = handle.answer.remote(call)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise

    return ask
