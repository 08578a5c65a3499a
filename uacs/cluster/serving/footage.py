"""Footage that came with a request: a file for as long as it is looked at, and what may be said of it."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from uacs.errors import shown
from uacs.records import Sample


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


def told(fault: str, sample: Sample) -> str:
    """What is wrong with a sample's footage, as its sender may read it: without our paths."""
    return f"sample '{sample.sample_id}': {plain(fault, sample)}"


def plain(fault: str, sample: Sample) -> str:
    """A fault that does not say where we keep the sample's footage."""
    return f"clip: {fault.removeprefix(f'{shown(str(sample.clip), most=500)}: ')}"
