"""How a cascade fails without an error: it asks about nearly everything, about the wrong samples, or to no end.

`signatures` reads the signs of that off one evaluation. Each is a sentence with the numbers and what to
do; a table that is empty or without labels has nothing to say on what needs labels.
"""

import math

import numpy as np
import pyarrow as pa
from scipy.stats import fisher_exact

from uacs import metrics
from uacs.cascade.outcomes import column
from uacs.cascade.paired import mcnemar

# At four fifths of the large model's cost the cascade no longer pays for its second model; the paper's
# own runs need 0.33 to 0.57.
NEAR_LARGE = 0.8
# With fewer labelled samples or wrong answers a sound routing often fails Fisher's test. At these sizes one whose
# samples sent on are wrong three times as often as those kept failed it in 3 to 7 % of some hundred simulated runs.
ENOUGH_LABELLED = 200
ENOUGH_WRONG = 30
ENOUGH = 10  # samples in either group, or second looks
CHANCE = 0.05
# Models print one decimal: within half of it an answer is the same answer. The rest is for 1.05 - 1.0 > 0.05.
SAME_ANSWER = 0.05 + 1e-9
MOSTLY_COPIED = 0.9

SENT_ON = ("large", "average", "verify")

Compared = dict[str, dict[str, dict[str, float]]]


def signatures(table: pa.Table, dataset: str, cost: dict[str, float | None], compared: Compared | None) -> list[str]:
    """What points to over-escalation, under-escalation or idle second looks; empty where nothing does.

    table is a decided outcome table; cost (model seconds of `large` and `uacs`) and compared are as
    `cascade/summary.py` makes them.
    """
    return [
        *over_escalation(table, cost),
        *under_escalation(table, dataset, compared),
        *copied_answers(table),
        *harmful_second_looks(table, dataset),
    ]


def over_escalation(table: pa.Table, cost: dict[str, float | None]) -> list[str]:
    """The cascade takes nearly as many model seconds as the large model alone; untimed, nearly as many calls."""
    mend = "raise λ or β, or check that the thresholds were calibrated on data like this"
    ours, large = _number(cost.get("uacs")), _number(cost.get("large"))
    if math.isfinite(ours) and large > 0:
        if ours < NEAR_LARGE * large:
            return []
        share = f"{ours:.3g} of the {large:.3g} model seconds that the large model needs alone ({ours / large:.0%})"
        return [f"over-escalation: the cascade takes {share}; {mend}"]
    stage = _stages(table)
    looked = np.array(table["verify_status"].to_pylist(), object) != "not_asked"
    escalated, twice = int(_sent_on(stage).sum()), int(np.sum((stage == "verify") & looked))
    if not len(stage) or escalated + twice < NEAR_LARGE * len(stage):
        return []
    calls = f"{escalated} first and {twice} second calls of the large model for {_samples(len(stage))}"
    return [f"over-escalation: the cascade makes {calls}; {mend}"]


def under_escalation(table: pa.Table, dataset: str, compared: Compared | None) -> list[str]:
    """Too few samples are sent on, or not those that the small model gets wrong.

    The large model's own Acc2 is the measure where it is known; elsewhere the small model's wrong answers
    must be more frequent among the samples sent on than among those kept, by Fisher's exact test.
    """
    stage = _stages(table)
    right = _right(table, "y_small", dataset)
    counted = np.isfinite(right) & ((stage == "small") | _sent_on(stage))
    sent, wrong = _sent_on(stage)[counted], right[counted] == 0
    warnings = []
    if len(stage) and not _sent_on(stage).any() and wrong.any():
        warnings.append(
            f"under-escalation: nothing was sent on, while the small model has the polarity of {wrong.sum()} of "
            f"{_samples(len(wrong))} wrong; lower λ or β, or calibrate on data like this"
        )
    if compared:
        warnings += _below_large(compared)
    elif len(wrong) >= ENOUGH_LABELLED and wrong.sum() >= ENOUGH_WRONG and min(sent.sum(), (~sent).sum()) >= ENOUGH:
        warnings += _not_singled_out(sent, wrong)
    return warnings


def _below_large(compared: Compared) -> list[str]:
    acc2 = compared.get("large", {}).get("acc2", {})
    difference, low, high = (100 * _number(acc2.get(name)) for name in ("difference", "low", "high"))
    if not high < 0:
        return []
    return [
        f"under-escalation: the cascade's Acc2 lies {-difference:.1f} points below the large model's "
        f"(95 % interval {low:.1f} to {high:.1f}); lower λ or β, or check that the small model's uncertainty "
        "tells its wrong answers from its right ones"
    ]


def _not_singled_out(sent: np.ndarray, wrong: np.ndarray) -> list[str]:
    table = [[(sent & wrong).sum(), (sent & ~wrong).sum()], [(~sent & wrong).sum(), (~sent & ~wrong).sum()]]
    p = float(fisher_exact(table, alternative="greater").pvalue)
    if p <= CHANCE:
        return []
    return [
        f"under-escalation: the small model is wrong on {wrong[sent].mean():.0%} of the {_samples(sent.sum())} sent "
        f"on and on {wrong[~sent].mean():.0%} of the {(~sent).sum()} kept (Fisher's p {p:.2f}), so its uncertainty "
        "does not single out wrong answers; lower λ or β, or train the small model on data like this"
    ]


def copied_answers(table: pa.Table) -> list[str]:
    """Second looks that were due and repeat an answer which the prompt showed them.

    One that repeats both is counted as the large model's.
    """
    due = _stages(table) == "verify"
    small, large, verify = (column(table, name)[due] for name in ("y_small", "y_large", "y_verify"))
    looked = int(np.isfinite(verify).sum())
    as_large = np.abs(verify - large) <= SAME_ANSWER
    as_small = (np.abs(verify - small) <= SAME_ANSWER) & ~as_large
    copied = int(as_large.sum() + as_small.sum())
    if looked < ENOUGH or copied < MOSTLY_COPIED * looked:
        return []
    return [
        f"stage 3 copies: {copied} of {looked} second looks repeat an answer that they were shown "
        f"({as_large.sum()} the large model's, {as_small.sum()} the small model's); the prompt may induce copying: "
        "reword it, or do without stage 3"
    ]


def harmful_second_looks(table: pa.Table, dataset: str) -> list[str]:
    """Second looks that were due and are right less often than the large model's first answers to the same samples."""
    due = _stages(table) == "verify"
    test = mcnemar(_right(table, "y_large", dataset)[due], _right(table, "y_verify", dataset)[due])
    if test.p >= CHANCE or test.only_second >= test.only_first:
        return []
    return [
        f"stage 3 costs accuracy: second looks turned {test.only_first} right answers of the large model wrong and "
        f"{test.only_second} wrong ones right (McNemar's p {test.p:.3f}); reword the prompt, or do without stage 3"
    ]


def _stages(table: pa.Table) -> np.ndarray:
    return np.array(table["stage"].to_pylist(), object)


def _sent_on(stage: np.ndarray) -> np.ndarray:
    return np.isin(stage, SENT_ON)


def _right(table: pa.Table, answer: str, dataset: str) -> np.ndarray:
    """1 where the answer's polarity is right by the dataset's Acc2, 0 where wrong, NaN where it does not count."""
    return metrics.per_sample(column(table, answer), column(table, "label"), dataset)["acc2"]


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _samples(count: int) -> str:
    return f"{count} sample" if count == 1 else f"{count} samples"
