"""What the small models answer: a table for each UBM, estimator and set of samples, made by tasks of Ray's."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayTaskError

from uacs.cascade.estimators import ESTIMATORS
from uacs.cluster.resources import Resources
from uacs.data import places
from uacs.data.prepared import PreparedDataset
from uacs.errors import Refused, UacsError
from uacs.records import Sample, SmallOutput
from uacs.study.settings import Fault

MADE = b"made"
SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("label", pa.float64()),
        pa.field("y", pa.float64()),
        pa.field("p", pa.list_(pa.float64())),
        pa.field("signals", pa.map_(pa.string(), pa.float64())),
        pa.field("told", pa.map_(pa.string(), pa.float64())),
        pa.field("seconds", pa.float64()),
        pa.field("error", pa.string()),
    ]
)
"""signals are every estimator's u, told the same in nats, as a large model is told of it."""


@dataclass(frozen=True)
class Question:
    """Samples that a UBM is asked about, by an estimator: a split, perhaps spoilt; the answers go to `out`.

    made names all that the answers depend on.
    """

    ubm: Path
    estimator: str
    data: str
    split: str
    out: Path
    made: str
    fault: Fault | None = None

    @property
    def answered(self) -> bool:
        """Whether the answers are there, and to this question."""
        return made_of(self.out) == self.made


def made_of(place: Path) -> str | None:
    """What a file's content was made of, as it says; None where there is no file."""
    if not place.exists():
        return None
    return (pq.read_schema(place).metadata or {}).get(MADE, b"").decode()


def signed(table: pa.Table, made: str) -> pa.Table:
    """The table with what it was made of."""
    return table.replace_schema_metadata({MADE: made})


def answer(
    questions: list[Question], batch_size: int, threads: int, plan: Resources, told: Callable[[Question], None]
) -> None:
    """Have questions answered, each by a task, as many at once as a pool has actors; `told` hears of each.

    Raises what a person must mend.
    """
    work = ray.remote(num_cpus=plan.actor_cpus, num_gpus=plan.pool_gpus)(_answer)
    waiting = list(questions)
    under_way: dict[ray.ObjectRef, Question] = {}
    while waiting or under_way:
        while waiting and len(under_way) < plan.pool[1]:
            question = waiting.pop(0)
            under_way[work.remote(question, batch_size, threads, plan.pool_gpus > 0)] = question
        (done,), _ = ray.wait(list(under_way), num_returns=1)
        question = under_way.pop(done)
        result(done, f"{question.out}: ")
        if not question.answered:
            raise Refused(
                f"{question.out}: a worker has answered, and it is not here; name an --out that every node sees"
            )
        told(question)


def result(done: ray.ObjectRef, what: str) -> Any:
    """What a task came to; raises what a person must mend with `what` it was about."""
    try:
        return ray.get(done)
    except RayTaskError as error:
        if not isinstance(error.cause, UacsError):
            raise
        said = str(error.cause)
        raise type(error.cause)(said if said.startswith(what) else what + said) from None


def read(path: Path) -> pa.Table:
    """Answers, sorted by sample id."""
    return pq.read_table(path).cast(SCHEMA).sort_by("sample_id")


def spoilt(sample: Sample, fault: Fault | None, spread: dict[str, np.ndarray]) -> Sample:
    """A sample as both models are to see it, the same whenever it is asked for.

    What is dropped of the clip is dropped of its footage, too, where that has been looked at. spread is what noise is
    as large as, by modality (d,); the large model's clip has none.
    """
    draw = np.random.default_rng(zlib.crc32(sample.sample_id.encode()))
    footage = sample.footage
    if fault == "no-text":
        return replace(sample, text=None)
    if fault == "no-audio":
        return replace(sample, audio=None, footage=footage and replace(footage, waveform=None))
    if fault == "no-vision":
        return replace(sample, vision=None, footage=footage and replace(footage, frames=None, times=np.zeros(0)))
    if fault == "half-words" and sample.text:
        apart = " " in sample.text or sample.text.isascii()  # Chinese has no spaces: its characters are lost
        kept = [word for word in (sample.text.split() if apart else sample.text) if draw.random() < 0.5]
        return replace(sample, text=(" " if apart else "").join(kept) or None)
    if fault == "noise":
        noisy = {
            modality: (values + draw.normal(0, 1, values.shape) * sd).astype(np.float32)
            for modality, sd in spread.items()
            if (values := getattr(sample, modality)) is not None and len(values)
        }
        return replace(sample, **noisy)
    return sample


def spreads(dataset: PreparedDataset) -> dict[str, np.ndarray]:
    """Standard deviation of each feature over all steps of split train, (d,) by modality."""
    sums: dict[str, list] = {modality: [0, 0.0, 0.0] for modality in dataset.info.features}
    for sample in dataset.samples("train"):
        for modality, total in sums.items():
            values = getattr(sample, modality)
            if values is not None and len(values) and np.isfinite(values).all():
                rows = values.astype(float)
                total[0], total[1], total[2] = total[0] + len(rows), total[1] + rows.sum(0), total[2] + (rows**2).sum(0)
    return {
        modality: np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0))
        for modality, (count, total, squares) in sums.items()
        if count
    }


def _answer(question: Question, batch_size: int, threads: int, cuda: bool) -> None:
    """In a worker: write all answers at once."""
    from uacs.ubm.predictor import SmallPredictor  # torch belongs to the workers

    dataset = PreparedDataset(question.data)
    spread = spreads(dataset) if question.fault == "noise" else {}
    predictor = SmallPredictor(question.ubm, batch_size, "cuda" if cuda else "cpu", threads, question.estimator)
    rows: list[dict] = []
    for samples in _parts(dataset, question.split):
        seen = [spoilt(sample, question.fault, spread) for sample in samples]
        for sample, output in zip(seen, predictor.predict(seen), strict=True):
            rows.append(_row(sample, output, predictor))
    content = pa.BufferOutputStream()
    pq.write_table(signed(pa.Table.from_pylist(rows, SCHEMA), question.made), content, compression="zstd")
    places.write(question.out, content.getvalue())


def _parts(dataset: PreparedDataset, split: str) -> Iterator[list[Sample]]:
    for part in dataset.parts(split):
        yield dataset.read(part)


def _row(sample: Sample, output: SmallOutput, predictor) -> dict:
    u = {name: output.signals[name] for name in ESTIMATORS if name in output.signals}
    fitted = predictor.fitted
    told = {name: float(fitted.in_nats(name, np.array([value]))[0]) for name, value in u.items()} if fitted else {}
    said = {"y": output.y, "p": list(output.p), "seconds": output.seconds} if output.error is None else {}
    return {
        "sample_id": sample.sample_id,
        "label": sample.label,
        "signals": list(u.items()),
        "told": list((told or u).items()),
        "error": output.error,
    } | said
