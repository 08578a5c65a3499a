"""Footage that came with a request: a file for as long as a model reads it, and the small model's features of it."""

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from uacs.data.apart import Apart
from uacs.data.extract import EXTRACTORS
from uacs.data.prepared import FeatureInfo
from uacs.errors import BadInput, shown
from uacs.records import LargeOutput, Sample


def extractor(features: Mapping[str, FeatureInfo]) -> str | None:
    """Who computes the features that a UBM reads; None if that is no program of ours."""
    named = {info.extractor for info in features.values()} & EXTRACTORS.keys()
    return named.pop() if named else None


def featured(sample: Sample, apart: Apart, reader: str | None, read: Collection[str], clock: float) -> Sample:
    """The sample with audio and vision computed from its clip, of those in `read`, unless it brings its own.

    The clip is decoded in any case, within `clock` seconds: what a model reads later is known to be footage.
    Raises `BadInput` for one that is none.
    """
    found = dict(zip(("audio", "vision"), apart.features(str(sample.clip), reader, clock), strict=True))
    audio, vision = (getattr(sample, m) if getattr(sample, m) is not None or m not in read else found[m] for m in found)
    return replace(sample, audio=audio, vision=vision)


@contextmanager
def on_disk(samples: Sequence[Sample], media: Mapping[int, bytes]) -> Iterator[list[Sample]]:
    """The samples with their footage, by place, in files that are gone afterwards.

    A file's name is its sample's place: nothing that a client sent is part of a path.
    """
    if not media:
        yield list(samples)
        return
    with tempfile.TemporaryDirectory(prefix="uacs-clip-") as folder:
        for place, content in media.items():
            (Path(folder) / str(place)).write_bytes(content)
        yield [replace(s, clip=str(Path(folder) / str(i))) if i in media else s for i, s in enumerate(samples)]


def told(error: BadInput, sample: Sample) -> str:
    """What is wrong with a sample's footage, as its sender may read it: without our paths."""
    return f"sample '{sample.sample_id}': clip: {str(error).removeprefix(f'{_named(sample)}: ')}"


def without_path(output: LargeOutput, sample: Sample) -> LargeOutput:
    """A large model's output whose error does not say where we keep the sample's footage."""
    if output.error is None or sample.clip is None:
        return output
    return replace(output, error=output.error.replace(_named(sample), "clip"))


def _named(sample: Sample) -> str:
    return shown(str(sample.clip), most=500)
