"""Parts in, outcome files out: Ray Data streams parts through a pool of small models to the large one.

    part name -> (tasks that look at clips -> ListenStage) -> SmallStage (actor pool)
              -> LargeStage (actors that wait) -> outcomes/PART

A part is one row from end to end, and its unsure samples are cut into chunks by position, so that the answers do not
depend on timing. Clips are looked at first where the UBM's features are not prepared, and the frames of unsure samples
go on; else LargeStage has them looked at. Prepared features stay in the actor that reads them. No more parts begin
than the tally allows.
"""

import math
import pickle
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray import serve
from ray.actor import ActorHandle
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from uacs.cascade import outcomes, routing
from uacs.cascade.deferral import Deferral, doubts
from uacs.cascade.routing import Verify
from uacs.cluster.asking import Asking
from uacs.cluster.clips import Look, filmed, looked_at
from uacs.cluster.memory import keep_freed
from uacs.cluster.progress import Counts, of_table
from uacs.cluster.resources import Resources
from uacs.cluster.runs import write_outcome
from uacs.data import places
from uacs.data.places import Place
from uacs.data.prepared import PreparedDataset
from uacs.data.speech import Recogniser
from uacs.errors import BadInput, UacsError
from uacs.mllm.chunk import Answering, ask, by_two
from uacs.records import Sample, SmallOutput

SUSPECT = 3  # deaths of a UBM's worker over one part before its samples are asked one by one
DEADLY = 2  # deaths over one of them before it is passed over
PARTS_OF_A_WORKER = 256
"""Parts after which a worker that looks at clips makes room for another. Without it Ray Data would put that stage,
which reserves as much as the next, into the UBM's actors."""
NAN = float("nan")


@dataclass(frozen=True)
class Ask:
    """Whom to ask. Without thresholds everyone, and nothing is decided yet (calibration)."""

    tau_small: float
    tau_large: float
    everyone: bool
    verify: Verify
    deferral: Deferral | None = None

    @property
    def decided(self) -> bool:
        """Whether there are thresholds to decide by."""
        return not math.isnan(self.tau_small)

    def due(self, small: list[SmallOutput]) -> np.ndarray:
        """Who goes to the large model, (N,) truths."""
        doubt = doubts(small, self.deferral)
        return np.isfinite(doubt) if self.everyone else routing.escalated(doubt, self.tau_small)


@dataclass(frozen=True)
class Work:
    """What the stages need to know: where from, where to, whom to ask, and how.

    `data`, `ubm` and `out` are places that every node reaches; `apps` are the large model's Serve application and,
    where stage 3 has one of its own, the verifier's.
    """

    data: Place
    dataset: str
    language: str
    ubm: str
    out: Place
    apps: list[str]
    ask: Ask
    look: Look
    tally: ActorHandle
    batch_size: int
    chunk_size: int
    threads: int
    estimator: str | None = None


@dataclass(frozen=True)
class PartDone:
    """A part whose outcomes are written, and what they amount to."""

    part: str
    counts: Counts


def stream(parts: list[str], work: Work, plan: Resources) -> Iterator[PartDone]:
    """Answer `parts` and write their outcomes; yields each part once it is written, in any order."""
    for row in pipeline(parts, work, plan).iter_rows():
        yield PartDone(row.pop("part"), Counts(**row))


def pipeline(parts: list[str], work: Work, plan: Resources) -> ray.data.Dataset:
    """The stages, not begun yet."""
    fewest, most = (min(size, len(parts)) for size in plan.pool)
    named = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    if work.look.extract:
        named = named.map_batches(
            read_and_looked_at,
            fn_kwargs=dict(data=work.data, look=work.look),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=work.look.cpus,
            compute=TaskPoolStrategy(min(work.look.tasks, len(parts))),
            max_calls=PARTS_OF_A_WORKER,
        )
    if work.look.extract and work.look.speech:
        named = named.map_batches(
            ListenStage,
            fn_constructor_kwargs=dict(spec=work.look.speech, language=work.language, cuda=plan.listener_gpus > 0),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(plan.listeners, len(parts))),
            num_cpus=plan.actor_cpus,
            num_gpus=plan.listener_gpus,
        )
    return named.map_batches(
        SmallStage,
        fn_constructor_kwargs=dict(work=work, cuda=plan.pool_gpus > 0),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=fewest, max_size=most),
        num_cpus=plan.actor_cpus,
        num_gpus=plan.pool_gpus,
    ).map_batches(
        LargeStage,
        fn_constructor_kwargs=dict(work=work),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(plan.parts_in_flight, len(parts))),
        num_cpus=plan.actor_cpus,
    )


def read_and_looked_at(batch: pa.Table, data: Place, look: Look) -> pa.Table:
    """A part's name in; its samples with what their clips show, out."""
    (part,) = batch["part"].to_pylist()
    return _packed(part, looked_at(PreparedDataset(data).read(part), look))


class ListenStage:
    """Samples in; those without a transcript with what is said in their clips, out."""

    def __init__(self, spec: str, language: str, cuda: bool):
        self.fault: BadInput | None = None  # as in SmallStage
        try:
            self.recogniser = Recogniser(spec, language, "cuda" if cuda else "cpu")
        except BadInput as error:
            self.fault = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.fault:
            raise self.fault
        part, (samples,) = _unpacked(batch)
        return _packed(part, self.recogniser.written_down(samples))


class SmallStage:
    """A part's name, or its samples, in; its samples without features, with their small answers, out."""

    def __init__(self, work: Work, cuda: bool):
        from uacs.ubm.predictor import SmallPredictor  # torch belongs to the pool's workers alone

        keep_freed()
        self.dataset, self.tally, self.ask = PreparedDataset(work.data), work.tally, work.ask
        # an actor that cannot be built is tried again and again, with a traceback each time
        self.fault: BadInput | None = None
        try:
            device = "cuda" if cuda else "cpu"
            self.predictor = SmallPredictor(work.ubm, work.batch_size, device, work.threads, work.estimator)
        except BadInput as error:
            self.fault = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.fault:
            raise self.fault
        (part,) = batch["part"].to_pylist()
        deaths = ray.get(self.tally.begin.remote(part))
        samples = _unpacked(batch)[1][0] if "content" in batch.column_names else self.dataset.read(part)
        small = self._answers(part, samples, suspect=deaths >= SUSPECT)
        self.tally.note.remote(part, {"small": len(small), "errors": sum(s.error is not None for s in small)})
        asked = self.ask.due(small)
        return _packed(part, [_bare(s, due) for s, due in zip(samples, asked, strict=True)], small)

    def _answers(self, part: str, samples: list[Sample], suspect: bool) -> list[SmallOutput]:
        """All answers; one by one if the part killed its workers, or if the UBM raises over it."""
        if suspect:
            answers = [self._guarded(part, sample) for sample in samples]
            ray.get(self.tally.try_alone.remote(part, None))
            return answers
        try:
            return self.predictor.predict(samples)
        except UacsError:
            raise
        except Exception as error:
            answers = [self._alone(sample) for sample in samples]
            if all(answer.error for answer in answers):
                raise error  # no sample's fault
            return answers

    def _guarded(self, part: str, sample: Sample) -> SmallOutput:
        """The answer to a sample that may be the one that killed its workers; that one is passed over."""
        if ray.get(self.tally.try_alone.remote(part, sample.sample_id)) < DEADLY:
            return self._alone(sample)
        return _failed(sample, "the UBM's process died over it")

    def _alone(self, sample: Sample) -> SmallOutput:
        try:
            return self.predictor.predict([sample])[0]
        except UacsError:
            raise
        except Exception as error:
            return _failed(sample, f"the UBM failed over it ({type(error).__name__}: {places.reason(error)})")


class LargeStage:
    """A part's small answers in; its outcome file, and one row of counts out."""

    def __init__(self, work: Work):
        self.handles = [serve.get_app_handle(app) for app in work.apps]
        self.work, self.tally = work, work.tally

    def __call__(self, batch: pa.Table) -> pa.Table:
        part, (samples, small) = _unpacked(batch)
        table, ask = self._asked(part, samples, small), self.work.ask
        if ask.decided:
            table = outcomes.with_decision(table, ask.tau_small, ask.tau_large, ask.deferral)
        write_outcome(places.within(self.work.out, part), table)
        counts = of_table(table)
        ray.get(self.tally.finish.remote(part, counts))
        return pa.Table.from_pylist([{"part": part} | asdict(counts)])

    def _asked(self, part: str, samples: list[Sample], small: list[SmallOutput]) -> pa.Table:
        ask_ = self.work.ask
        due = ask_.due(small)
        sums, several = {"due": int(due.sum()), "asked": 0, "looked_twice": 0}, threading.Lock()

        def told(asked: int, twice: int) -> None:
            with several:
                sums["asked"] += asked
                sums["looked_twice"] += twice
                self.tally.note.remote(part, dict(sums))

        told(0, 0)
        large, *verifier = self.handles
        answers: Answering = Asking(large, told).answers
        if verifier:
            answers = by_two(answers, Asking(verifier[0], lambda asked, twice: told(0, asked)).answers)
        wanted = ask_.tau_large, ask_.verify, self.work.chunk_size
        answer = ask(samples, small, due, *wanted, filmed(answers, self.work.look), self.work.dataset)
        return outcomes.build(samples, small, answer.large, answer.verify)


def _bare(sample: Sample, due: bool) -> Sample:
    """A sample without features, and without footage that nobody will look at."""
    kept = sample.footage if sample.footage and (due or sample.footage.fault) else None
    return replace(sample, audio=None, vision=None, footage=kept)


def _failed(sample: Sample, why: str) -> SmallOutput:
    said = f"sample '{sample.sample_id}': {why}; mend or remove it"
    return SmallOutput(NAN, NAN, (NAN, NAN, NAN), error=said)


def _packed(part: str, *content: Any) -> pa.Table:
    """A part as one row, which Ray Data cannot cut; its arrays stand behind the rest, each copied once."""
    arrays: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(content, protocol=5, buffer_callback=arrays.append)
    contents: list[bytes | memoryview] = [rest, *(array.raw() for array in arrays)]
    pieces = [np.frombuffer(content, np.uint8) for content in contents]
    ends = np.cumsum([0, *(len(piece) for piece in pieces)])
    whole = pa.allocate_buffer(int(ends[-1]))
    np.concatenate(pieces, out=np.frombuffer(whole, np.uint8))
    packed = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(pieces), [None, pa.py_buffer(ends), whole])
    return pa.table({"part": [part], "content": pa.LargeListArray.from_arrays([0, len(pieces)], packed)})


def _unpacked(row: pa.Table) -> tuple[str, Any]:
    """A part's name and content; raises `RuntimeError` if it came in pieces."""
    if row.num_rows != 1:
        raise RuntimeError(f"Ray Data cut a part, or joined some: {row.num_rows} rows arrived together")
    pieces = row["content"][0].values
    buffers: list[Any] = pieces.buffers()  # a piece's own as_buffer would copy it
    ends = np.frombuffer(buffers[1], np.int64)[pieces.offset :][: len(pieces) + 1].tolist()
    rest, *arrays = (buffers[2].slice(start, end - start) for start, end in pairwise(ends))
    return row["part"][0].as_py(), pickle.loads(rest, buffers=arrays)
