"""Answers taken elsewhere, as a large model: so a cascade over any closed model can be evaluated and tuned."""

import math
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uacs.errors import BadInput
from uacs.mllm import Due
from uacs.records import NOT_ASKED, LargeOutput, Sample, SmallOutput

REQUIRED = ("sample_id", "y_large", "u_large")
OPTIONAL = ("p_large", "y_verify", "u_verify", "seconds_large", "seconds_verify")


class RecordedAnswers:
    """A Parquet file of `sample_id, y_large, u_large` and optionally `y_verify, u_verify, seconds_*`; a folder of such.

    A run's `outcomes` are such a folder.

    Uncertainties are taken as they are; scores outside `score_range` are set to its end and said to be
    `clipped`. A sample that is not in the file, or has no score there, is `unavailable`. At a `pace` above 0 a batch
    comes after so many times the seconds that its answers took: a rehearsal of a large model, without its GPU.
    """

    readout = "recorded"
    frames: int | None = None

    def __init__(self, path: str, score_range: tuple[float, float], pace: float = 0.0):
        self.path, self.score_range, self.pace = path, score_range, pace
        self.columns = read_answers(path)
        ids = self.columns["sample_id"]
        self.row = {sample_id: i for i, sample_id in enumerate(ids)}
        if len(self.row) < len(ids):
            twice = next(i for n, i in enumerate(ids) if self.row[i] != n)
            raise BadInput(f"{path}: sample '{twice}' is recorded twice; keep one row for each sample")

    def answer(self, samples: list[Sample]) -> list[LargeOutput]:
        """The recorded stage-2 answers."""
        return self._paced([self._output(s, "y_large", "u_large", "seconds_large") for s in samples])

    def verify(self, samples: list[Sample], small: list[SmallOutput], large: list[LargeOutput]) -> list[LargeOutput]:
        """The recorded stage-3 answers. Where there is none, y_large stands: that is no fault of the sample."""
        outputs = self._paced([self._output(s, "y_verify", "u_verify", "seconds_verify") for s in samples])
        return [replace(output, error=None) for output in outputs]

    def answer_and_verify(
        self, samples: list[Sample], small: list[SmallOutput], due: Due
    ) -> tuple[list[LargeOutput], list[LargeOutput]]:
        """Both, the second for the samples that are due by the first; the others are not asked."""
        large = self.answer(samples)
        verify = [NOT_ASKED] * len(samples)
        for i in np.flatnonzero(due(small, large)):
            (verify[i],) = self.verify([samples[i]], [small[i]], [large[i]])
        return large, verify

    def _paced(self, outputs: list[LargeOutput]) -> list[LargeOutput]:
        if self.pace:
            time.sleep(self.pace * sum(output.seconds for output in outputs if math.isfinite(output.seconds)))
        return outputs

    def _output(self, sample: Sample, y: str, u: str, seconds: str) -> LargeOutput:
        row = self.row.get(sample.sample_id)
        if row is None:
            return LargeOutput(status="unavailable", error=f"{self.path}: no answer for sample '{sample.sample_id}'")
        if y not in self.columns or not math.isfinite(self.columns[y][row]):
            return LargeOutput(status="unavailable", error=f"{self.path}: sample '{sample.sample_id}' has no {y}")
        score = float(self.columns[y][row])
        clipped = float(np.clip(score, *self.score_range))
        return LargeOutput(
            y=clipped,
            u=float(self.columns[u][row]),
            status="ok" if clipped == score else "clipped",
            seconds=float(self.columns[seconds][row]) if seconds in self.columns else float("nan"),
        )


def read_answers(path: str) -> dict[str, np.ndarray]:
    """The columns of a file of answers, or a folder of them, (N,) each; raises `BadInput` naming the fault's place."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; recorded: takes a Parquet file of {', '.join(REQUIRED)}") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise BadInput(f"{path}: not a Parquet file ({error}); recorded: takes one of {', '.join(REQUIRED)}") from None
    missing = [name for name in REQUIRED if name not in table.column_names]
    if missing:
        raise BadInput(f"{path}: no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    wanted = [n for n in REQUIRED + OPTIONAL if n in table.column_names and n not in ("sample_id", "p_large")]
    columns = {"sample_id": np.array(table["sample_id"].cast(pa.string()).to_pylist(), dtype=object)}
    for name in wanted:
        try:
            columns[name] = table[name].cast(pa.float64()).to_numpy(zero_copy_only=False).astype(float)
        except pa.ArrowInvalid as error:
            raise BadInput(f"{path}: column {name} is not of numbers ({error})") from None
    answered = np.isfinite(columns["y_large"])
    if (bad := answered & ~(columns["u_large"] >= 0)).any():
        raise BadInput(f"{path}: sample '{columns['sample_id'][bad][0]}': u_large must be an entropy of 0 or more")
    return columns
