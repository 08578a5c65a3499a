"""What goes over HTTP: a clip to score, its answer, a fault. Server, client and OpenAPI document share these models."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

MODALITIES = ("text", "audio", "vision")
LONGEST_NAME = 200

Stage = Literal["small", "large", "average", "verify"]
MaxStage = Literal["small", "large", "verify"]
Name = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME, pattern=r"^[^\x00-\x1f\x7f]+$")]
Step = Annotated[list[FiniteFloat], Field(fail_fast=True)]
Steps = Annotated[list[Step], Field(min_length=1, fail_fast=True)]  # a list of faults may be longer than memory


class Budget(BaseModel):
    """What a request may cost."""

    model_config = ConfigDict(extra="forbid")

    max_stage: MaxStage = Field(
        "verify", description="`small`: the large model is not asked; `large`: it is asked once; `verify`: twice if due"
    )
    deadline: FiniteFloat | None = Field(
        None,
        gt=0,
        description="seconds in which to answer with what there is; the server's own, if less; 0.1 go by in HTTP",
    )


class Clip(BaseModel):
    """One clip of one person speaking; at least one of text, audio, vision and clip."""

    model_config = ConfigDict(extra="forbid")

    sample_id: Name | None = Field(None, description="yours; without one, the answer has the request's id")
    text: str | None = Field(None, description="the transcript; of more than 10,000 characters the first are read")
    audio: Steps | None = Field(None, description="features for the small model, (steps, size)")
    vision: Steps | None = Field(None, description="features for the small model, (steps, size)")
    clip: str | None = Field(
        None, min_length=1, max_length=2048, description="path or URI of the footage under one of the roots"
    )


class Request(Clip, Budget):
    """POST /v1/predict, as JSON."""


class BatchRequest(Budget):
    """POST /v1/predict/batch: the budget holds for all samples together."""

    samples: list[Clip] = Field(min_length=1)


class Seconds(BaseModel):
    """How long an answer took: in total, waiting included, and each model's share of its batch."""

    total: float
    small: float | None = None
    large: float | None = None
    verify: float | None = None


class Models(BaseModel):
    """What answered, by fingerprint or name."""

    ubm: str
    mllm: str
    verifier: str | None = None
    readout: str


class Answer(BaseModel):
    """A clip's score, who gave it, and all that led there; uncertainties by their estimators, times in seconds."""

    request_id: str
    sample_id: str
    prediction: float | None = Field(description="the score, in the dataset's range; null where status is error")
    polarity: Literal["negative", "neutral", "positive"] | None = None
    stage: Stage | None = Field(None, description="which stage was due to settle it")
    answer_from: Stage | None = Field(None, description="which did, after fallbacks")
    status: Literal["ok", "degraded", "error"] = Field(
        description="degraded: a stage that was due could not be asked, or not in time"
    )
    error: str | None = None
    missing: list[Literal["text", "audio", "vision"]] = Field([], description="what the small model did without")
    y_small: float | None = None
    u_small: float | None = None
    y_large: float | None = None
    u_large: float | None = None
    y_verify: float | None = None
    u_verify: float | None = None
    tau_small: float
    tau_large: float
    seconds: Seconds
    models: Models


class BatchAnswer(BaseModel):
    """One answer a sample, in order; one at fault has status error and says why."""

    request_id: str
    results: list[Answer]


class Problem(BaseModel):
    """Why there is no answer, and the mend."""

    request_id: str
    error: str


class Health(BaseModel):
    """Whether the endpoint can answer by both models, by the small one alone, or not at all."""

    status: Literal["ok", "degraded", "down"]
    small: bool
    large: bool
    note: str | None = Field(None, description="what whoever runs it should know, as thresholds that were refused")


class Limits(BaseModel):
    """What a request may bring."""

    body_mib: float
    samples: int
    clip_seconds: float
    deadline: float


class Info(BaseModel):
    """What this endpoint answers, with what, and within which limits."""

    version: str
    dataset: str
    score_range: tuple[float, float]
    language: str
    features: dict[str, int] = Field(description="feature size by modality that the small model reads")
    reads_clips: bool = Field(description="whether the small model's features are computed from a clip")
    max_u_small: float = Field(description="the small model's largest possible uncertainty, ln 3 for an entropy")
    tau_small: float
    tau_large: float
    learned: bool = Field(description="whether tau_small is held against a learned gain, and not against u_small")
    models: Models
    limits: Limits
    keys: bool = Field(description="whether requests need `Authorization: Bearer KEY`")
