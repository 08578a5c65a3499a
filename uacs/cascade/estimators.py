"""How unsure the small model is, said in nine ways: whichever is taken stands as u_small, from the prompt to Eq. 19.

    cbe           entropy of the three classes (Eq. 8), nats: the paper's
    ptd           what a head of its own expects |y - label| to be, in the score's units (Section III-C4)
    ev            variance of the scores of an ensemble, in the score's units squared (Section III-C4)
    temperature   the entropy, the classes' logits divided by one number fitted on split valid, nats
    error         probability that the score's polarity is wrong, learned on split valid from what follows, and cbe
    miss          what |y - label| is expected to be, in the score's units, learned on split valid from cbe, margin,
                  strength, at_odds and ptd: for who routes for the intensity
    margin        1 less the lead of the likeliest class over the next
    strength      how much the score lacks to the end of its range: the |score| rule, turned round
    at_odds       probability that the classifier gives to other polarities than the score's: the two heads disagree

All are 0 or more, and more is less sure. Of these ptd costs a head, ev as many models as the ensemble has, and the
others nothing. `temperature`, `error` and `miss` are fitted once, by the UBM's training.
"""

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from scipy.special import expit, log_softmax, softmax

from uacs import metrics
from uacs.cascade.uncertainty import entropy, polarity, training_class

ESTIMATORS = ("cbe", "ptd", "ev", "temperature", "error", "miss", "margin", "strength", "at_odds")
IN_NATS = ("cbe", "temperature")
FREE = ("cbe", "margin", "strength", "at_odds")
"""Those that every answer says."""
LEARNED = ("temperature", "error", "miss")
"""Those that have something to learn from split valid."""
LEAST = 1e-300  # of a probability, whose logarithm is a logit
HOTTEST = 20.0  # temperature; 1 / 20 the coldest
KNOTS = 33
"""Quantiles by which an estimator is put in nats."""
RIDGE = 1.0  # scikit-learn's C of the logistic regression, on standardised signals


@dataclass(frozen=True)
class SmallAnswers:
    """What the small model says of N samples, and what its answers lie within.

    y (N,) scores; p (N, 3) by `Polarity`; ptd and ev (N,), None where there is no such head or ensemble; top is the
    greatest |score| of the range.
    """

    y: np.ndarray
    p: np.ndarray
    top: float
    ptd: np.ndarray | None = None
    ev: np.ndarray | None = None


FORESEEING = (*FREE, "ptd")
"""What `miss` is learned from."""
PENALTY = 10.0  # ridge, on standardised signals


class Linear(BaseModel):
    """A sum of weighted signals, in their own units: log odds of a wrong polarity, or the error expected."""

    model_config = ConfigDict(extra="forbid")

    intercept: FiniteFloat
    weights: dict[str, FiniteFloat]


class Fitted(BaseModel):
    """What split valid has taught about a UBM's doubts; nothing of it changes an answer."""

    model_config = ConfigDict(extra="forbid")

    temperature: float = Field(1.0, gt=0)
    error: Linear
    miss: Linear | None = None
    quantiles: dict[str, list[FiniteFloat]] = {}
    members: int = Field(0, ge=0, description="UBMs of the ensemble whose quantiles are here")

    def with_ensemble(self, ev: np.ndarray, members: int) -> "Fitted":
        """The same, and what the variances (N,) of so many members' scores teach; nothing else moves."""
        return self.model_copy(update={"quantiles": self.quantiles | {"ev": _quantiles(ev)}, "members": members})

    def read_by(self, estimator: str) -> dict:
        """What one estimator goes by, and another's learning leaves as it is."""
        of = {name: self.quantiles.get(name) for name in ("cbe", estimator)}
        own = {"temperature": self.temperature, "error": self.error.model_dump()}
        own["miss"] = self.miss and self.miss.model_dump()
        return {"quantiles": of, "learned": own.get(estimator)}

    def in_nats(self, estimator: str, u: np.ndarray) -> np.ndarray:
        """The entropies that are as rare among validation samples as these u (N,): what a large model is told.

        Its prompt speaks of nats, its adapter has learned what entropies mean, and u_large stands beside it.
        """
        if estimator in IN_NATS:
            return u
        knots, group = np.unique(self.quantiles[estimator], return_inverse=True)
        return np.interp(u, knots, np.bincount(group, self.quantiles["cbe"]) / np.bincount(group))


def estimates(answers: SmallAnswers, fitted: Fitted | None) -> dict[str, np.ndarray]:
    """Each estimator's u (N,), by name, of those that there is what they need for."""
    found = _free(answers)
    if fitted:
        found["temperature"] = entropy(softmax(_logits(answers.p) / fitted.temperature, axis=-1))
        found["error"] = expit(_total(found, fitted.error))
    given = {"ptd": answers.ptd, "ev": answers.ev}
    found |= {name: values for name, values in given.items() if values is not None}
    if fitted and fitted.miss and answers.ptd is not None:
        found["miss"] = np.maximum(_total(found, fitted.miss), 0)
    return {name: found[name] for name in ESTIMATORS if name in found}


def fit(answers: SmallAnswers, label: np.ndarray, dataset: str) -> Fitted:
    """What N labelled samples (N,) teach; polarities are right or wrong as the dataset's Acc2 has it."""
    error, miss = _learned(answers, label, dataset), _foreseen(answers, label)
    learned = Fitted(temperature=temperature(answers.p, label), error=error, miss=miss)
    found = estimates(answers, learned).items()
    return learned.model_copy(update={"quantiles": {name: _quantiles(u) for name, u in found}})


def largest(estimator: str, top: float) -> float:
    """What u is at most, or hardly ever above, where scores lie within [-top, top]: the end of a scale."""
    most = {"cbe": np.log(3), "temperature": np.log(3), "ptd": top, "ev": top**2 / 4, "strength": top, "miss": top}
    return float(most.get(estimator, 1.0))


def known(name: str) -> str:
    """The name, if it is an estimator's; raises `ValueError` with all of them."""
    if name not in ESTIMATORS:
        raise ValueError(f"no estimator '{name}'; there is {', '.join(ESTIMATORS)}")
    return name


def temperature(p: np.ndarray, label: np.ndarray) -> float:
    """By what the logits are to be divided for the labels' classes (Eq. 6) to be likeliest; in [1 / 20, 20].

    p is (N, 3), label (N,). Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".

    >>> sure_and_half_right = np.array([[0.0, 0.9, 0.1], [0.0, 0.9, 0.1]])
    >>> temperature(sure_and_half_right, np.array([-1.0, 1.0])) > 1
    True
    """
    from scipy.optimize import minimize_scalar  # which commands need not wait for

    logits, right = _logits(p), training_class(label)

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=-1)[np.arange(len(right)), right].mean())

    ends = (-np.log(HOTTEST), np.log(HOTTEST))
    return float(np.exp(minimize_scalar(loss, bounds=ends, method="bounded").x))


def _quantiles(u: np.ndarray) -> list[float]:
    return np.quantile(u, np.linspace(0, 1, KNOTS)).tolist()


def _free(answers: SmallAnswers) -> dict[str, np.ndarray]:
    """What the answer alone says, in the order of `FREE`."""
    p, y = answers.p, answers.y
    ordered = np.sort(p, axis=-1)
    own = np.take_along_axis(p, polarity(y)[..., None], axis=-1)[..., 0]
    return {
        "cbe": entropy(p),
        "margin": 1 - (ordered[..., -1] - ordered[..., -2]),
        "strength": np.maximum(answers.top - np.abs(y), 0),
        "at_odds": np.maximum(1 - own, 0),
    }


def _learned(answers: SmallAnswers, label: np.ndarray, dataset: str) -> Linear:
    """Where all polarities are right, or all wrong, nothing sets the wrong ones apart: their share, weighed by one."""
    from sklearn.linear_model import LogisticRegression  # half a second, which workers need not wait

    right = metrics.per_sample(answers.y, label, dataset)["acc2"]
    counted = np.isfinite(right)
    signals = np.stack([values[counted] for values in _free(answers).values()], axis=-1)
    wrong = right[counted] == 0
    weights, mean = np.zeros(len(FREE)), signals.mean(axis=0) if len(signals) else np.zeros(len(FREE))
    share = (wrong.sum() + 1) / (len(wrong) + 2)
    intercept = np.log(share / (1 - share))
    if 0 < wrong.sum() < len(wrong):
        spread = signals.std(axis=0)
        spread[spread < 1e-9] = np.inf  # a constant says nothing
        learned = LogisticRegression(C=RIDGE).fit((signals - mean) / spread, wrong)
        weights, intercept = learned.coef_[0] / spread, learned.intercept_[0]
    return Linear(intercept=float(intercept - weights @ mean), weights=dict(zip(FREE, weights.tolist(), strict=True)))


def _foreseen(answers: SmallAnswers, label: np.ndarray) -> Linear | None:
    """Of the absolute error; None without the head that it is learned from.

    Each signal says more where it is less sure, so none counts the other way: of the 229 validation clips of MOSI a
    free fit learns an order that is worse than none.
    """
    from sklearn.linear_model import Ridge

    if answers.ptd is None or not len(label):
        return None
    found = _free(answers) | {"ptd": answers.ptd}
    signals, error = np.stack([found[name] for name in FORESEEING], axis=-1), np.abs(answers.y - label)
    mean, spread = signals.mean(axis=0), signals.std(axis=0)
    spread[spread < 1e-9] = np.inf  # a constant says nothing
    weights = Ridge(PENALTY, positive=True).fit((signals - mean) / spread, error).coef_ / spread
    return Linear(
        intercept=float(error.mean() - weights @ mean), weights=dict(zip(FORESEEING, weights.tolist(), strict=True))
    )


def _total(signals: dict[str, np.ndarray], model: Linear) -> np.ndarray:
    total = np.full(signals["cbe"].shape, model.intercept)
    for name, weight in model.weights.items():
        total += weight * signals[name]
    return total


def _logits(p: np.ndarray) -> np.ndarray:
    """Up to a number that is the same for all classes."""
    return np.log(np.maximum(p, LEAST))
