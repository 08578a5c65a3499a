"""What a study is told by its YAML file."""

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from uacs.config import EvaluationSettings
from uacs.mllm import RECORDED, MllmSettings
from uacs.mllm.prompts import Hints

NAME = re.compile(r"\w[\w.-]*")

Fault = Literal["no-text", "no-audio", "no-vision", "half-words", "noise"]
"""How a clip is spoilt: a modality missing for both models; each word lost with an even chance, for both; noise as
large as the training split's own spread on the small model's features."""


class LargeModelSettings(BaseModel):
    """One large model of a study, and how it answers."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="SPEC: a folder, a hub id, or recorded:FILE.parquet")
    settings: MllmSettings = MllmSettings()

    @property
    def recorded(self) -> bool:
        """Whether its answers were taken elsewhere: then it looks at nothing a second time."""
        return self.model.startswith(RECORDED)


class Elsewhere(BaseModel):
    """Another dataset with the same features, to which UBM and thresholds are carried as they are."""

    model_config = ConfigDict(extra="forbid")

    data: str = Field(description="a prepared dataset")
    split: str = Field("test", description="whose samples are answered")
    recorded: str | None = Field(None, description="recorded:FILE.parquet with the large model's answers there")


class UbmSettings(BaseModel):
    """How every UBM of a study is trained."""

    model_config = ConfigDict(extra="forbid")

    preset: str | None = Field(None, description="Table I's column; the dataset's")
    text_encoder: str | None = Field(None, description="a BERT's folder or hub id; bert-base-uncased or -chinese")
    settings: dict[str, float | int | str] = Field({}, description="of a training, as max_epochs: 30")
    at_once: int = Field(2, ge=1, description="trainings at the same time")
    gpus: float = Field(0.0, ge=0, le=1, description="share of a GPU that each takes; 0: it trains on CPU")


class StudySettings(BaseModel):
    """What is studied. The first of `large` is the one that tables are about where they name none."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    large: dict[str, LargeModelSettings] = Field(min_length=1, description="large models by the names that tables give")
    seeds: list[int] = Field([1111, 1112, 1113], min_length=1, description="a UBM is trained with each")
    ensembles: int | None = Field(None, ge=0, description="seeds, the first ones, that have an ensemble for ev; all")
    ubm: UbmSettings = UbmSettings()
    lambda_: float | None = Field(None, alias="lambda", ge=0, le=1, description="Eq. 19's λ; the dataset's")
    beta: float = Field(0.0, allow_inf_nan=False, description="Eq. 19's β, nats")
    hints: list[Hints] = Field(
        ["numbers", "words", "both"],
        min_length=1,
        description="ways to tell stage 3 of both answers; the first is the cascade's, the others are tried beside it",
    )
    faults: list[Fault] = Field(
        ["no-text", "no-audio", "no-vision", "half-words", "noise"], description="how test clips are spoilt"
    )
    elsewhere: dict[str, Elsewhere] = Field({}, description="other datasets by name")
    draws: int = Field(100, ge=20, description="of random routing")
    transcripts: bool = Field(True, description="whether the page shows what is said in test clips")
    run: EvaluationSettings = Field(EvaluationSettings(), description="resources, batch_size, chunk_size, decoding ...")

    @field_validator("seeds", "hints", "faults")
    @classmethod
    def _once(cls, several: list) -> list:
        if len(set(several)) < len(several):
            raise ValueError("each once")
        return several

    @field_validator("large", "elsewhere")
    @classmethod
    def _named(cls, named: dict) -> dict:
        if wrong := [name for name in named if not NAME.fullmatch(name)]:
            raise ValueError(f"'{wrong[0]}': expected letters and digits, with '-', '_' and '.' between")
        return named

    @model_validator(mode="after")
    def _placed(self) -> "StudySettings":
        if own := {"mllm", "verifier", "estimator"} & self.run.model_fields_set:
            raise ValueError(f"run.{min(own)}: a study asks every model its own way; see `large`")
        for name, large in self.large.items():
            if "hints" in large.settings.model_fields_set:
                raise ValueError(f"large.{name}.settings.hints: the study tells all models alike; see `hints`")
        if wrong := {"seed", "estimator", "device"} & self.ubm.settings.keys():
            mend = {"seed": "seeds", "estimator": "ensembles", "device": "ubm.gpus"}[min(wrong)]
            raise ValueError(f"ubm.settings.{min(wrong)}: the study sets it; see `{mend}`")
        return self

    @property
    def main(self) -> str:
        """The first large model's name."""
        return next(iter(self.large))

    def ensemble_of(self, seed: int) -> bool:
        """Whether the UBM of a seed has an ensemble."""
        return self.ensembles is None or self.seeds.index(seed) < self.ensembles
