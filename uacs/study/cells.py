"""One seed's small model beside one large one: everything that both have answered, as arrays."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from uacs.cascade import routing
from uacs.cascade.estimators import ESTIMATORS
from uacs.cascade.outcomes import column
from uacs.cascade.recording import Recording
from uacs.cascade.replay import Answers
from uacs.cascade.thresholds import Fit, fit
from uacs.errors import Refused
from uacs.records import Decision, SmallOutput

NAN = float("nan")


@dataclass(frozen=True)
class Answered:
    """A split's N samples: label, y and u_large ... (N,), p (N, 3), NaN where there is no answer.

    u has every estimator's doubts (N,) and told the same in nats. y_verify has the second looks (N,) by what was said
    to the large model: an estimator's doubts in numbers, or hints:WORDING.
    """

    sample_ids: list[str]
    label: np.ndarray
    y: np.ndarray
    p: np.ndarray
    u: dict[str, np.ndarray]
    told: dict[str, np.ndarray]
    y_large: np.ndarray
    u_large: np.ndarray
    seconds_small: np.ndarray
    seconds_large: np.ndarray
    y_verify: dict[str, np.ndarray] = field(default_factory=dict)
    seconds_verify: np.ndarray | None = None

    def answers(self, estimator: str, said: str | None = None) -> Answers:
        """As Algorithm 1 takes them, with an estimator's doubts; second looks are its own unless others are named."""
        nobody = np.full(len(self.y), NAN)
        again = self.y_verify.get(said or estimator, nobody)
        return Answers(self.y, self.u[estimator], self.y_large, self.u_large, again)

    def small(self, i: int, estimator: str) -> SmallOutput:
        """The small model's answer to the sample at a place."""
        told = None if estimator == "cbe" else float(self.told[estimator][i])
        return SmallOutput(float(self.y[i]), float(self.u[estimator][i]), tuple(self.p[i].tolist()), told=told)


@dataclass(frozen=True)
class Cell:
    """A seed's UBM and a large model, on both splits; `like` is the dataset whose rules hold."""

    seed: int
    name: str
    like: str
    valid: Answered
    test: Answered

    @classmethod
    def of(
        cls,
        seed: int,
        name: str,
        like: str,
        small: dict[str, pa.Table],
        by_ev: dict[str, pa.Table],
        large: dict[str, pa.Table],
    ) -> "Cell":
        """Of tables by split, each sorted by sample id; raises `Refused` where they are of other samples."""
        return cls(seed, name, like, *(_answered(small[s], by_ev.get(s), large[s]) for s in ("valid", "test")))

    def with_looks(self, y_verify: dict[str, np.ndarray], seconds: np.ndarray) -> "Cell":
        """With second looks at the test split."""
        return replace(self, test=replace(self.test, y_verify=y_verify, seconds_verify=seconds))

    @property
    def estimators(self) -> list[str]:
        """Those that the UBM has, in the order of `ESTIMATORS`."""
        return [name for name in ESTIMATORS if name in self.test.u]

    def thresholds(self, estimator: str, lambda_: float, beta: float = 0.0) -> tuple[float, float]:
        """tau_small and tau_large by Eq. 18-19, of the validation split."""
        (tau_small, _), (tau_large, _) = self.fits(estimator, lambda_, beta)
        return tau_small, tau_large

    def fits(self, estimator: str, lambda_: float, beta: float = 0.0) -> list[tuple[float, Fit]]:
        """Both models' thresholds, and what they are made of."""
        found = []
        for u, y in ((self.valid.u[estimator], self.valid.y), (self.valid.u_large, self.valid.y_large)):
            known = np.isfinite(u) & np.isfinite(y) & np.isfinite(self.valid.label)
            tau, made_of, _ = fit(u[known], y[known], self.valid.label[known], lambda_, beta)
            found.append((tau, made_of))
        return found

    def decide(self, estimator: str, taus: tuple[float, float], said: str | None = None) -> Decision:
        """Algorithm 1 on the test split."""
        return routing.decide(**vars(self.test.answers(estimator, said)), tau_small=taus[0], tau_large=taus[1])

    def settle(self, asked: np.ndarray, estimator: str, tau_large: float) -> Decision:
        """Stages 2 and 3 on the test split for those who are asked, a mask (N,)."""
        return routing.settle(asked, **vars(self.test.answers(estimator)), tau_large=tau_large)

    def most_doubtful(self, doubt: np.ndarray, count: int) -> np.ndarray:
        """A mask (N,) of so many test samples whose doubt (N,) is greatest; of equals the first."""
        ranked = np.where(np.isfinite(doubt) & np.isfinite(self.test.y), doubt, -np.inf)
        mask = np.zeros(len(doubt), bool)
        mask[np.argsort(-ranked, kind="stable")[:count]] = True
        return mask & np.isfinite(ranked)

    @cached_property
    def recording(self) -> Recording:
        """The validation split as rules learn from it, with entropy for doubt."""
        valid = self.valid
        answers = valid.answers("cbe")
        return Recording(self.like, answers, valid.label, valid.p, np.ones(len(valid.y), bool))


def _answered(small: pa.Table, by_ev: pa.Table | None, large: pa.Table) -> Answered:
    ids = small["sample_id"].to_pylist()
    for other in filter(None, (by_ev, large)):
        if other["sample_id"].to_pylist() != ids:
            raise Refused("the small and the large model's answers are to other samples; begin the study anew")
    rows, said = _by_estimator(small, by_ev, "signals"), _by_estimator(small, by_ev, "told")
    there = [name for name in ESTIMATORS if any(name in row for row in rows)]
    return Answered(
        sample_ids=ids,
        label=column(small, "label"),
        y=column(small, "y"),
        p=np.array([row or [NAN] * 3 for row in small["p"].to_pylist()], float),
        u={name: np.array([row.get(name, NAN) for row in rows]) for name in there},
        told={name: np.array([row.get(name, NAN) for row in said]) for name in there},
        y_large=column(large, "y_large"),
        u_large=column(large, "u_large"),
        seconds_small=column(small, "seconds"),
        seconds_large=column(large, "seconds_large"),
    )


def _by_estimator(small: pa.Table, by_ev: pa.Table | None, what: str) -> list[dict[str, float]]:
    """Each sample's doubts by name; what an ensemble says beside what the UBM says alone."""
    own = [dict(row or ()) for row in small[what].to_pylist()]
    if by_ev is None:
        return own
    ev = [dict(row or ()).get("ev", NAN) for row in by_ev[what].to_pylist()]
    return [row | {"ev": u} if row else row for row, u in zip(own, ev, strict=True)]
