"""Where the doubt begins: thresholds from the validation split (Eq. 18-19), and their file."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from uacs.cascade.deferral import Deferral
from uacs.cascade.drift import Reference
from uacs.cascade.outcomes import column
from uacs.cascade.recording import Recording
from uacs.cascade.uncertainty import polarity
from uacs.errors import BadInput
from uacs.records import Polarity


class Fit(BaseModel):
    """One model's part of Eq. 18-19: mean, spread and count of u where it was right and wrong."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    lambda_: float = Field(alias="lambda", ge=0, le=1)
    beta: FiniteFloat
    mu_same: float | None = None
    mu_opposite: float | None = None
    sd_same: float | None = None
    sd_opposite: float | None = None
    n_same: int
    n_opposite: int


class Thresholds(BaseModel):
    """thresholds.json. Only the two taus are required; what else is there is held against the models.

    With a `deferral`, tau_small is held against its gain, and not against u_small. `reference` is what live clips
    are held against (`drift`).
    """

    model_config = ConfigDict(extra="forbid")

    format: int = Field(1, ge=1, le=1)
    tau_small: FiniteFloat
    tau_large: FiniteFloat
    rule: str = "given"
    deferral: Deferral | None = None
    small: Fit | None = None
    large: Fit | None = None
    reference: Reference | None = None
    estimator: str | None = None
    readout: str | None = None
    ubm: str | None = None
    mllm: str | None = None
    dataset: str | None = None
    split: str | None = None
    fingerprint: str | None = None
    second_look: str | None = None
    warnings: list[str] = []

    def text(self) -> str:
        """thresholds.json's content."""
        return self.model_dump_json(indent=2, by_alias=True, exclude_none=True) + "\n"

    def save(self, path: Path) -> None:
        """Write thresholds.json."""
        path.write_text(self.text())

    @classmethod
    def load(cls, path: str | Path) -> "Thresholds":
        """Read thresholds.json; raises `BadInput` that names the file and the field."""
        try:
            return cls.read(Path(path).read_text(), path)
        except OSError as error:
            raise BadInput(f"{path}: no thresholds there ({error.strerror}); make some with `uacs calibrate`") from None

    @classmethod
    def read(cls, text: str, where: str | Path) -> "Thresholds":
        """Of a thresholds.json's content; raises `BadInput` that names `where` it is from and the field."""
        try:
            return cls.model_validate(json.loads(text))
        except json.JSONDecodeError as error:
            raise BadInput(f"{where}: not JSON ({error}); expected the thresholds.json of `uacs calibrate`") from None
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the file"
            raise BadInput(f"{where}: {field}: {first['msg']}; see `uacs calibrate --help`") from None


def same_and_opposite(prediction: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 18's groups as masks (N,): both positive or both negative; of different polarity.

    Two neutrals are in neither, as the paper's "(both positive or both negative)" has it.
    """
    p, y = polarity(prediction), polarity(label)
    return (p == y) & (y != Polarity.NEUTRAL), p != y


def fit(
    u: np.ndarray, prediction: np.ndarray, label: np.ndarray, lambda_: float = 0.5, beta: float = 0.0
) -> tuple[float, Fit, list[str]]:
    """One model's threshold by Eq. 19, what it was made of, and what is doubtful about it.

    u, prediction and label are (N,) over every validation sample that the model answered. Where one
    of the groups is empty Eq. 19 is undefined; then the paper's first rule holds: the mean of all u,
    plus beta. λ = 0 is the mean uncertainty of right answers, 1 that of wrong ones.
    """
    if not len(u):
        raise BadInput("no validation sample was answered, so there is nothing to set a threshold by")
    same, opposite = same_and_opposite(prediction, label)
    warnings = []
    if same.any() and opposite.any():
        tau = (1 - lambda_) * u[same].mean() + lambda_ * u[opposite].mean() + beta
        if u[same].mean() >= u[opposite].mean():
            warnings.append("right answers are no surer than wrong ones: λ does not order the thresholds here")
    else:
        empty = "right" if not same.any() else "wrong"
        warnings.append(f"no {empty} answer among {len(u)}: the threshold is the mean of all uncertainties plus β")
        tau = u.mean() + beta
    made_of = Fit(
        lambda_=lambda_,
        beta=beta,
        mu_same=_or_none(u[same], np.mean),
        mu_opposite=_or_none(u[opposite], np.mean),
        sd_same=_or_none(u[same], np.std),
        sd_opposite=_or_none(u[opposite], np.std),
        n_same=int(same.sum()),
        n_opposite=int(opposite.sum()),
    )
    return float(tau), made_of, warnings


def of_table(table: pa.Table, lambda_: float = 0.5, beta: float = 0.0) -> Thresholds:
    """Both thresholds by Eq. 18-19, from an outcome table in which both models answered a labelled split.

    Raises `BadInput` where there is no label, or a model answered no labelled sample.
    """
    label = column(table, "label")
    if not np.isfinite(label).any():
        raise BadInput("no sample has a label, so there is nothing to set thresholds by")
    taus, fits, warnings = {}, {}, []
    for model in ("small", "large"):
        u, y = column(table, f"u_{model}"), column(table, f"y_{model}")
        known = np.isfinite(u) & np.isfinite(y) & np.isfinite(label)
        if not known.any():
            raise BadInput(f"the {model} model answered no labelled sample; see column error of the outcomes")
        taus[model], fits[model], said = fit(u[known], y[known], label[known], lambda_, beta)
        warnings += [f"{model} model: {text}" for text in said]
        if unanswered := int(np.sum(np.isfinite(label) & ~known)):
            warnings.append(f"{model} model: {unanswered} of {len(label)} samples had no answer to go by")
    u_small = column(table, "u_small")
    return Thresholds(
        tau_small=taus["small"],
        tau_large=taus["large"],
        rule="means",
        small=fits["small"],
        large=fits["large"],
        reference=Reference.of(u_small, u_small, taus["small"]),
        warnings=warnings,
    )


def explained(
    recording: Recording,
    tau_small: float,
    tau_large: float,
    rule: str,
    warnings: Iterable[str] = (),
    deferral: Deferral | None = None,
) -> Thresholds:
    """thresholds.json's content for any two thresholds, with the λ and β at which Eq. 19 gives the same.

    λ is held within [0, 1] and β makes up the rest, so that (1-λ)·mu_same + λ·mu_opposite + β is the threshold.
    Where there are no two means to lie between, λ is 0.5 and β is taken from what `fit` falls back on. A
    `deferral`'s tau_small is no entropy, so there `small` is left out. Raises `BadInput` where a model answered
    no labelled sample.
    """
    return Thresholds(
        tau_small=tau_small,
        tau_large=tau_large,
        rule=rule,
        deferral=deferral,
        small=None if deferral else _equivalent(tau_small, *labelled(recording, "small")),
        large=_equivalent(tau_large, *labelled(recording, "large")),
        reference=reference(recording, tau_small, deferral),
        warnings=list(warnings),
    )


def reference(recording: Recording, tau_small: float, deferral: Deferral | None = None) -> Reference:
    """What live clips are held against, if thresholds are chosen on a recording."""
    y, u, p = recording.answers.y_small, recording.answers.u_small, recording.p_small
    return Reference.of(u, u if deferral is None else deferral.gain(y, u, p), tau_small)


def labelled(recording: Recording, model: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """u, y and label, (n,) each, of the samples with a label that the `small` or the `large` model answered.

    Raises `BadInput` where there are none.
    """
    u, y = getattr(recording.answers, f"u_{model}"), getattr(recording.answers, f"y_{model}")
    known = np.isfinite(u) & np.isfinite(y) & np.isfinite(recording.label)
    if not known.any():
        raise BadInput(f"the {model} model answered no labelled sample; see column error of the outcomes")
    return u[known], y[known], recording.label[known]


def _equivalent(tau: float, u: np.ndarray, prediction: np.ndarray, label: np.ndarray) -> Fit:
    """`fit` with the λ and β that give tau."""
    _, made_of, _ = fit(u, prediction, label)
    same, opposite = made_of.mu_same, made_of.mu_opposite
    lambda_ = 0.5
    if same is not None and opposite is not None and same != opposite:
        lambda_ = float(np.clip((tau - same) / (opposite - same), 0, 1))
    without, _, _ = fit(u, prediction, label, lambda_)
    return fit(u, prediction, label, lambda_, tau - without)[1]


def _or_none(values: np.ndarray, statistic) -> float | None:
    return float(statistic(values)) if len(values) else None
