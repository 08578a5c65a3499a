"""What the large models answer besides their runs: second looks with other hints, and clips that are spoilt.

A model is an application of Ray Serve for as long as it is asked. No prompt is asked twice: estimators whose doubt
reads the same to two digits share the answer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray import serve

from uacs.cluster import tally
from uacs.cluster.asking import Asking
from uacs.cluster.clips import Look, by_task
from uacs.cluster.progress import Counts
from uacs.cluster.resources import nodes_of_ray, preflight
from uacs.cluster.serving.large import deploy, frames_of, reap, remove
from uacs.cluster.session import start_serve
from uacs.config import EvaluationSettings
from uacs.data import places
from uacs.data.prepared import DatasetInfo
from uacs.mllm import MllmSettings, build
from uacs.mllm.chunk import Answering, Chunk, ChunkAnswer, answer_chunk
from uacs.mllm.prompts import Hints, second_question
from uacs.records import LargeOutput, Sample, SmallOutput, transcript
from uacs.study.settings import Fault, LargeModelSettings
from uacs.study.small import spoilt

CHUNKS = 8
"""Chunks whose answers are one file: so much is asked again after an interruption."""

LOST = {"status": "unavailable"}
LOOKS = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("hints", pa.string(), nullable=False),
        pa.field("y", pa.float64()),
        pa.field("u", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("seconds", pa.float64()),
        pa.field("error", pa.string()),
    ]
)
"""A row a second look: what was said of both answers, word by word, and what came of it."""


@dataclass(frozen=True)
class Expert:
    """A large model that can be asked, by Ray Serve or, of recorded answers, here; and what it wants of clips."""

    answers: Answering
    look: Look | None
    chunk_size: int
    at_once: int = 1

    def ask(
        self, chunks: list[Chunk], fault: Fault | None = None, told: Callable[[int], None] = lambda done: None
    ) -> list[ChunkAnswer]:
        """One answer a chunk, a few at once; `told` hears of how many are there.

        Each clip of a chunk is looked at once, and spoilt if it is to be. An interrupt is heard at once: the waiting is
        done here, and by no thread.
        """
        answers: list[ChunkAnswer] = []
        for start in range(0, len(chunks), self.at_once):
            some = chunks[start : start + self.at_once]
            answers += self.answers([replace(c, samples=self._seen(c.samples, fault)) for c in some])
            told(len(answers))
        return answers

    def _seen(self, samples: list[Sample], fault: Fault | None) -> list[Sample]:
        if self.look is not None:
            alone = {sample.sample_id: sample for sample in samples}
            looked = dict(zip(alone, by_task(list(alone.values()), self.look), strict=True))
            samples = [looked[sample.sample_id] for sample in samples]
        return [spoilt(sample, fault, {}) for sample in samples]


@dataclass(frozen=True)
class SecondLook:
    """A sample to be looked at again, and what is to be said of both answers."""

    sample: Sample
    small: SmallOutput
    large: LargeOutput
    said: str

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from others."""
        return self.sample.sample_id, self.said


def said(sample: Sample, small: SmallOutput, large: LargeOutput, info: DatasetInfo, hints: Hints) -> str:
    """What stage 3's prompt says of both answers (Eq. 16)."""
    told = small.u if small.told is None else small.told
    answers = {"y_small": small.y, "u_small": told, "y_large": large.y, "u_large": large.u}
    return second_question(transcript(sample), info.score_range, info.language, **answers, hints=hints).hints


@contextmanager
def expert(
    run_id: str,
    large: LargeModelSettings,
    settings: MllmSettings,
    info: DatasetInfo,
    run: EvaluationSettings,
    ours: bool,
) -> Iterator[Expert]:
    """A large model, ready to be asked until the end; raises `BadInput` if it cannot load.

    Its application has a run's name, so that it is removed if this driver is killed. ours says that the Ray is, too:
    then nobody waits for replicas after a fault.
    """
    if large.recorded:
        model = build(large.model, settings, info.score_range, info.language, info.name)
        yield Expert(lambda chunks: [answer_chunk(model, chunk) for chunk in chunks], None, run.chunk_size)
        return
    plan, name = run.resources, tally.name_of(run_id)
    preflight(plan, nodes_of_ray(), settings.device)
    start_serve()
    counter = tally.take(run_id, 0, Counts(), 1)
    whole = False
    try:
        reap()
        app = deploy(name, large.model, settings, info.score_range, info.language, plan)
        frames, at_once = frames_of(app, info.name), plan.replicas[1] + 1
        look = Look(frames, {}, run.decoding.limits, None, None, plan.decoders, plan.actor_cpus, at_once)
        asking = Asking(serve.get_app_handle(app))
        yield Expert(asking.answers, look if frames is not None else None, run.chunk_size, at_once)
        whole = True
    finally:
        ray.kill(counter)
        if (whole or not ours) and name in serve.status().applications:
            remove(name)


def look_again(
    asked: Expert, looks: Sequence[SecondLook], dataset: str, out: Path, told: Callable[[int, int], None]
) -> None:
    """Ask for second looks, each once, and leave the answers in `out`; what is there already is not asked again.

    `told` hears of how many looks are done, and of how many there are.
    """
    lacking = missing(looks, out)
    size, done = CHUNKS * asked.chunk_size, len({look.key for look in looks}) - len(lacking)
    first = 1 + max((int(place.stem) for place in out.glob("*.parquet")), default=-1)
    for number, start in enumerate(range(0, len(lacking), size), first):
        some = lacking[start : start + size]
        chunks = [_chunk(some[i : i + asked.chunk_size], dataset) for i in range(0, len(some), asked.chunk_size)]
        answers = [output for answer in asked.ask(chunks) for output in answer.verify]
        rows = [_row(look, output) for look, output in zip(some, answers, strict=True)]
        content = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, LOOKS), content, compression="zstd")
        places.write(out / f"{number:05d}.parquet", content.getvalue())
        done += len(some)
        told(done, done + len(lacking) - start - len(some))


def missing(looks: Sequence[SecondLook], out: Path) -> list[SecondLook]:
    """Those that `out` has no answer to, each once, by sample and by what is said.

    One that nobody could answer, for want of a replica, say, is to be asked again.
    """
    there, once = read_looks(out), {look.key: look for look in looks}
    return [once[key] for key in sorted(once) if there.get(key, LOST)["status"] == LOST["status"]]


def read_looks(out: Path) -> dict[tuple[str, str], dict]:
    """Answers of second looks, by sample and what was said."""
    parts = sorted(out.glob("*.parquet"))
    rows = pq.read_table(parts, schema=LOOKS).to_pylist() if parts else []
    return {(row["sample_id"], row["hints"]): row for row in rows}


def _chunk(looks: list[SecondLook], dataset: str) -> Chunk:
    samples = [replace(look.sample, audio=None, vision=None) for look in looks]
    small, large = [look.small for look in looks], [look.large for look in looks]
    return Chunk(samples, small, float("nan"), "conflict", large, dataset)


def _row(look: SecondLook, output: LargeOutput) -> dict:
    number = {"y": output.y, "u": output.u, "seconds": output.seconds}
    return {
        "sample_id": look.sample.sample_id,
        "hints": look.said,
        "status": output.status,
        "error": output.error,
    } | {name: None if np.isnan(value) else value for name, value in number.items()}
