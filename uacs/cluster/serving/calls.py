"""What the endpoint's deployments say to each other.

Deadlines travel as seconds left, since nodes' clocks differ; a replica begins to count when a call reaches it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ray.serve.handle import DeploymentHandle

from uacs.mllm.chunk import Chunk, ChunkAnswer
from uacs.records import Sample, SmallOutput

Media = dict[int, bytes]
"""Footage that came with a request, by its sample's place among the others."""


@dataclass(frozen=True)
class SmallCall:
    """Samples for the small model. What is not answered `left` seconds from now is not wanted any more."""

    samples: list[Sample]
    media: Media
    left: float

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class SmallAnswer:
    """The small model's output, and the modalities that it had to do without."""

    output: SmallOutput
    missing: tuple[str, ...]


@dataclass(frozen=True)
class LargeCall:
    """A chunk for the large model or the verifier; what it has `left` seconds from now is the answer."""

    chunk: Chunk
    media: Media
    left: float

    def __len__(self) -> int:
        return len(self.chunk.samples)


LargeReply = ChunkAnswer
"""What could not be answered in time has status `timeout`."""

Asking = Callable[[Any], Awaitable[Any]]
"""Sends a deployment a call and gives its reply; cancelling it cancels the call."""


def through(handle: DeploymentHandle) -> Asking:
    """A deployment, as the cascade asks it."""

    async def ask(call):
        response = handle.answer.remote(call)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise

    return ask
