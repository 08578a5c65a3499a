"""What the UBM is made of and how it learns: Table I's presets, the rest from Self-MM.

Table I gives learning rate and decay for each component. What the paper leaves out is taken from the
model it builds on (Self-MM as MMSA configures it): batch size, gradient accumulation, early stopping,
layer sizes. Two things are ours: features are standardised, so that raw openSMILE magnitudes do not
saturate an LSTM, and the last, partial group of accumulated batches is used rather than dropped.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from uacs.cascade.estimators import known
from uacs.data.prepared import FeatureInfo
from uacs.errors import BadInput, WrongUse


class TrainingSettings(BaseModel):
    """One training of a UBM; the defaults are Table I's column MOSI."""

    model_config = ConfigDict(extra="forbid")

    lr_text: float = Field(5e-5, gt=0)
    lr_audio: float = Field(1e-3, gt=0)
    lr_vision: float = Field(1e-4, gt=0)
    lr_other: float = Field(5e-4, gt=0)
    decay_text: float = Field(1e-3, ge=0)
    decay_audio: float = Field(1e-3, ge=0)
    decay_vision: float = Field(1e-3, ge=0)
    decay_other: float = Field(1e-3, ge=0)
    audio_hidden: int = Field(16, ge=1, description="LSTM width; its projection is d_a = 16 (Eq. 2)")
    vision_hidden: int = Field(32, ge=1, description="LSTM width; its projection is d_v = 32 (Eq. 3)")
    fusion_size: int = Field(128, ge=1, description="d_m of Eq. 4")
    dropout: float = Field(0.1, ge=0, lt=1)
    max_text_tokens: int = Field(128, ge=4, le=512)
    batch_size: int = Field(16, ge=1)
    accumulate: int = Field(4, ge=1, description="batches whose gradients make one step")
    patience: int = Field(8, ge=1, description="epochs without a better validation MAE before it stops")
    max_epochs: int = Field(100, ge=1)
    estimator: str = Field("cbe", description="of its uncertainty, where nobody asks for another")
    members: int = Field(5, ge=2, description="UBMs of an ensemble, for estimator ev")
    seed: int = 1111
    threads: int = Field(2, ge=1, description="torch threads on CPU")
    device: str = "cpu"

    @field_validator("estimator")
    @classmethod
    def _known(cls, name: str) -> str:
        return known(name)


PRESETS: dict[str, dict[str, float]] = {
    "mosi": {},
    "mosei": dict(
        lr_audio=5e-3,
        lr_vision=1e-3,
        lr_other=1e-3,
        decay_text=1e-5,
        decay_audio=0.0,
        decay_vision=0.0,
        decay_other=1e-2,
        batch_size=32,
    ),
    "sims": dict(
        lr_audio=5e-3,
        lr_vision=5e-3,
        lr_other=1e-3,
        decay_audio=1e-2,
        decay_vision=1e-2,
        vision_hidden=64,
        batch_size=32,
    ),
}
"""Table I, and where Self-MM's own sizes differ between the datasets."""


class UbmConfig(BaseModel):
    """config.json of a trained UBM: what it is, and what it was trained on; `like` as in dataset.json."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    estimator: str = "cbe"
    dataset: str
    like: str = ""
    language: str
    score_range: tuple[float, float]
    features: dict[str, FeatureInfo]
    text_encoder: str
    training: TrainingSettings

    @property
    def top(self) -> float:
        """The greatest |score| of the range."""
        return max(map(abs, self.score_range))

    @model_validator(mode="after")
    def _like_itself(self) -> "UbmConfig":
        self.like = self.like or self.dataset
        return self


def training_settings(preset: str, overrides: list[str] | None = None) -> TrainingSettings:
    """A preset with `key=value` overrides; raises `WrongUse` naming the key and the choices."""
    if preset not in PRESETS:
        raise WrongUse(f"no preset '{preset}'; there is {', '.join(PRESETS)}")
    return overridden(TrainingSettings(**PRESETS[preset]), overrides or [])


def overridden(settings: TrainingSettings, overrides: list[str]) -> TrainingSettings:
    """Settings with `key=value` overrides; raises `WrongUse` naming the key and the choices."""
    values: dict[str, object] = settings.model_dump()
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key not in TrainingSettings.model_fields:
            raise WrongUse(
                f"--set {override}: expected key=value with one of {', '.join(TrainingSettings.model_fields)}"
            )
        values[key] = value
    try:
        return TrainingSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise WrongUse(f"--set {first['loc'][0]}={first['input']}: {first['msg']}") from None


def load_config(folder: Path) -> UbmConfig:
    """The config.json of a trained UBM; raises `BadInput` naming the folder and the mend."""
    path = folder / "config.json"
    try:
        return UbmConfig.model_validate_json(path.read_text())
    except OSError:
        raise BadInput(
            f"{folder}: no config.json, so no UBM; train one with `uacs train ubm DATA --out {folder}`"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: not a UBM's ({'.'.join(map(str, first['loc']))}: {first['msg']})") from None
