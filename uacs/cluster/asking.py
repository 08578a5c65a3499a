"""A part's chunks to the large model's replicas and back, whatever happens to them on the way.

What fails by itself, and what to do about it:

    no replica free, up or reachable, an object lost,
    a node preempted, a replica without its model      asked again, with growing pauses, for `PATIENCE`
    the replica died over the chunk                    asked again; the second time halved
    the model raised                                   halved, until the sample at fault stands alone
"""

import math
import time
from collections.abc import Callable
from functools import partial

from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)
from ray.serve.exceptions import RayServeException

from uacs.errors import UacsError
from uacs.mllm.chunk import Chunk, ChunkAnswer
from uacs.records import NOT_ASKED, LargeOutput

DEATHS = 2  # of replicas over one chunk before it is halved: the first may have been a node's
PATIENCE = 1800.0  # seconds; spot nodes and a 7B model's loading take minutes
LONGEST_PAUSE = 30.0


class Asking:
    """Asks a Serve deployment about chunks; `told` hears how many samples were answered, and how many twice."""

    def __init__(self, handle, told: Callable[[int, int], None] = lambda asked, twice: None):
        self.handle, self.told = handle, told

    def answers(self, chunks: list[Chunk]) -> list[ChunkAnswer]:
        """One answer a chunk, all asked at once."""
        responses = [self.handle.answer.remote(chunk) for chunk in chunks]
        return [self._answer(chunk, response.result) for chunk, response in zip(chunks, responses, strict=True)]

    def _answer(self, chunk: Chunk, result: Callable[[], ChunkAnswer]) -> ChunkAnswer:
        deaths, pause, since = 0, 1.0, math.inf
        while True:
            try:
                return self._heard(result())
            except (RayError, RayServeException) as error:
                fault = of_chunk(error)
                deaths += fault == "died"
                if fault == "raised" or deaths == DEATHS:
                    return self._halved(chunk, error)
                since = min(since, time.monotonic())  # of the first fault: a chunk may wait its turn for hours
                if time.monotonic() - since > PATIENCE:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            result = partial(self._ask, chunk)

    def _ask(self, chunk: Chunk) -> ChunkAnswer:
        return self.handle.answer.remote(chunk).result()

    def _halved(self, chunk: Chunk, error: Exception) -> ChunkAnswer:
        if len(chunk.samples) == 1:
            last = str(error).strip().splitlines()[-1]
            who = "large model" if chunk.large is None else "verifier"
            said = f"sample '{chunk.samples[0].sample_id}': the {who} failed ({last})"
            failed = [LargeOutput(status="unavailable", error=said)]
            return self._heard(
                ChunkAnswer(failed, [NOT_ASKED]) if chunk.large is None else ChunkAnswer(chunk.large, failed)
            )
        first, second = self.answers(chunk.halves())
        return ChunkAnswer(first.large + second.large, first.verify + second.verify)

    def _heard(self, answer: ChunkAnswer) -> ChunkAnswer:
        self.told(len(answer.large), sum(v.status != NOT_ASKED.status for v in answer.verify))
        return answer


def of_chunk(error: Exception) -> str:
    """Whether the model `raised`, its replica `died`, or it is `load`, which says nothing of the chunk."""
    if isinstance(error, RayTaskError):
        return "load" if isinstance(error.cause, RayError | RayServeException | UacsError) else "raised"
    if isinstance(error, ActorUnavailableError) or (isinstance(error, ActorDiedError) and error.preempted):
        return "load"
    return "died" if isinstance(error, RayActorError | OutOfMemoryError) else "load"
