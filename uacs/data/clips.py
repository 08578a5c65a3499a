"""Samples' clips, looked at once: features for the small model, frames and sound for the large one.

`prepare`, `evaluate` and `serve` all look by `Clips`, so that a clip is the same to each of them. It is decoded in a
process apart (`apart.py`), within `ClipSettings`; one that does not decode costs its sample what it would have given,
and the sample says why.
"""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from uacs.data.apart import Absent, Apart, Broken
from uacs.data.clip_cache import ClipCache
from uacs.data.extract import Wanted
from uacs.data.media import Limits, undecodable
from uacs.data.places import Place
from uacs.errors import BadInput, shown
from uacs.records import Sample, transcript

PIXELS = 8192 * 4608  # of a frame of one's own clip: 8K
AT_ONCE = 8  # clips that one of several processes takes up


class ClipSettings(BaseModel):
    """What a clip of one's own may cost; one that would cost more counts as one that does not decode."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: float = Field(4 * 3600, gt=0, description="longest clip, in seconds")
    mib: float = Field(4096, gt=0, description="MiB that what is kept of a clip may take")
    clock: float = Field(600, gt=0, description="seconds that decoding one may take")
    cache: str | None = Field(None, description="folder or URI in which features of clips are kept for the next time")
    speech: str | None = Field(
        None, description="a speech recogniser's folder or hub id, for clips without a transcript"
    )

    @property
    def limits(self) -> Limits:
        """The same as the decoder takes it: any format and coding that FFmpeg knows."""
        return Limits(self.seconds, PIXELS, int(self.mib * 2**20), self.clock, own=True)


class Clips:
    """Looks at clips one after the other, in a process apart, by extractors of those SPECs."""

    def __init__(self, limits: Limits, specs: Iterable[str] = (), cache: Place | None = None):
        self.apart = Apart(limits, specs)
        self.cache = ClipCache(cache) if cache else None

    def look(self, sample: Sample, wanted: Wanted, clock: float = math.inf) -> Sample:
        """The sample with what is wanted of its clip, in so many seconds; features that it brings are its own.

        A clip that does not decode leaves no more than its footage's fault. Raises `Broken` for what is no clip's.
        """
        lacking = {m: spec for m, spec in wanted.extract.items() if getattr(sample, m) is None}
        try:
            found = self.apart.find(str(sample.clip), replace(wanted, extract=lacking), clock)
        except BadInput as error:
            return replace(sample, footage=undecodable(str(error)))
        features: dict[str, Any] = found.features
        return replace(sample, footage=found.footage, **features)

    def look_at(self, samples: Sequence[Sample], wanted: Wanted) -> list[Sample]:
        """All of them; those without a clip, or of which is known that it does not decode, as they are.

        What breaks over one clip is that clip's fault; raises `Broken` where it breaks over each of several, `Absent`
        where none can be looked at.
        """
        looked, broken = list(samples), []
        due = [i for i, s in enumerate(samples) if s.clip is not None and s.footage is None]
        for i in due:
            try:
                looked[i] = self._kept(samples[i], wanted) or self.look(samples[i], wanted)
            except Absent:
                raise
            except Broken as error:
                broken.append(error)
                clip = shown(str(samples[i].clip), most=500)
                looked[i] = replace(samples[i], footage=undecodable(f"{clip}: could not be looked at ({error})"))
        if len(broken) == len(due) > 1:
            raise broken[0]
        return looked

    def _kept(self, sample: Sample, wanted: Wanted) -> Sample | None:
        """The sample by the cache: with features and without footage; looked at and kept now, if it was not."""
        lacking = {m: spec for m, spec in wanted.extract.items() if getattr(sample, m) is None}
        if self.cache is None or not lacking:
            return None
        if wanted.listened and transcript(sample) is None:  # to be heard, which takes its sound
            return None
        if kept := self.cache.get(sample, lacking):
            return kept
        looked = self.look(sample, wanted)
        if not (looked.footage and looked.footage.fault):
            self.cache.put(looked, lacking)
        return looked


class ClipPool:
    """So many `Clips` at work at once; a context. Left by an exception, it ends what they are at."""

    def __init__(self, limits: Limits, processes: int, specs: Iterable[str] = (), cache: Place | None = None):
        self._all = [Clips(limits, specs, cache) for _ in range(processes)]
        self._free = SimpleQueue[Clips]()
        for clips in self._all:
            self._free.put(clips)
        self._threads = ThreadPoolExecutor(processes)

    def __enter__(self) -> "ClipPool":
        return self

    def __exit__(self, kind, error, trace) -> None:
        for clips in self._all if kind else ():
            clips.apart.end()
        self._threads.shutdown(cancel_futures=True)
        for clips in self._all:
            clips.apart.close()

    def look_at(self, samples: Sequence[Sample], wanted: Wanted) -> list[Sample]:
        """As `Clips.look_at`, in the same order."""

        def together(some: Sequence[Sample]) -> list[Sample]:
            clips = self._free.get()
            try:
                return clips.look_at(some, wanted)
            finally:
                self._free.put(clips)

        cuts = [samples[i : i + AT_ONCE] for i in range(0, len(samples), AT_ONCE)]
        return [sample for cut in self._threads.map(together, cuts) for sample in cut]
