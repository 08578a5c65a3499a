"""What a user's YAML or `--set` may say of a run: the rooms' settings in one, checked once, at the door."""

from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from uacs.cascade.estimators import known
from uacs.cluster.resources import Resources
from uacs.data.clips import ClipSettings
from uacs.errors import BadInput, WrongUse
from uacs.mllm import MllmSettings

Settings = TypeVar("Settings", bound=BaseModel)


class RunClips(ClipSettings):
    """What a run's clips may cost, and who looks at them for its UBM."""

    extractors: tuple[str, ...] = Field((), description="face:FILE and pose:FILE, as the UBM's features were made by")


class EvaluationSettings(BaseModel):
    """How a run is carried out. Only what `mllm.identity` names moves an answer by more than 1e-5; `decoding` says
    which clips are too much.
    """

    model_config = ConfigDict(extra="forbid")

    resources: Resources = Resources()
    mllm: MllmSettings = MllmSettings()
    verifier: MllmSettings | None = Field(None, description="the verifier's, where they are not the large model's")
    estimator: str | None = Field(None, description="of the UBM's uncertainty; its own")
    batch_size: int = Field(256, ge=1, description="samples the UBM answers at once")
    chunk_size: int = Field(32, ge=1, description="escalated samples that go to the large model in one call")
    threads: int = Field(1, ge=1, description="torch threads of each UBM actor on CPU")
    decoding: RunClips = RunClips()
    max_errors: str = Field("1%", description="samples that may be errors before the run stops: a number, or a share")

    @field_validator("estimator")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        return name and known(name)

    @field_validator("max_errors", mode="before")
    @classmethod
    def _number_or_share(cls, value: object) -> str:
        text = str(value).strip()
        try:
            allowed = float(text.removesuffix("%"))
        except ValueError:
            allowed = -1.0
        if not (0 <= allowed <= 100 if text.endswith("%") else allowed >= 0 and allowed.is_integer()):
            raise ValueError("a number of samples, as 10, or a share of them, as 0.5%")
        return text

    @property
    def of_verifier(self) -> MllmSettings:
        """How a verifier of its own answers."""
        return self.verifier or self.mllm

    def errors_allowed(self, samples: int) -> int:
        """How many of so many samples may be errors.

        >>> EvaluationSettings(max_errors="1%").errors_allowed(250)
        2
        """
        allowed = float(self.max_errors.removesuffix("%"))
        return int(allowed * samples / 100) if self.max_errors.endswith("%") else int(allowed)


def evaluation_settings(file: Path | None = None, overrides: tuple[str, ...] = ()) -> EvaluationSettings:
    """A run's settings, as `settings_of` reads them.

    >>> evaluation_settings(overrides=("resources.pool=1-4",)).resources.pool
    (1, 4)
    """
    return settings_of(EvaluationSettings, file, overrides)


def settings_of(kind: type[Settings], file: Path | None = None, overrides: tuple[str, ...] = ()) -> Settings:
    """A YAML file's settings with `dotted.key=value` overrides; raises naming the key and the mend."""
    values = _read(file) if file else {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise WrongUse(f"--set {override}: expected key=value, as {_keys(kind)[0]}=4")
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise WrongUse(f"--set {override}: {section} is a value, not a section")
        place[name] = yaml.safe_load(value)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        known = f"; there is {', '.join(_near(key, _keys(kind)))}" if first["type"] == "extra_forbidden" else ""
        raise WrongUse(f"{file or '--set'}: {key}: {first['msg']}{known}".replace(": : ", ": ")) from None


def _near(key: str, known: list[str], most: int = 24) -> list[str]:
    """The keys that there are; of many, those that the misspelt one may be."""
    return known if len(known) <= most else get_close_matches(key, known, n=6, cutoff=0.0)


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every setting by its dotted name."""
    keys = []
    for name, field in model.model_fields.items():
        inner = next((kind for kind in get_args(field.annotation) if kind is not NoneType), field.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += _keys(inner, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _read(file: Path) -> dict:
    try:
        values = yaml.safe_load(file.read_text()) or {}
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{file}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise BadInput(f"{file}: expected keys and values, as `batch_size: 64`")
    return values
