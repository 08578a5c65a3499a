"""The outcome table: built from answers, decided by thresholds, read as arrays."""

import math

import numpy as np
import pyarrow as pa

from uacs.cascade import routing
from uacs.cascade.deferral import Deferral
from uacs.records import OUTCOME_SCHEMA, STAGES, TOLD, LargeOutput, Polarity, Sample, SmallOutput

SYSTEMS = {"uacs": "prediction", "small": "y_small", "large": "y_large"}
"""Whose answers can be scored and compared, and the column that holds them."""


def build(
    samples: list[Sample], small: list[SmallOutput], large: list[LargeOutput], verify: list[LargeOutput]
) -> pa.Table:
    """One row a sample from all that was answered, in order; nothing is decided yet."""
    rows = []
    for sample, s, l, v in zip(samples, small, large, verify, strict=True):
        rows.append(
            {
                "sample_id": sample.sample_id,
                "label": sample.label,
                "y_small": _or_null(s.y),
                "u_small": _or_null(s.u),
                "p_small": None if s.error else list(s.p),
                "y_large": _or_null(l.y),
                "u_large": _or_null(l.u),
                "large_status": l.status,
                "y_verify": _or_null(v.y),
                "u_verify": _or_null(v.u),
                "verify_status": v.status,
                "signals": list(_signals(s, l, v).items()),
                "stage": None,
                "answer_from": None,
                "prediction": None,
                "seconds_small": None if s.error else s.seconds,
                "seconds_large": _or_null(l.seconds),
                "seconds_verify": _or_null(v.seconds),
                "status": "error" if s.error else "ok",
                "error": _error(sample, s, l, v),
            }
        )
    return pa.Table.from_pylist(rows, schema=OUTCOME_SCHEMA)


def _error(sample: Sample, small: SmallOutput, large: LargeOutput, verify: LargeOutput) -> str | None:
    """What went wrong with a sample, which may be answered all the same: a clip that does not decode is lost."""
    fault = sample.footage and sample.footage.fault
    if small.error:
        return f"{small.error} ({fault})" if fault else small.error
    lost = f"sample '{sample.sample_id}': {fault}; answered without it" if fault else None
    return large.error or verify.error or lost


def _signals(small: SmallOutput, large: LargeOutput, verify: LargeOutput) -> dict[str, float]:
    """All of a sample's signals; stage 3's have the names of stage 2's behind `verify_`."""
    told = {} if small.told is None else {TOLD: small.told}
    return {
        **small.signals,
        **told,
        **large.signals,
        **{f"verify_{name}": value for name, value in verify.signals.items()},
    }


def with_decision(table: pa.Table, tau_small: float, tau_large: float, deferral: Deferral | None = None) -> pa.Table:
    """The table with stage, answer_from, prediction and status as these thresholds make them."""
    answers = {name: column(table, name) for name in ("y_small", "u_small", "y_large", "u_large", "y_verify")}
    decision = routing.decide(**answers, tau_small=tau_small, tau_large=tau_large, doubt=doubt(table, deferral))
    status = np.select([decision.stage == routing.FAILED, decision.degraded], ["error", "degraded"], "ok")
    columns = {
        "stage": [name_of(code) for code in decision.stage],
        "answer_from": [name_of(code) for code in decision.answer_from],
        "prediction": [_or_null(value) for value in decision.prediction.tolist()],
        "status": status.tolist(),
    }
    for name, values in columns.items():
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
    return table


def doubt(table: pa.Table, deferral: Deferral | None) -> np.ndarray:
    """What Eq. 13 holds tau_small against, (N,): u_small, or a learned deferral's gain."""
    y, u = column(table, "y_small"), column(table, "u_small")
    return u if deferral is None else deferral.gain(y, u, probabilities(table))


def column(table: pa.Table, name: str) -> np.ndarray:
    """A nullable number column as a float array (N,), null as NaN."""
    return np.array(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False), float)


def probabilities(table: pa.Table) -> np.ndarray:
    """p_small as (N, 3), NaN where the small model did not answer."""
    rows = table["p_small"].to_pylist()
    return np.array([row or [math.nan] * len(Polarity) for row in rows], float).reshape(len(rows), len(Polarity))


def name_of(code: int) -> str | None:
    """The stage's name at a position in `STAGES`; None for a sample that nobody settled."""
    return STAGES[code] if code >= 0 else None


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value
