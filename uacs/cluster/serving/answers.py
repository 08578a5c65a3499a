"""From what the models said to what goes back."""

import math

import numpy as np

from uacs.cascade.outcomes import name_of
from uacs.cascade.thresholds import Thresholds
from uacs.cascade.uncertainty import polarity
from uacs.cluster.serving.cascade import Answered
from uacs.records import Polarity, Sample
from uacs.wire import Answer, Models, Seconds


def answer(
    answered: Answered, i: int, sample: Sample, request_id: str, thresholds: Thresholds, models: Models, total: float
) -> Answer:
    """The answer to the sample at place i, as HTTP has it; total is in seconds."""
    small, large, verify = answered.small[i], answered.large[i], answered.verify[i]
    decision, lost = answered.decision, answered.lost.get(i)
    prediction = _or_none(decision.prediction[i])
    failed = small.output.error
    # what a stage said that cannot be read (`unparsable`) is told as well, though nothing was lost
    why = failed or (str(lost) if lost else large.error or verify.error)
    return Answer(
        request_id=request_id,
        sample_id=sample.sample_id,
        prediction=prediction,
        polarity=None if prediction is None else polarity_of(prediction),
        stage=name_of(int(decision.stage[i])),
        answer_from=name_of(int(decision.answer_from[i])),
        status="error" if failed else "degraded" if lost or decision.degraded[i] else "ok",
        error=why,
        missing=list(small.missing),
        y_small=_or_none(small.output.y),
        u_small=_or_none(small.output.u),
        y_large=_or_none(large.y),
        u_large=_or_none(large.u),
        y_verify=_or_none(verify.y),
        u_verify=_or_none(verify.u),
        tau_small=thresholds.tau_small,
        tau_large=thresholds.tau_large,
        seconds=Seconds(
            total=total,
            small=None if failed else small.output.seconds,
            large=_or_none(large.seconds),
            verify=_or_none(verify.seconds),
        ),
        models=models,
    )


def fault(sample_id: str, why: str, request_id: str, thresholds: Thresholds, models: Models, total: float) -> Answer:
    """The answer to a sample that has none."""
    return Answer(
        request_id=request_id,
        sample_id=sample_id,
        prediction=None,
        status="error",
        error=why,
        tau_small=thresholds.tau_small,
        tau_large=thresholds.tau_large,
        seconds=Seconds(total=total),
        models=models,
    )


def polarity_of(score: float) -> str:
    """In words.

    >>> polarity_of(-0.4)
    'negative'
    """
    return Polarity(int(polarity(np.array(score)))).name.lower()


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
