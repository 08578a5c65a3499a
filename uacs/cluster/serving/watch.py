"""What an endpoint's replica counts for Prometheus, as Ray exports it: `ray_uacs_...`; deploy/grafana.json shows it.

Nothing here names a sample, a sender or a word of what was said.
"""

import math
from collections.abc import Callable

from ray.serve.metrics import Counter, Gauge, Histogram

from uacs.cascade.drift import Drift, Reference, Shadow
from uacs.wire import Answer

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
NATS = (0.01, 0.02, 0.05, *(round(0.1 * k, 1) for k in range(1, 12)), 2.0, 4.0, 8.0)
SAMPLES = tuple(2.0**k for k in range(9))
BOUNDARIES = {"uacs_seconds": SECONDS, "uacs_uncertainty": NATS, "uacs_batch": SAMPLES}
EVERY = 10.0  # seconds between the gauges: Ray drops one that is silent for 20

METRICS = {
    "uacs_requests": (Counter, ("route", "code")),
    "uacs_answers": (Counter, ("stage", "answer_from", "status")),
    "uacs_seconds": (Histogram, ("stage",)),
    "uacs_uncertainty": (Histogram, ("model",)),
    "uacs_batch": (Histogram, ("model",)),
    "uacs_degraded": (Counter, ("why",)),
    "uacs_refused": (Counter, ("why",)),
    "uacs_drift_psi": (Gauge, ()),
    "uacs_drift_escalated": (Gauge, ()),
    "uacs_drift_expected": (Gauge, ()),
    "uacs_drift_alarm": (Gauge, ()),
    "uacs_shadow": (Counter, ("agrees",)),
}
"""Kind and tags by name; `ABOUT` says what each means."""

ABOUT = {
    "uacs_requests": "Requests by what they asked and how HTTP answered.",
    "uacs_answers": "Samples answered: the stage that was due, the one that answered, and the status.",
    "uacs_seconds": "Seconds: each stage's share of its batch, and a request's total.",
    "uacs_uncertainty": "Uncertainties, in the unit of their estimator (docs/estimators.md).",
    "uacs_batch": "Samples that a model answers at once.",
    "uacs_degraded": "Samples of which a stage was lost.",
    "uacs_refused": "Requests without an answer.",
    "uacs_drift_psi": "Population stability index of the small model's uncertainty against calibration.",
    "uacs_drift_escalated": "Share of the latest samples that the small model hands on.",
    "uacs_drift_expected": "The same share in calibration.",
    "uacs_drift_alarm": "1 where the thresholds no longer fit what comes in.",
    "uacs_shadow": "Accepted samples that the large model was shown as well: whether their polarities agree.",
}


def batches(model: str) -> Callable[[int, float], None]:
    """What hears of each batch of a model how many samples it has, and the seconds that it took."""
    sizes = _metric("uacs_batch", Histogram, ("model",))
    return lambda samples, seconds: sizes.observe(samples, tags={"model": model})


class Watch:
    """One replica's counters, and its window of live answers against calibration."""

    def __init__(self) -> None:
        ours = {name: about for name, about in METRICS.items() if name != "uacs_batch"}
        self._metrics = {name: _metric(name, kind, tags) for name, (kind, tags) in ours.items()}
        self.drift: Drift | None = None
        self.shadow = Shadow()

    def calibrated(self, reference: Reference | None) -> None:
        """Begin a window against a calibration; without one there is no drift to speak of."""
        self.drift = Drift(reference) if reference else None

    def request(self, route: str, code: int, seconds: float) -> None:
        """A request that was answered somehow."""
        self._metrics["uacs_requests"].inc(tags={"route": route, "code": str(code)})
        self._metrics["uacs_seconds"].observe(seconds, tags={"stage": "total"})

    def refused(self, why: str) -> None:
        """A request without an answer, and the kind of trouble."""
        self._metrics["uacs_refused"].inc(tags={"why": why})

    def answered(self, answer: Answer, escalated: bool, lost: str | None) -> None:
        """A sample, whose doubt was above tau_small if escalated; lost is the trouble that cost it a stage."""
        tags = {"stage": answer.stage or "none", "answer_from": answer.answer_from or "none", "status": answer.status}
        self._metrics["uacs_answers"].inc(tags=tags)
        for stage in ("small", "large", "verify"):
            if (seconds := getattr(answer.seconds, stage)) is not None:
                self._metrics["uacs_seconds"].observe(seconds, tags={"stage": stage})
        for model, u in (("small", answer.u_small), ("large", answer.u_large)):
            if u is not None:
                self._metrics["uacs_uncertainty"].observe(u, tags={"model": model})
        if lost:
            self._metrics["uacs_degraded"].inc(tags={"why": lost})
        if self.drift and answer.u_small is not None:
            self.drift.add(answer.u_small, escalated)

    def shadowed(self, y_small: float, y_large: float) -> None:
        """An accepted sample that the large model was shown as well."""
        agrees = self.shadow.add(y_small, y_large)
        if agrees is not None:
            self._metrics["uacs_shadow"].inc(tags={"agrees": "yes" if agrees else "no"})

    def tell(self) -> None:
        """Set the gauges; to be called every `EVERY` seconds."""
        if self.drift is None:
            return
        reading = self.drift.read()
        values = {
            "psi": reading.psi,
            "escalated": reading.escalated,
            "expected": reading.expected,
            "alarm": float(reading.alarm),
        }
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                self._metrics[f"uacs_drift_{name}"].set(value)


def _metric(name: str, kind: type, tags: tuple[str, ...]):
    if kind is not Histogram:
        return kind(name, ABOUT[name], tag_keys=tags)
    return Histogram(name, ABOUT[name], boundaries=list(BOUNDARIES[name]), tag_keys=tags)
