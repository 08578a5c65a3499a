"""The cascade from a notebook: plain objects and tables, without Ray. `import uacs` has it all; docs/api.md shows it.

What runs here is what runs on the cluster: the same predictors, the same chunks, the same routing.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from uacs import metrics
from uacs.cascade import outcomes, routing, rules
from uacs.cascade.deferral import Deferral, doubts
from uacs.cascade.objectives import Objective
from uacs.cascade.outcomes import column
from uacs.cascade.prices import prices
from uacs.cascade.recording import Recording
from uacs.cascade.replay import Answers, Replay
from uacs.cascade.replay import replay as _replay
from uacs.cascade.rules import RuleSettings
from uacs.cascade.thresholds import Thresholds, of_table
from uacs.data.prepare import PrepareSettings
from uacs.data.prepare import prepare as _prepare
from uacs.data.prepared import PreparedDataset
from uacs.errors import Refused
from uacs.mllm import LargeModel, MllmSettings
from uacs.mllm import build as _build_mllm
from uacs.mllm.chunk import Chunk, ChunkAnswer, answer_chunk, ask
from uacs.records import Sample
from uacs.ubm.predictor import SmallPredictor


def prepare(source: str | Path, out: str | Path, **settings) -> PreparedDataset:
    """Prepare a pickle of MMSA's, a label.csv, a table or a folder; settings as of `uacs prepare`."""
    return _prepare(source, Path(out), PrepareSettings(**settings))


def open_dataset(folder: str | Path) -> PreparedDataset:
    """A prepared dataset: `.info`, `.samples("test")`; raises `BadInput` if none lies there."""
    return PreparedDataset(folder)


def load_ubm(folder: str | Path, **options) -> SmallPredictor:
    """A trained small model: `.predict(samples)` gives score, uncertainty and probabilities of each."""
    return SmallPredictor(folder, **options)


def load_mllm(spec: str, dataset: PreparedDataset, **settings) -> LargeModel:
    """A large model for a dataset's range and language: `.answer(samples)`; settings as under `mllm` of a run."""
    info = dataset.info
    return _build_mllm(spec, MllmSettings(**settings), info.score_range, info.language, info.name)


def answer(
    samples: list[Sample],
    small: SmallPredictor,
    large: LargeModel,
    thresholds: Thresholds | None = None,
    chunk_size: int = 32,
) -> pa.Table:
    """The outcome table of Algorithm 1, a row a sample in order.

    Without thresholds everyone is asked everything and nothing is decided yet, as `uacs calibrate` does it:
    `calibrate` makes thresholds of the table, `route` decides by them.
    """
    if thresholds and thresholds.estimator not in (None, small.estimator):
        raise Refused(f"the thresholds were made with estimator {thresholds.estimator}, the UBM has {small.estimator}")
    outputs = small.predict(samples)
    u = np.array([output.u for output in outputs])

    def answers(chunks: list[Chunk]) -> list[ChunkAnswer]:
        return [answer_chunk(large, chunk) for chunk in chunks]

    if thresholds is None:
        asked = ask(samples, outputs, np.isfinite(u), float("nan"), "conflict", chunk_size, answers)
    else:
        due = routing.escalated(doubts(outputs, thresholds.deferral), thresholds.tau_small)
        asked = ask(samples, outputs, due, thresholds.tau_large, "due", chunk_size, answers)
    table = outcomes.build(samples, outputs, asked.large, asked.verify)
    return table if thresholds is None else route(table, thresholds)


def calibrate(table: pa.Table, lambda_: float = 0.5, beta: float = 0.0) -> Thresholds:
    """Eq. 18-19 on a labelled table in which both models answered."""
    return of_table(table, lambda_, beta)


def choose(
    table: pa.Table, dataset: str, rule: str = "exact", objective: Objective | None = None, **settings
) -> Thresholds:
    """Thresholds by one of `uacs tune thresholds`' rules, on a labelled table in which everyone was asked.

    dataset names the metrics. rule is exact, means, mean, gaussian, quantile, learned or risk; settings are those
    of `uacs.cascade.rules.RuleSettings`, as share=0.2. Of exact and learned, objective says what is wanted.
    """
    recording = Recording.of(table, dataset)
    return rules.choose(rule, recording, RuleSettings(**settings), objective or Objective(), prices(table))


def route(table: pa.Table, thresholds: Thresholds) -> pa.Table:
    """The table with stage, answer_from, prediction and status as these thresholds make them (Eq. 13-17)."""
    return outcomes.with_decision(table, thresholds.tau_small, thresholds.tau_large, thresholds.deferral)


def replay(table: pa.Table, tau_small, tau_large, deferral: Deferral | None = None) -> Replay:
    """Algorithm 1 over recorded answers, for one pair of thresholds or (K,) of each: `.decision`, `.missing_*`.

    Learned thresholds bring a `deferral`, whose gain takes u_small's place in Eq. 13.
    """
    return _replay(Answers.of(table), tau_small, tau_large, outcomes.doubt(table, deferral))


def score(table: pa.Table, dataset: str, system: str = "prediction") -> dict[str, float]:
    """All metrics by a dataset's rules, of the samples that have a label and an answer in column `system`.

    `n` counts them; system is prediction, y_small, y_large or y_verify.
    """
    prediction, label = column(table, system), column(table, "label")
    known = np.isfinite(prediction) & np.isfinite(label)
    return metrics.score(prediction[known], label[known], dataset)


def read_run(folder: str | Path) -> pa.Table:
    """All outcomes of a run's folder, sorted by sample id; `.to_pandas()` makes a data frame of them."""
    from uacs.cluster.runs import Run

    return Run.open(Path(folder)).table()
