"""What a run would ask, how long it would take and how much memory its models need, before anything is started.

Shares and seconds are those that the calibration measured, where there is one; else the thresholds' own
Gaussian fits give the share, and nobody knows the time.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import norm

from uacs.cascade.outcomes import column, with_decision
from uacs.cascade.thresholds import Thresholds
from uacs.cluster import runs
from uacs.cluster.evaluation import Models
from uacs.cluster.runs import Run
from uacs.config import EvaluationSettings
from uacs.data import places
from uacs.data.places import Place
from uacs.errors import BadInput, Refused
from uacs.ubm.estimating import estimator_of, members
from uacs.ubm.settings import load_config

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Estimate:
    """What is left of a run. Seconds are of each stage with its whole pool busy; what nobody knows is NaN.

    `asked` and `looked_twice` are samples that are expected in stages 2 and 3; weights are in bytes, of one copy.
    Without a verifier of its own stage 3 is the large model's, and what is the verifier's is None.
    """

    samples: int
    written: int
    asked: float
    looked_twice: float
    seconds_small: float
    seconds_large: float
    weights_small: float
    weights_large: float
    source: str
    seconds_verifier: float | None = None
    weights_verifier: float | None = None


def estimate(
    models: Models, thresholds: Place | None, out: Place, settings: EvaluationSettings, all_stages: bool
) -> Estimate:
    """Of the samples that `out` lacks; `thresholds` are a file, or None for those that calibration will set."""
    samples, written = models.dataset.rows(models.split), 0
    if runs.exists(out):
        done = Run.open(out).done()
        written = sum(
            models.dataset.info.parts[name].rows for name in models.dataset.parts(models.split) if name in done
        )
    left = samples - written
    given = runs.read_thresholds(thresholds) if thresholds else None
    if given and given.estimator and settings.estimator not in (None, given.estimator):
        raise Refused(f"{thresholds}: made with estimator {given.estimator}, asked for is {settings.estimator}")
    calibration = _calibration(thresholds, out)
    if calibration:
        source = f"by the calibration in {calibration.folder}"
        asked, twice, each = _measured(calibration, given, all_stages)
    elif given:
        source = "by the thresholds' fits; no calibration says how long"
        asked, twice, each = 1.0 if all_stages else _share(given), math.nan, (math.nan,) * 3
    else:
        raise Refused(
            "nothing says yet how unsure the models are: run `uacs calibrate` first, then this with its --thresholds"
        )
    plan = settings.resources
    second = twice * each[2]
    here, there = (0.0, left * second / plan.verifiers[1]) if models.verifier else (second, None)
    if there and calibration and not calibration.manifest["identity"].get("verifier"):
        there = math.nan  # it read on from stage 2, which a verifier cannot
    return Estimate(
        samples=samples,
        written=written,
        asked=asked * left,
        looked_twice=twice * left,
        seconds_small=left * each[0] / plan.pool[1],
        seconds_large=left * (asked * each[1] + here) / plan.replicas[1],
        weights_small=_weights(Path(models.ubm), "float32") * (1 + _members(models, settings, given)),
        weights_large=_weights(_base(models.mllm), settings.mllm.dtype),
        source=source,
        seconds_verifier=there,
        weights_verifier=_weights(_base(models.verifier), settings.of_verifier.dtype) if models.verifier else None,
    )


def _members(models: Models, settings: EvaluationSettings, given: Thresholds | None) -> int:
    """UBMs that each actor holds besides, where the estimator is an ensemble's."""
    named = settings.estimator or (given.estimator if given else None)
    ev = estimator_of(models.ubm, load_config(models.ubm), named) == "ev"
    return len(members(models.ubm)) if ev else 0


def estimate_text(found: Estimate, settings: EvaluationSettings) -> str:
    """The same in words."""
    from uacs.console import duration

    plan, left = settings.resources, max(found.samples - found.written, 1)
    lines = [f"{found.samples:,} samples, {found.written:,} of them done; nothing was started"]

    def some(count: float, what: str) -> str:
        return f"{count:,.0f} {what} ({count / left:.1%})" if count == count else f"an unknown number of {what}"

    lines.append(
        f"expected: {some(found.asked, 'asked of the large model')}, {some(found.looked_twice, 'second looks')}"
    )
    lines.append(f"          {found.source}")
    stages = {"UBM": found.seconds_small, "large model": found.seconds_large}
    if found.seconds_verifier is not None:
        stages["verifier"] = found.seconds_verifier
    if all(seconds == seconds for seconds in stages.values()):
        each = ", ".join(f"{name} {duration(seconds)}" for name, seconds in stages.items())
        longest = duration(max(stages.values()))
        lines.append(f"time:     about {longest} beyond start-up, the stages overlap ({each})")
    else:
        lines.append("time:     unknown")
    copies = {"UBM": (plan.pool[1], found.weights_small), "large model": (plan.replicas[1], found.weights_large)}
    if found.weights_verifier is not None:
        copies["verifier"] = (plan.verifiers[1], found.weights_verifier)
    held = ", ".join(f"{name} {count} x {size / GIB:.2f} GiB" for name, (count, size) in copies.items() if size == size)
    lines.append(f"weights:  {held}; each process takes some 0.7 GiB besides")
    return "\n".join(lines)


def _calibration(thresholds: Place | None, out: Place) -> Run | None:
    """The run that the thresholds are from: they lie in its folder, or it in the run's."""
    folder = places.normal(places.beside(thresholds, "")) if thresholds else places.within(out, "calibration")
    if not runs.exists(folder):
        return None
    run = Run.open(folder)
    if run.manifest["identity"]["command"] == "tune thresholds":
        run = Run.open(run.manifest["settings"]["calibration"])  # by which they were chosen
    return run if run.manifest["identity"]["command"] == "calibrate" and run.read("metrics.json") else None


def _measured(run: Run, given: Thresholds | None, all_stages: bool) -> tuple[float, float, tuple[float, float, float]]:
    """Shares asked and asked twice, and mean seconds of a sample in each stage."""
    thresholds = given or runs.read_thresholds(run.place("thresholds.json"))
    table = with_decision(run.table(), thresholds.tau_small, thresholds.tau_large, thresholds.deferral)
    stage = np.array(table["stage"].to_pylist(), object)
    if all_stages:
        verify = np.array(table["verify_status"].to_pylist(), object)
        asked, twice = 1.0, float((verify != "not_asked").mean())
    else:
        asked, twice = float(np.isin(stage, ["large", "average", "verify"]).mean()), float((stage == "verify").mean())
    seconds = (column(table, f"seconds_{name}") for name in ("small", "large", "verify"))
    small, large, again = (float(np.nanmean(s)) if np.isfinite(s).any() else 0.0 for s in seconds)
    return asked, twice, (small, large, again)


def _share(thresholds: Thresholds) -> float:
    """Share of u above tau_small by the two Gaussians of Eq. 18; NaN where the thresholds say nothing of them."""
    fit, tau = thresholds.small, thresholds.tau_small
    if (
        thresholds.deferral
        or fit is None
        or fit.mu_same is None
        or fit.mu_opposite is None
        or not fit.sd_same
        or not fit.sd_opposite
    ):
        return math.nan
    counts = np.array([fit.n_same, fit.n_opposite], float)
    above = norm.sf(tau, loc=[fit.mu_same, fit.mu_opposite], scale=[fit.sd_same, fit.sd_opposite])
    return float(counts @ above / counts.sum())


def _base(spec: str) -> Path:
    """The folder of a SPEC's weights: of an adapter, whose own are few, its base's."""
    from uacs.mllm.adapters import over

    return Path(over(spec, ())[0])


def _weights(folder: Path, dtype: str) -> float:
    """Bytes of a checkpoint's weights in a dtype; NaN for a model that is no folder of weights here."""
    from uacs.mllm.native.checkpoint import Checkpoint

    try:
        shapes = Checkpoint(folder, either=True).shapes.values()
    except BadInput:
        return math.nan
    return float(sum(shape.numel() for shape in shapes) * BYTES[dtype])
