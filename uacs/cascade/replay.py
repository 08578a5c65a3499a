"""Algorithm 1 over a recorded outcome table: what other thresholds would have answered. No model runs.

Replay makes no answer up. Where a stage is due that was never asked, the cascade's own fallbacks
hold (stage 3: y_large; stage 2: y_small), and the result counts them. Stage-3 answers are those to
the recorded small answers, uncertainties, read-out and prompt, and stand for no others.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from uacs.cascade import routing
from uacs.cascade.outcomes import column
from uacs.records import Decision


@dataclass(frozen=True)
class Answers:
    """The recorded answers of N samples as float arrays (N,); NaN where there is none."""

    y_small: np.ndarray
    u_small: np.ndarray
    y_large: np.ndarray
    u_large: np.ndarray
    y_verify: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> "Answers":
        """The answers in an outcome table, in its order."""
        return cls(*(column(table, name) for name in cls.__dataclass_fields__))


@dataclass(frozen=True)
class Replay:
    """A decision, and how many samples lacked the answer that was due."""

    decision: Decision
    missing_large: np.ndarray
    missing_verify: np.ndarray


def replay(answers: Answers, tau_small, tau_large, doubt: np.ndarray | None = None) -> Replay:
    """Route recorded answers by other thresholds.

    tau_small and tau_large are numbers, giving arrays (N,) and counts (); or (K,) each, giving
    (K, N) and (K,): K pairs at once. doubt (N,) is what tau_small is held against where that is not u_small.
    """
    tau_small, tau_large = (np.asarray(tau, float)[..., None] for tau in (tau_small, tau_large))
    decision = routing.decide(**vars(answers), tau_small=tau_small, tau_large=tau_large, doubt=doubt)
    unverified = (decision.stage == routing.VERIFY) & (decision.answer_from != routing.VERIFY)
    return Replay(decision, decision.degraded.sum(axis=-1), unverified.sum(axis=-1))
