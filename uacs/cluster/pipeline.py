"""Parts in, outcome files out: Ray Data streams parts through a pool of small models to the large one.

    part name -> SmallStage (actor pool) -> small answers -> LargeStage (actors that wait) -> outcomes/PART

A block is a part from end to end, and a part's unsure samples are cut into chunks by position, so that
the answers do not depend on timing. Features stay in the actor that reads them; the object store holds
small answers and transcripts alone.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from ray import serve
from ray.data import ActorPoolStrategy
from ray.exceptions import RayActorError, RayTaskError

from uacs.cascade import outcomes, routing
from uacs.cascade.routing import Verify
from uacs.cluster.resources import Resources
from uacs.cluster.runs import write_outcome
from uacs.cluster.serving.large import DEPLOYMENT
from uacs.data.prepared import PreparedDataset
from uacs.errors import BadInput
from uacs.mllm.chunk import Chunk, ChunkAnswer, ask
from uacs.records import NOT_ASKED, STAGES, LargeOutput, Sample, SmallOutput

ATTEMPTS = 2  # a replica that died is built again by Serve; its chunk goes to the next one


@dataclass(frozen=True)
class Ask:
    """Whom to ask. Without thresholds everyone, and nothing is decided yet (calibration)."""

    tau_small: float
    tau_large: float
    everyone: bool
    verify: Verify

    @property
    def decided(self) -> bool:
        """Whether there are thresholds to decide by."""
        return not math.isnan(self.tau_small)


@dataclass(frozen=True)
class PartDone:
    """What a finished part adds to the counts on the screen."""

    part: str
    rows: int
    counts: dict[str, int]

    @classmethod
    def read(cls, part: str, path: Path) -> "PartDone":
        """What a part that an earlier session wrote adds."""
        table = pq.read_table(path)
        return cls(part, table.num_rows, counts(table))


def stream(
    parts: list[str],
    data: Path,
    ubm: Path,
    out: Path,
    app: str,
    ask: Ask,
    plan: Resources,
    batch_size: int,
    chunk_size: int,
    threads: int,
) -> Iterator[PartDone]:
    """Answer `parts` and write their outcomes to `out`; yields each part once it is written, in any order."""
    small = dict(data=str(data), ubm=str(ubm), batch_size=batch_size, threads=threads, cuda=plan.pool_gpus > 0)
    large = dict(app=app, out=str(out), ask=ask, chunk_size=chunk_size)
    pipeline = (
        ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
        .map_batches(
            SmallStage,
            fn_constructor_kwargs=small,
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(plan.pool, len(parts))),
            num_cpus=plan.actor_cpus,
            num_gpus=plan.pool_gpus,
        )
        .map_batches(
            LargeStage,
            fn_constructor_kwargs=large,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(plan.parts_in_flight, len(parts))),
            num_cpus=plan.actor_cpus,
        )
    )
    for row in pipeline.iter_rows():
        yield PartDone(row["part"], row["rows"], {name: row[name] for name in COUNTED})


class SmallStage:
    """A part's name in; its samples without features, with their small answers, out."""

    def __init__(self, data: str, ubm: str, batch_size: int, threads: int, cuda: bool):
        from uacs.ubm.predictor import SmallPredictor  # torch belongs to the pool's workers alone

        self.dataset = PreparedDataset(data)
        # an actor that cannot be built is tried again and again, with a traceback each time
        self.fault: BadInput | None = None
        try:
            self.predictor = SmallPredictor(ubm, batch_size, "cuda" if cuda else "cpu", threads)
        except BadInput as error:
            self.fault = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.fault:
            raise self.fault
        (part,) = batch["part"].to_pylist()
        samples = self.dataset.read(part)
        return _to_columns(part, samples, self.predictor.predict(samples))


class LargeStage:
    """A part's small answers in; its outcome file, and one row of counts out."""

    def __init__(self, app: str, out: str, ask: Ask, chunk_size: int):
        self.handle = serve.get_deployment_handle(DEPLOYMENT, app)
        self.out, self.ask, self.chunk_size = Path(out), ask, chunk_size

    def __call__(self, columns: pa.Table) -> pa.Table:
        part, samples, small = _from_columns(columns)
        table = self._asked(samples, small)
        if self.ask.decided:
            table = outcomes.with_decision(table, self.ask.tau_small, self.ask.tau_large)
        write_outcome(self.out / part, table)
        return pa.Table.from_pylist([{"part": part, "rows": len(samples)} | counts(table)])

    def _asked(self, samples: list[Sample], small: list[SmallOutput]) -> pa.Table:
        u_small = np.array([s.u for s in small])
        due = np.isfinite(u_small) if self.ask.everyone else routing.escalated(u_small, self.ask.tau_small)
        answer = ask(samples, small, due, self.ask.tau_large, self.ask.verify, self.chunk_size, self._answers)
        return outcomes.build(samples, small, answer.large, answer.verify)

    def _answers(self, chunks: list[Chunk]) -> list[ChunkAnswer]:
        responses = [self.handle.answer.remote(chunk) for chunk in chunks]
        return [self._answer(chunk, response) for chunk, response in zip(chunks, responses, strict=True)]

    def _answer(self, chunk: Chunk, response) -> ChunkAnswer:
        """A chunk's answer; one that fails or kills its replica is halved until the culprit stands alone."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return response.result()
            except RayTaskError as error:
                return self._halved(chunk, error)
            except RayActorError as error:
                if attempt == ATTEMPTS:
                    return self._halved(chunk, error)
                time.sleep(attempt)
                response = self.handle.answer.remote(chunk)
        raise AssertionError("each attempt returns or is the last")

    def _halved(self, chunk: Chunk, error: Exception) -> ChunkAnswer:
        if len(chunk.samples) == 1:
            last = str(error).strip().splitlines()[-1]
            said = f"sample '{chunk.samples[0].sample_id}': the large model failed ({last})"
            return ChunkAnswer([LargeOutput(status="unavailable", error=said)], [NOT_ASKED])
        first, second = self._answers(chunk.halves())
        return ChunkAnswer(first.large + second.large, first.verify + second.verify)


COUNTED = (*STAGES, "asked", "looked_twice", "errors", "degraded")


def counts(table: pa.Table) -> dict[str, int]:
    """How many rows each stage settled, were asked about, and failed."""
    stage, status = table["stage"].to_pylist(), table["status"].to_pylist()
    asked = sum(s != NOT_ASKED.status for s in table["large_status"].to_pylist())
    twice = sum(s != NOT_ASKED.status for s in table["verify_status"].to_pylist())
    named = {name: stage.count(name) for name in STAGES} | {"asked": asked, "looked_twice": twice}
    return named | {"errors": status.count("error"), "degraded": status.count("degraded")}


def _to_columns(part: str, samples: list[Sample], small: list[SmallOutput]) -> pa.Table:
    rows = [
        {
            "part": part,
            "rows": len(samples),
            "sample_id": sample.sample_id,
            "text": sample.text,
            "clip": sample.clip,
            "label": sample.label,
            "split": sample.split,
            "y": output.y,
            "u": output.u,
            "p": list(output.p),
            "seconds": output.seconds,
            "error": output.error,
            "signals": list(output.signals.items()),
        }
        for sample, output in zip(samples, small, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=_COLUMNS)


def _from_columns(columns: pa.Table) -> tuple[str, list[Sample], list[SmallOutput]]:
    rows = columns.to_pylist()
    if len(rows) != rows[0]["rows"]:
        raise RuntimeError(f"Ray Data cut part {rows[0]['part']}: {len(rows)} of {rows[0]['rows']} rows arrived")
    samples = [Sample(r["sample_id"], r["text"], None, None, r["clip"], r["label"], r["split"]) for r in rows]
    small = [SmallOutput(r["y"], r["u"], tuple(r["p"]), r["seconds"], r["error"], dict(r["signals"])) for r in rows]
    return rows[0]["part"], samples, small


_COLUMNS = pa.schema(
    {
        "part": pa.string(),
        "rows": pa.int64(),
        "sample_id": pa.string(),
        "text": pa.string(),
        "clip": pa.string(),
        "label": pa.float64(),
        "split": pa.string(),
        "y": pa.float64(),
        "u": pa.float64(),
        "p": pa.list_(pa.float64()),
        "seconds": pa.float64(),
        "error": pa.string(),
        "signals": pa.map_(pa.string(), pa.float64()),
    }
)
