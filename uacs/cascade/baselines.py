"""What the cascade must beat: each model alone, and asking about as many samples at random."""

import numpy as np
import pyarrow as pa

from uacs import metrics
from uacs.cascade import routing
from uacs.cascade.outcomes import column
from uacs.cascade.replay import Answers

DRAWS = 100
COMPARED = ("acc2", "mae")

Comparison = dict[str, dict[str, float]]


def random_routing(answers: Answers, asked: int, tau_large: float, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Predictions (draws, N) when `asked` random samples are escalated; stages 2 and 3 stay as they are.

    Needs a large answer for every sample (`--all-stages`).
    """
    draw = np.random.default_rng(seed)
    predictions = []
    for _ in range(draws):
        mask = np.zeros(len(answers.y_small), bool)
        mask[draw.permutation(len(mask))[:asked]] = True
        predictions.append(routing.settle(mask, **vars(answers), tau_large=tau_large).prediction)
    return np.stack(predictions)


def compare(table: pa.Table, dataset: str, tau_large: float) -> dict[str, Comparison] | None:
    """The cascade against `small`, `large` and `random` routing at its own share, on the same samples.

    For each rival and metric: its `value`, the `difference` cascade minus rival, and the 95 % paired
    bootstrap interval `low` to `high` of that, over the samples that both answered. None unless the large
    model was asked about every labelled sample.
    """
    label, cascade = column(table, "label"), column(table, "prediction")
    answers = Answers.of(table)
    known = np.isfinite(label) & np.isfinite(cascade)
    if not known.any() or "not_asked" in np.array(table["large_status"].to_pylist(), object)[known]:
        return None
    answers = Answers(**{name: values[known] for name, values in vars(answers).items()})
    label, cascade = label[known], cascade[known]
    asked = int(np.sum(np.array(table["stage"].to_pylist(), object)[known] != "small"))
    draws = random_routing(answers, asked, tau_large)
    rivals = {"small": answers.y_small[None], "large": answers.y_large[None], "random": draws}
    ours = metrics.per_sample(cascade, label, dataset)
    return {name: _against(ours, rival, label, dataset) for name, rival in rivals.items()}


def _against(ours: dict[str, np.ndarray], rival: np.ndarray, label: np.ndarray, dataset: str) -> Comparison:
    """`rival` is (draws, N); its draws are averaged sample by sample, which both metrics allow."""
    theirs = [metrics.per_sample(prediction, label, dataset) for prediction in rival]
    result = {}
    for name in COMPARED:
        values = np.mean([scores[name] for scores in theirs], axis=0)
        low, high = metrics.bootstrap(ours[name] - values)
        difference = float(np.nanmean(ours[name] - values))
        result[name] = {"value": float(np.nanmean(values)), "difference": difference, "low": low, "high": high}
    return result
