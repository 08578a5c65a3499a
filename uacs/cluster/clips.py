"""Clips on Ray: looked at by CPU tasks, ahead of whoever waits for them; what they show goes by the object store.

Of clips that were not prepared, the features are what a part waits for, and the frames for the large model are kept
on the way. Of those that were, only what goes to the large model is looked at, a chunk at a time.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

import ray
from ray.exceptions import RayError, RayTaskError

from uacs.data.clips import Clips
from uacs.data.extract import Wanted
from uacs.data.media import Limits, undecodable
from uacs.errors import shown
from uacs.mllm.chunk import Answering, Chunk, ChunkAnswer
from uacs.records import Sample

AHEAD = 2  # chunks of a part that are looked at or asked about at once


@dataclass(frozen=True)
class Look:
    """What a run wants of its clips, by how many tasks at once, each of so many logical CPUs.

    frames are the large model's, None where it reads no footage; extract are the features that are yet to be computed
    for the UBM, by modality with the extractors' SPECs.
    """

    frames: int | None
    extract: Mapping[str, str]
    limits: Limits
    tasks: int
    cpus: float


def looked_at(samples: list[Sample], look: Look) -> list[Sample]:
    """The samples with what their clips show and sound like, as `Clips.look_at`; in the worker that calls it."""
    return _clips(look.limits).look_at(samples, Wanted(look.extract, look.frames))


@cache
def _clips(limits: Limits) -> Clips:
    """A process apart, for as long as Ray keeps this worker."""
    return Clips(limits)


def filmed(answers: Answering, look: Look) -> Answering:
    """The same for chunks whose clips are looked at before, a few chunks at once; as it is if nobody looks at footage.

    A chunk's keep their frames until it is answered, so that whatever happens on the way they are decoded once.
    """
    if look.frames is None:
        return answers
    seen = replace(look, extract={})

    def one(chunk: Chunk) -> ChunkAnswer:
        (answer,) = answers([replace(chunk, samples=by_task(chunk.samples, seen))])
        return answer

    def each(chunks: list[Chunk]) -> list[ChunkAnswer]:
        with ThreadPoolExecutor(AHEAD) as threads:
            return list(threads.map(one, chunks))

    return each


def by_task(samples: list[Sample], look: Look) -> list[Sample]:
    """`looked_at` by a task of Ray's. One that dies with its worker is halved, until the clip at fault stands alone."""
    if all(sample.clip is None or sample.footage for sample in samples):
        return samples
    try:
        return ray.get(ray.remote(num_cpus=look.cpus, max_retries=1)(looked_at).remote(samples, look))
    except RayTaskError:
        raise  # what it raises is no clip's fault
    except RayError as error:
        if len(samples) > 1:
            middle = len(samples) // 2
            return [sample for half in (samples[:middle], samples[middle:]) for sample in by_task(half, look)]
        fault = f"{shown(str(samples[0].clip), most=500)}: the worker died over it ({type(error).__name__})"
        return [replace(samples[0], footage=undecodable(fault))]
