"""The large models: one interface, one file a family.

A large model is a plain object: built once, then asked with lists of samples. `SPEC` is a hub id or
a folder, whose config names its family, or `recorded:FILE.parquet`.
"""

import importlib
import json
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from uacs import fingerprints
from uacs.errors import BadInput
from uacs.records import LargeOutput, Sample, SmallOutput

FAMILIES = {
    "qwen2_5_omni": "uacs.mllm.qwen_omni:QwenOmni",
    "qwen2_5_omni_thinker": "uacs.mllm.qwen_omni:QwenOmni",
}
"""Where a family lives, by the `model_type` of a checkpoint's config.json. Strings, so that listing loads none."""

RECORDED = "recorded:"


class MllmSettings(BaseModel):
    """How a large model answers. Batch size and threads change speed, not answers (within 1e-5 in float32)."""

    model_config = ConfigDict(extra="forbid")

    readout: Literal["decode"] = Field("decode", description="how a score and its uncertainty are read (Eq. 11-12)")
    frames: int | None = Field(
        None,
        ge=1,
        description="frames shown of a clip, rounded up to what a family needs; as the checkpoint says, else 8",
    )
    max_new_tokens: int = Field(12, ge=2, description="longest answer, in tokens")
    batch_size: int = Field(16, ge=1)
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = Field(1, ge=1, description="torch threads on CPU")


class LargeModel(Protocol):
    """What stages 2 and 3 ask of a model: one output per sample, in order, whatever the batch around it.

    A sample that cannot be answered yields an output whose status and error say why; it never raises
    for one sample, and never guesses.
    """

    readout: str

    def answer(self, samples: list[Sample]) -> list[LargeOutput]:
        """Stage 2 (Eq. 10-12)."""

    def verify(self, samples: list[Sample], small: list[SmallOutput], large: list[LargeOutput]) -> list[LargeOutput]:
        """Stage 3 (Eq. 16): a second look with both models' answers in the prompt."""


def load(spec: str, settings: MllmSettings, score_range: tuple[float, float], language: str = "en") -> LargeModel:
    """Build the model that `spec` names; raises `BadInput` naming the folder and the mend."""
    if spec.startswith(RECORDED):
        from uacs.mllm.recorded import RecordedAnswers

        return RecordedAnswers(spec.removeprefix(RECORDED), score_range)
    module, _, name = FAMILIES[family(spec)].partition(":")
    return getattr(importlib.import_module(module), name)(spec, settings, score_range, language)


def family(spec: str) -> str:
    """The `model_type` in the config.json of a folder or hub id, if it is one that U-ACS knows."""
    if Path(spec).is_dir():
        config = Path(spec) / "config.json"
        if not config.is_file():
            raise BadInput(f"{spec}: no config.json, so no model; name a checkpoint folder, a hub id or recorded:FILE")
        model_type = json.loads(config.read_text()).get("model_type")
    else:
        from transformers import PreTrainedConfig

        try:
            model_type = PreTrainedConfig.get_config_dict(spec)[0].get("model_type")
        except OSError:
            raise BadInput(f"{spec}: neither a folder here nor a model that the hub gives; check the name") from None
    if model_type not in FAMILIES:
        raise BadInput(f"{spec}: model_type '{model_type}' is not one of {', '.join(sorted(FAMILIES))}")
    return model_type


def check(spec: str) -> None:
    """Raise `BadInput` for a spec that cannot be a model, before anything is started for it."""
    if spec.startswith(RECORDED):
        from uacs.mllm.recorded import read_answers

        read_answers(spec.removeprefix(RECORDED))
    elif spec.endswith(".parquet"):
        raise BadInput(f"{spec}: a table is no model; if it holds a model's answers, say {RECORDED}{spec}")
    else:
        family(spec)


def fingerprint(spec: str) -> str:
    """What tells this model from another: the contents of its folder or file, the commit of a hub id."""
    check(spec)
    if spec.startswith(RECORDED):
        return RECORDED + fingerprints.of_file(Path(spec.removeprefix(RECORDED)))
    if Path(spec).is_dir():
        return fingerprints.of_folder(Path(spec))
    from transformers import PreTrainedConfig

    return f"{spec}@{PreTrainedConfig.get_config_dict(spec)[0].get('_commit_hash')}"


def absolute(spec: str) -> str:
    """The same with a local path made absolute: replicas have working directories of their own."""
    prefix = RECORDED if spec.startswith(RECORDED) else ""
    path = Path(spec.removeprefix(prefix))
    return prefix + str(path.absolute()) if path.exists() else spec


def identity(spec: str, settings: MllmSettings, language: str) -> dict[str, str | int | None]:
    """What a model's answers depend on: itself, and unless they are recorded, how it is asked and read."""
    if spec.startswith(RECORDED):
        return {"mllm": fingerprint(spec), "readout": "recorded"}
    from uacs.mllm import prompts

    return {
        "mllm": fingerprint(spec),
        "readout": settings.readout,
        "prompts": prompts.version(language),
        "frames": settings.frames,
        "max_new_tokens": settings.max_new_tokens,
        "dtype": settings.dtype,
    }
