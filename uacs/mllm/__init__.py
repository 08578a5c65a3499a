"""The large models: one interface, one file a family.

A large model is a plain object: built once, then asked with lists of samples. `SPEC` is a hub id or
a folder, whose config names its family, or `recorded:PARQUET`, a file or the folder of a run's outcomes.
`build` makes what the cascade asks, `load` the torch module inside it.
"""

import importlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from uacs import fingerprints
from uacs.errors import BadInput, reason, shown
from uacs.mllm.prompts import Hints
from uacs.records import LargeOutput, Sample, SmallOutput

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

FAMILIES = {
    "HumanOmni_qwen2": "uacs.mllm.humanomni",
    "videollama2": "uacs.mllm.videollama2",
    "videollama2_mistral": "uacs.mllm.videollama2",
    "videollama2_qwen2": "uacs.mllm.videollama2",
    "qwen2_5_omni": "uacs.mllm.qwen_omni",
    "qwen2_5_omni_thinker": "uacs.mllm.qwen_omni",
}
"""Where a family lives, by the `model_type` of a checkpoint's config.json. Strings, so that listing loads none.

Such a file has `load` and `save` of its model, `Inputs`: from samples to batches, and from there to the decoder:
`of_towers` and `embedded` of a batch, and `decoder_of` the model.
"""

RECORDED = "recorded:"


class Towers(BaseModel):
    """Folders or hub ids of what a checkpoint's folder leaves out."""

    model_config = ConfigDict(extra="forbid")

    vision: str | None = Field(None, description="a SigLIP or CLIP: config, preprocessor, and weights if need be")
    audio: str | None = Field(None, description="a Whisper or BEATs: config, preprocessor, and weights if need be")
    gate: str | None = Field(None, description="HumanOmni's BERT: tokenizer, config, and weights if need be")


class MllmSettings(BaseModel):
    """How a large model answers. Batch size and threads change speed, not answers (within 1e-5 in float32)."""

    model_config = ConfigDict(extra="forbid")

    readout: Literal["decode", "trie", "head"] = Field(
        "decode", description="how a score and its uncertainty are read; see `uacs.mllm.readouts`"
    )
    hints: Hints = Field("numbers", description="how stage 3 is told the earlier answers")
    verify_prefill: bool = Field(
        False, description="stage 3 reads clip and question anew, instead of going on from stage 2; slower"
    )
    frames: int | None = Field(
        None,
        ge=1,
        description="frames shown of a clip, rounded up to what a family needs; as the checkpoint says, else 8",
    )
    max_new_tokens: int = Field(12, ge=2, description="longest answer, in tokens")
    batch_size: int = Field(16, ge=1, description="most rows that are read together")
    batch_gib: float = Field(
        4.0, gt=0, description="GiB that a batch may take beside the weights; it is cut smaller before it takes more"
    )
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    load_in_4bit: bool = Field(False, description="the decoder's layers as nf4; needs bitsandbytes")
    aspect: Literal["resize", "pad"] = Field(
        "resize",
        description="HumanOmni, VideoLLaMA2: frames stretched to a square, or put on one, as in their training",
    )
    towers: Towers = Towers()
    adapters: list[str] = Field([], description="folders of adapters over it; the one for the dataset answers")
    threads: int = Field(1, ge=1, description="torch threads on CPU")
    pace: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="recorded: answers come after so many times the seconds that they took, at 0 at once",
    )


Due: TypeAlias = Callable[[list[SmallOutput], list[LargeOutput]], np.ndarray]
"""Of both models' answers to some samples, which of the samples stage 3 is asked about, (N,) truths."""


class LargeModel(Protocol):
    """What stages 2 and 3 ask of a model: one output per sample, in order, whatever the batch around it.

    A sample that cannot be answered yields an output whose status and error say why; it never raises
    for one sample, and never guesses.
    """

    readout: str

    @property
    def frames(self) -> int | None:
        """How many of a clip it looks at; None if it reads no clips."""

    def answer(self, samples: list[Sample]) -> list[LargeOutput]:
        """Stage 2 (Eq. 10-12)."""

    def verify(self, samples: list[Sample], small: list[SmallOutput], large: list[LargeOutput]) -> list[LargeOutput]:
        """Stage 3 (Eq. 16): a second look with both models' answers in the prompt."""

    def answer_and_verify(
        self, samples: list[Sample], small: list[SmallOutput], due: Due
    ) -> tuple[list[LargeOutput], list[LargeOutput]]:
        """Stage 2, and stage 3 for the samples that are due for it; the others are not asked again."""


def build(
    spec: str,
    settings: MllmSettings,
    score_range: tuple[float, float],
    language: str = "en",
    dataset: str | None = None,
) -> LargeModel:
    """The model that `spec` names, ready to be asked; raises `BadInput` naming the folder and the mend.

    Of several adapters the one for the dataset of that name answers.
    """
    if spec.startswith(RECORDED):
        from uacs.mllm.recorded import RecordedAnswers

        return RecordedAnswers(spec.removeprefix(RECORDED), score_range, settings.pace)
    from uacs.mllm import adapters
    from uacs.mllm.predictor import LargePredictor

    base, folders = adapters.over(spec, settings.adapters)
    if not folders:
        return LargePredictor(base, settings, score_range, language)
    folder = adapters.chosen(adapters.by_dataset(folders), dataset)
    adapters.fit(folder, score_range, language)
    return LargePredictor(base, settings, score_range, language, folder)


def build_each(
    spec: str, settings: MllmSettings, score_range: tuple[float, float], language: str
) -> dict[str | None, LargeModel]:
    """What a replica holds: a model by the dataset of each adapter, all over the same weights; without any, by None."""
    from uacs.mllm import adapters

    base, folders = (spec, []) if spec.startswith(RECORDED) else adapters.over(spec, settings.adapters)
    if not folders:
        return {None: build(spec, settings, score_range, language)}
    from uacs.mllm.predictor import LargePredictor, Loaded

    loaded = Loaded.of(base, settings)
    models: dict[str | None, LargeModel] = {}
    for dataset, folder in adapters.by_dataset(folders).items():
        of = adapters.manifest(folder)
        models[dataset] = LargePredictor(base, settings, of.score_range, of.language, folder, loaded)
    return models


def load(
    spec: str | Path,
    dtype: "str | torch.dtype" = "float32",
    device: str = "cpu",
    towers: Towers | None = None,
    load_in_4bit: bool = False,
) -> "torch.nn.Module":
    """The torch module of a folder or hub id, in eval mode; raises `BadInput` naming the folder and the mend.

    Of HumanOmni and VideoLLaMA2, `forward` takes `input_ids` with markers (-201 video, -202 sound), `frames`,
    `audio_mel` or `audio_fbank`, `gate_input_ids` and `gate_attention_mask`, and returns logits (B, L, V): see
    `uacs.mllm.humanomni.HumanOmni` and `uacs.mllm.videollama2.VideoLlama2`. Of Qwen2.5-Omni it is the thinker.
    """
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()  # it is our loading that says what is wrong
    logging.disable_progress_bar()
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise BadInput(f"{spec}: dtype {shown(dtype)} is none of float32, bfloat16, float16; name one of these")
    try:
        torch.empty(1, device=device)
    except Exception as error:  # each backend has a way of its own to say that it is not there
        raise BadInput(f"{spec}: cannot be put on {device} ({reason(error)}); name another mllm.device") from None
    return family(str(spec)).load(str(spec), kind, device, towers or Towers(), load_in_4bit)


def four_bits(spec: str, dtype: "torch.dtype", **options) -> "BitsAndBytesConfig":
    """How weights are quantised to four bits: nf4, doubly; raises `BadInput` where the packages for it are missing."""
    missing = [name for name in ("bitsandbytes", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(f"{spec}: load_in_4bit needs {' and '.join(missing)}; pip install '.[quantize]'")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        **options,
    )


def family(spec: str) -> ModuleType:
    """The file of the family that a folder or hub id belongs to."""
    return importlib.import_module(FAMILIES[model_type(spec)])


def model_type(spec: str) -> str:
    """The `model_type` in the config.json of a folder or hub id, if it is one that U-ACS knows."""
    if Path(spec).is_dir():
        config = Path(spec) / "config.json"
        if not config.is_file():
            raise BadInput(f"{spec}: no config.json, so no model; name a checkpoint folder, a hub id or recorded:FILE")
        try:
            found = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        except (ValueError, AttributeError) as error:
            raise BadInput(f"{spec}: config.json is none ({error}); copy the checkpoint's own") from None
    else:
        from transformers import PreTrainedConfig

        try:
            found = PreTrainedConfig.get_config_dict(spec)[0].get("model_type")
        except OSError:
            raise BadInput(f"{spec}: neither a folder here nor a model that the hub gives; check the name") from None
    if not isinstance(found, str) or found not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise BadInput(f"{spec}: model_type '{shown(found)}' is not one of {known}; name a checkpoint of one of these")
    return found


def check(spec: str) -> None:
    """Raise `BadInput` for a spec that cannot be a model, before anything is started for it."""
    if spec.startswith(RECORDED):
        from uacs.mllm.recorded import read_answers

        read_answers(spec.removeprefix(RECORDED))
    elif spec.endswith(".parquet"):
        raise BadInput(f"{spec}: a table is no model; if it holds a model's answers, say {RECORDED}{spec}")
    elif (Path(spec) / "adapter_config.json").is_file():
        from uacs.mllm import adapters

        adapters.over(spec, ())
    else:
        model_type(spec)


def fingerprint(spec: str) -> str:
    """What tells this model from another: the contents of its folder or file, the commit of a hub id."""
    check(spec)
    if spec.startswith(RECORDED):
        return RECORDED + fingerprints.of_place(Path(spec.removeprefix(RECORDED)))
    if Path(spec).is_dir():
        return fingerprints.of_folder(Path(spec))
    from transformers import PreTrainedConfig

    return f"{spec}@{PreTrainedConfig.get_config_dict(spec)[0].get('_commit_hash')}"


def absolute(spec: str) -> str:
    """The same with a local path made absolute: replicas have working directories of their own."""
    prefix = RECORDED if spec.startswith(RECORDED) else ""
    path = Path(spec.removeprefix(prefix))
    return prefix + str(path.absolute()) if path.exists() else spec


def identity(
    spec: str,
    settings: MllmSettings,
    language: str,
    score_range: tuple[float, float] | None = None,
    dataset: str | None = None,
) -> dict:
    """What a model's answers depend on: itself, and unless they are recorded, how it is asked and read.

    Of several adapters it is the one for the dataset, which has to answer in its range; without a score range, all.
    """
    if spec.startswith(RECORDED):
        return {"mllm": fingerprint(spec), "readout": "recorded"}
    from uacs.mllm import adapters, prompts

    base, folders = adapters.over(spec, settings.adapters)
    if folders and score_range is not None:
        folders = [adapters.chosen(adapters.by_dataset(folders), dataset)]
        adapters.fit(folders[0], score_range, language)

    # only what differs from the defaults, so that runs made before there was a choice go on
    choices = {"load_in_4bit", "aspect", "hints", "verify_prefill"}
    chosen = settings.model_dump(include=choices, exclude_defaults=True)
    named = {name: fingerprint_of_tower(tower) for name, tower in settings.towers if tower}
    return {
        "mllm": "+".join([fingerprint(base), *sorted(map(adapters.fingerprint, folders))]),
        "readout": settings.readout,
        "prompts": prompts.version(language, settings.hints),
        "frames": settings.frames,
        "max_new_tokens": settings.max_new_tokens,
        "dtype": settings.dtype,
        **chosen,
        **({"towers": named} if named else {}),
    }


def fingerprint_of_tower(tower: str) -> str:
    """What tells this tower from another: its folder's contents, or its hub id."""
    return fingerprints.of_folder(Path(tower)) if Path(tower).is_dir() else tower
