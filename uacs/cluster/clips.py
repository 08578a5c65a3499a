"""Clips on Ray: looked at by CPU tasks, ahead of whoever waits for them; what they show goes by the object store.

Of clips that were not prepared, the features are what a part waits for, and the frames for the large model are kept
on the way. Of those that were, only what goes to the large model is looked at, a chunk at a time.
"""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from uacs.data.clips import Clips
from uacs.data.extract import Wanted
from uacs.data.media import Limits, undecodable
from uacs.data.places import Place
from uacs.errors import shown
from uacs.mllm.chunk import Answering, Chunk, ChunkAnswer
from uacs.records import Sample, size_of, transcript

MOST = 2**30
"""Bytes of frames and sound that one task keeps; of clips beyond it they are decoded again if they are wanted."""
DEATHS, PATIENCE, PAUSE = 2, 1800.0, 2.0  # of workers over one clip; seconds of other faults, and between two tries


@dataclass(frozen=True)
class Look:
    """What a run wants of its clips, by how many tasks at once, each of so many logical CPUs.

    frames are the large model's, None where it reads no footage; extract are the features that are yet to be computed
    for the UBM, by modality with the extractors' SPECs; speech is the recogniser that writes down what is said in clips
    that are looked at for the UBM; cache is where features are kept. Of a part so many chunks are on their way to the
    large model at once.
    """

    frames: int | None
    extract: Mapping[str, str]
    limits: Limits
    speech: str | None
    cache: Place | None
    tasks: int
    cpus: float
    chunks: int


def looked_at(samples: list[Sample], look: Look) -> list[Sample]:
    """The samples with what their clips show and sound like, as `Clips.look_at`; in the worker that calls it."""
    looked, held = [], 0
    clips = _clips(look.limits, tuple(sorted(set(look.extract.values()))), look.cache)
    listened = look.speech is not None
    for sample in clips.look_at(samples, Wanted(look.extract, look.frames, listened)):
        held += size_of(sample.footage)
        needed = (sample.footage and sample.footage.fault) or (listened and transcript(sample) is None)
        looked.append(sample if held <= MOST or needed else replace(sample, footage=None))
    return looked


@cache
def _clips(limits: Limits, specs: tuple[str, ...], cache: Place | None) -> Clips:
    """A process apart, for as long as Ray keeps this worker."""
    return Clips(limits, specs, cache)


def filmed(answers: Answering, look: Look) -> Answering:
    """The same for chunks whose clips are looked at before, a few chunks at once; as it is if nobody looks at footage.

    A chunk's keep their frames until it is answered, so that whatever happens on the way they are decoded once.
    """
    if look.frames is None:
        return answers
    seen = replace(look, extract={}, speech=None)

    def one(chunk: Chunk) -> ChunkAnswer:
        (answer,) = answers([replace(chunk, samples=by_task(chunk.samples, seen))])
        return answer

    def each(chunks: list[Chunk]) -> list[ChunkAnswer]:
        with ThreadPoolExecutor(look.chunks) as threads:
            return list(threads.map(one, chunks))

    return each


def by_task(samples: list[Sample], look: Look) -> list[Sample]:
    """`looked_at` by a task of Ray's; the clip over which workers die again and again is found by halving.

    What the cluster lacks meanwhile is waited for; raises what the task raises, which is no clip's fault.
    """
    if all(sample.clip is None or sample.footage for sample in samples):
        return samples
    deaths, since = 0, math.inf
    while deaths < DEATHS:
        try:
            return ray.get(_task(looked_at).options(num_cpus=look.cpus).remote(samples, look))
        except RayTaskError:
            raise
        except (WorkerCrashedError, OutOfMemoryError):
            deaths += 1
        except RayError:
            since = min(since, time.monotonic())
            if time.monotonic() - since > PATIENCE:
                raise
            time.sleep(PAUSE)
    if len(samples) > 1:
        middle = len(samples) // 2
        return [sample for half in (samples[:middle], samples[middle:]) for sample in by_task(half, look)]
    fault = f"{shown(str(samples[0].clip), most=500)}: the worker died over it {DEATHS} times; give a smaller clip"
    return [replace(samples[0], footage=undecodable(fault))]


@cache
def _task(work: Callable[..., list[Sample]]) -> ray.remote_function.RemoteFunction:
    """One for all calls: Ray keeps each that is made."""
    return ray.remote(max_retries=0)(work)
