"""What an adapter's training is told: the paper's rates and VideoLLaMA2's recipe, unless a user says otherwise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from uacs.data.prepared import PreparedDataset
from uacs.mllm import MllmSettings


class FinetuningSettings(BaseModel):
    """How an adapter is trained: rank, alpha, rate and epochs are the paper's, the rest VideoLLaMA2's recipe."""

    model_config = ConfigDict(extra="forbid")

    epochs: int = Field(1, ge=1)
    lr: float = Field(2e-5, gt=0)
    rank: int = Field(128, ge=1)
    alpha: int = Field(256, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    batch_size: int = Field(128, ge=1, description="samples of a step, all processes together")
    at_once: int = Field(4, ge=1, description="samples that a process reads at once; changes memory, not the step")
    warmup: float = Field(0.03, ge=0, le=1, description="share of the steps until the full rate; then a cosine to 0")
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    clip_gradient: float = Field(1.0, gt=0, description="largest gradient norm of a step")
    checkpointing: bool = Field(True, description="compute layers again rather than keep what they held")
    projector: bool = Field(False, description="train the connectors from towers to decoder as well, in full")
    projector_lr: float = Field(2e-5, gt=0)
    head: Literal["none", "apart", "joint"] = Field(
        "apart",
        description="for the read-out head: one that learns beside the adapter, which feels it in the clipping alone; "
        "or one that it learns for too",
    )
    head_lr: float = Field(1e-3, gt=0)
    second_looks: float = Field(
        0.35, ge=0, le=1, description="share asked stage 3's way, where earlier answers are known"
    )
    hint_noise: float = Field(1.0, gt=0, description="mean sd of an answer of its own that is made up, as in [-3, 3]")
    best_by: Literal["mae", "acc2"] = "mae"
    validations: int = Field(4, ge=1, description="looks at split valid in an epoch, the last at its end")
    save_steps: int = Field(10, ge=1, description="steps after which the state to go on from is left")
    loaders: int = Field(2, ge=1, description="threads that decode clips")
    seed: int = Field(0, ge=0)
    mllm: MllmSettings = MllmSettings()

    @model_validator(mode="after")
    def _fit(self) -> "FinetuningSettings":
        if self.mllm.dtype == "float16":
            raise ValueError("mllm.dtype=float16 overflows in training; bfloat16 or float32")
        if self.mllm.readout == "head" and self.head == "none":
            raise ValueError("mllm.readout=head needs a head; head=apart or joint")
        if self.mllm.adapters:
            raise ValueError("mllm.adapters is for evaluation; an adapter is trained over a base alone")
        return self


@dataclass(frozen=True)
class Training:
    """A training to do: on which data, over which base, and where its files go; second_looks is a file of earlier
    answers, deepspeed a config of it."""

    dataset: PreparedDataset
    base: str
    settings: FinetuningSettings
    out: Path
    second_looks: Path | None = None
    deepspeed: dict | None = None
