"""What a search goes by: a split about which both models were asked everything, with its labels."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from uacs.cascade.outcomes import column, probabilities
from uacs.cascade.replay import Answers
from uacs.cascade.uncertainty import polarity
from uacs.errors import BadInput
from uacs.records import Polarity


@dataclass(frozen=True)
class Recording:
    """N samples' recorded answers, label (N,) and p_small (N, 3); NaN where there is none.

    twice (N,) says whose second look costs something where it is due: recorded answers may have none to give.
    """

    dataset: str
    answers: Answers
    label: np.ndarray
    p_small: np.ndarray
    twice: np.ndarray

    @classmethod
    def of(cls, table: pa.Table, dataset: str) -> "Recording":
        """Of an outcome table in which the large model was asked about everyone (`dataset` names the metrics).

        Raises `BadInput` where it was not, where it answered nobody, or where the labels are of one polarity.
        """
        answers, label = Answers.of(table), column(table, "label")
        status = np.array(table["large_status"].to_pylist(), object)
        known = np.isfinite(label) & np.isfinite(answers.u_small)
        _refuse_unusable(status, known, np.isfinite(answers.u_large), label)
        second = np.array(table["verify_status"].to_pylist(), object)
        twice = (second != "unavailable") & ~((second == "not_asked") & _conflict(answers))
        return cls(dataset, answers, label, probabilities(table), twice)

    @property
    def known(self) -> np.ndarray:
        """Which samples can be scored: those with a label and a small answer, (N,)."""
        return np.isfinite(self.label) & np.isfinite(self.answers.y_small) & np.isfinite(self.answers.u_small)

    def subset(self, chosen: np.ndarray) -> "Recording":
        """Some of the samples, by mask or position."""
        answers = Answers(**{name: values[chosen] for name, values in vars(self.answers).items()})
        return replace(
            self, answers=answers, label=self.label[chosen], p_small=self.p_small[chosen], twice=self.twice[chosen]
        )

    def with_small(self, y: np.ndarray, u: np.ndarray, p: np.ndarray) -> "Recording":
        """The same samples as another UBM answers them.

        Second looks were given to the recorded UBM's answers and stand for no others: y_large stands in for
        them, and they are paid for all the same.
        """
        nobody = np.full(len(y), np.nan)
        answers = replace(self.answers, y_small=y, u_small=u, y_verify=nobody)
        return replace(self, answers=answers, p_small=p, twice=np.ones(len(y), bool))


def _conflict(answers: Answers) -> np.ndarray:
    return np.isfinite(answers.u_large) & (polarity(answers.y_small) != polarity(answers.y_large))


def _refuse_unusable(status: np.ndarray, known: np.ndarray, answered: np.ndarray, label: np.ndarray) -> None:
    if not known.any():
        raise BadInput("no sample has both a label and a small answer, so there is nothing to search by")
    if never := int(np.sum(status[known] == "not_asked")):
        raise BadInput(
            f"{never} of {known.sum()} labelled samples were never asked of the large model; search over a run of "
            "`uacs calibrate`, and test on one of `uacs evaluate --all-stages`"
        )
    if not answered[known].any():
        raise BadInput("the large model answered no labelled sample; see column error of the outcomes")
    spoken = polarity(label[known])
    for side in (Polarity.NEGATIVE, Polarity.POSITIVE):
        if not (spoken == side).any():
            missing = "negative" if side == Polarity.NEGATIVE else "positive"
            raise BadInput(
                f"no label among {known.sum()} is {missing}: with one polarity there is nothing to tell apart"
            )
