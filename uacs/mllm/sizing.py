"""What training an adapter takes of a device: told by a dry run, without a weight and without the device.

A model is built of its config alone, an adapter put on it, and a step taken by the lines that take real ones: towers,
connectors, splice, decoder, loss, gradients, Adam. Only, its tensors have shapes and no numbers; ids, masks and
positions are real, since what is computed depends on them. Each tensor is counted from when it is made until nothing
holds it any more. The step is one of several batches and not the first, so gradients and Adam's states are there.

    weights        what is not trained, as it lies there; in 4 bits as bitsandbytes stores it
    trained        parameters that learn, in float32, their gradients and Adam's two states
    activations    the most that a batch takes over both, wherever in the step that is

Not counted: CUDA itself (half a GiB or so), workspaces inside of kernels, what the allocator rounds up or cannot use
for being in pieces; and split valid, which takes mllm.batch_gib at most, at other times. Leave a tenth of the device.
DeepSpeed's parts and buffers are not told either: this is one process by itself. Of a folder without weights, what
only they say is as published: the width of HumanOmni's gate, BEATs.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig, Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from uacs import mllm
from uacs.mllm import humanomni, lora, omni_inputs, qwen_omni, videollama2
from uacs.mllm.engines import Plain
from uacs.mllm.finetuning_settings import FinetuningSettings
from uacs.mllm.head import Head
from uacs.mllm.lessons import Row
from uacs.mllm.native import checkpoint, decoder, inputs
from uacs.mllm.native.sounds import FilterBanks
from uacs.mllm.shapes import Meter, Shape, as_on_cuda
from uacs.mllm.training import answer_loss

GIB = 2**30
TEXT, ANSWER, GATE = 230, 5, 150
"""Tokens of a row beside its clip: stage 3's question is about 140, the template 45, a transcript 40, and the answer
is 5 of them; and what HumanOmni's gate reads."""
FRAME, MEL = (360, 640), 3000
"""Of a clip as Qwen2.5-Omni takes it, of any size: a frame's height and width, and 30 s of sound in mel frames."""


Made: TypeAlias = Callable[[Sequence[int], torch.dtype], torch.Tensor]
"""What makes a tensor of a shape and type, of zeros or without numbers."""


@dataclass(frozen=True)
class Need:
    """What a step takes: parameters that learn, positions of a row, and bytes of each kind."""

    parameters: int
    positions: int
    weights: int
    trained: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes at the step's peak."""
        return self.weights + self.trained + self.activations

    def __str__(self) -> str:
        sizes = {"weights": self.weights, "trained": self.trained, "activations": self.activations, "peak": self.total}
        lines = [f"{name:12}{size / GIB:8.2f} GiB" for name, size in sizes.items()]
        return "\n".join([f"{self.parameters / 1e6:.1f} M parameters learn, {self.positions} positions a row", *lines])


def need(spec: str | Mapping, settings: FinetuningSettings) -> Need:
    """What a step takes of `mllm.device` when Adam has its states: `at_once` rows, each with a clip.

    spec is a folder, of which config.json and the towers' configs are enough, a hub id, or what a config.json says.
    A GPU is told of without there being one. Raises `BadInput` naming the folder and the mend.
    """
    return Rehearsal(spec, settings).step(settings.mllm.frames, settings.at_once)


def table(
    spec: str | Mapping,
    settings: FinetuningSettings,
    ranks: Sequence[int] = (16, 64, 128),
    frames: Sequence[int] = (8, 16, 32),
    rows: Sequence[int] = (1, 4),
    each: Callable[..., Iterable] = map,
) -> str:
    """GiB at a step's peak on a GPU, in Markdown: bf16 and 4 bits by rank, and so many rows at once by frames.

    `each` is a map; that of a pool of processes is faster.
    """
    asked = [_on_gpu(settings, rank, bits) for bits in (False, True) for rank in ranks]
    batches = [(t, n) for n in rows for t in frames]
    lines = [["weights, GiB", "rank", "learn, M", "trained, GiB", *(f"{n} x {t} frames" for t, n in batches)]]
    lines += [["---:"] * len(lines[0])]
    for one, needs in zip(asked, each(partial(_line, spec, batches), asked), strict=True):
        first, kind = needs[0], "4-bit" if one.mllm.load_in_4bit else "bf16"
        begin = [f"{kind} {first.weights / GIB:.1f}", f"{one.rank}", f"{first.parameters / 1e6:.1f}"]
        lines += [[*begin, f"{first.trained / GIB:.1f}", *(f"{need.total / GIB:.1f}" for need in needs)]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _on_gpu(settings: FinetuningSettings, rank: int, four_bits: bool) -> FinetuningSettings:
    of = {"device": "cuda", "dtype": "bfloat16", "load_in_4bit": four_bits}
    return settings.model_copy(update={"rank": rank, "mllm": settings.mllm.model_copy(update=of)})


def _line(spec: str | Mapping, batches: list[tuple[int, int]], settings: FinetuningSettings) -> list[Need]:
    rehearsal = Rehearsal(spec, settings)
    return [rehearsal.step(*batch) for batch in batches]


class Rehearsal:
    """A model with an adapter that takes steps: of shapes alone; or of zeros on a `device`, to compare with."""

    def __init__(self, spec: str | Mapping, settings: FinetuningSettings, device: torch.device | None = None):
        lora.needed()
        self.settings, self.dtype = settings, getattr(torch, settings.mllm.dtype)
        self.device = device or torch.device("cpu")
        self.made: Made = partial(_zeros, device) if device else Shape.of
        self.elsewhere = device is None and torch.device(settings.mllm.device).type != "cpu"
        self.kind, model = _without_weights(spec, settings)
        core = self.kind.decoder_of(model)
        if settings.mllm.load_in_4bit:
            _in_four_bits(model, core, spec if isinstance(spec, str) else spec["model_type"], self.dtype)
        whole = [name for name, _ in model.named_modules() if name in self.kind.CONNECTORS and settings.projector]
        with checkpoint.without_weights():
            lora.attach(model, core, settings.rank, settings.alpha, settings.dropout, whole)
        if settings.checkpointing:
            core.activation_checkpointing_enable()
            core.disable_input_require_grads()
        model.eval()
        core.train()
        with checkpoint.without_weights():
            head = None if settings.head == "none" else Head(core.config.hidden_size, 3.0)
        self.pupil = _Pupil(self.kind, model, head, settings.head == "joint")
        self._place(self.pupil)

    def step(self, frames: int | None, rows: int) -> Need:
        """Take a step that is not the first; frames are as the checkpoint says where None."""
        pupil, settings = self.pupil, self.settings
        pupil.inputs = clips = Clips(self.kind, pupil.model, frames, self.made)
        learning = [parameter for parameter in pupil.parameters() if parameter.requires_grad]
        groups = [{"params": learning, "lr": 0.0}]
        engine = Plain(pupil, groups, settings.clip_gradient, self.dtype, self.device.type)
        batch = clips.rows(rows)
        with as_on_cuda(self.dtype != torch.float32) if self.elsewhere else nullcontext():
            sizes = measured(engine, pupil.model, batch)
        return Need(sum(one.numel() for one in learning), max(row.turn.length for row in batch), *sizes)

    def _place(self, pupil: nn.Module) -> None:
        """Give every parameter a place: what learns in float32, all else in its type or in four bits."""
        known: dict[nn.Parameter, nn.Parameter] = {}
        for module in pupil.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(self.device)
            for name, parameter in module._parameters.items():
                if parameter is not None and parameter not in known:
                    learns = parameter.requires_grad
                    zeros = self.made(parameter.shape, torch.float32 if learns else self.dtype)
                    four = hasattr(parameter, "quant_state")
                    known[parameter] = _quantised(parameter, zeros) if four else nn.Parameter(zeros, learns)
                module._parameters[name] = None if parameter is None else known[parameter]


def measured(engine: Plain, model: nn.Module, rows: list[Row]) -> tuple[int, int, int]:
    """Take a step; returns bytes of weights that are not trained, of those that are with gradients and Adam's states,
    and of what there is over both at the peak."""
    for parameter in engine.parameters:
        parameter.grad = torch.zeros_like(parameter)
    engine.optimiser.step()
    meter = Meter()
    states = [state for of in engine.optimiser.state.values() for state in of.values()]
    trained = meter.hold([*engine.parameters, *(one.grad for one in engine.parameters), *states])
    weights = meter.hold([*_stored(model), *engine.module.buffers()])
    with meter, lora.in_half(model, engine.dtype != torch.float32):
        engine.backward(engine.loss(rows, sum(row.tokens for row in rows), len(rows)), True)
        engine.step([0.0] * len(engine.optimiser.param_groups))
    return weights, trained, meter.peak - weights - trained


class _Pupil(nn.Module):
    """What `finetuning.Pupil` computes, without a look at a number."""

    def __init__(self, kind: ModuleType, model: nn.Module, head: nn.Module | None, joint: bool):
        super().__init__()
        self.kind, self.model, self.head, self.joint = kind, model, head, joint
        self.inputs: Any = None

    def forward(self, rows: list[Row], tokens: int, samples: int) -> torch.Tensor:
        """A step's loss."""
        pairs = [(row.turn, row.tokens) for row in rows]
        loss, ends = answer_loss(self.kind, self.model, self.inputs, pairs, reduction="sum")
        loss = loss / tokens
        if self.head:
            loss = loss + self.head.loss(ends if self.joint else ends.detach(), [row.label for row in rows])
        return loss


class Clips:
    """Stands in for a family's inputs: clips that show and say nothing, in as many positions as the family says.

    What it collates is a copy `made` on the device, as of a batch that is moved there.
    """

    def __init__(self, kind: ModuleType, model: Any, frames: int | None, made: Made):
        self.made = made
        self.inputs = kind.Inputs.__new__(kind.Inputs)  # without the tokenizer that it would begin with
        self.inputs.tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=0)
        self.inputs.config = model.config
        self.turn: Any
        if kind is qwen_omni:
            self.turn = self._omni(model.config, frames or omni_inputs.DEFAULT_FRAMES)
        else:
            self.inputs.model, self.inputs.projector = model, model.projector
            self.turn = self._native(kind, model, frames or model.config.media.num_frames)

    def rows(self, count: int) -> list[Row]:
        """Rows with their answers; they differ in length, as transcripts do, so that attention has a mask."""
        turns = [replace(self.turn, ids=self.turn.ids + [0] * (TEXT - min(k, 1))) for k in range(count)]
        return [Row(turn, ANSWER, 0.0) for turn in turns]

    def collate(self, rows: list, padding: str) -> dict:
        """As the family collates."""
        batch = self.inputs.collate(rows, padding)
        return {name: self._moved(value) for name, value in batch.items()}

    def _moved(self, value: Any) -> Any:
        """Media made anew; numbers by which positions are counted stay as they are."""
        if isinstance(value, list):
            return [self._moved(one) for one in value]
        media = isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() > 1
        return self.made(value.shape, value.dtype) if media else value

    def _native(self, kind: ModuleType, model: Any, frames: int) -> inputs.Encoded:
        config, media = model.config, model.config.media
        side, sound = config.vision.image_size, None
        if kind is humanomni and config.audio:
            sound = _nothing(config.audio.num_mel_bins, 2 * config.audio.max_source_positions)
        if kind is videollama2:
            frames = max(frames, 1 if model.video_count(1) else 2)
            banks = FilterBanks(media.mm_audio_windows, media.mm_audio_window, media.mm_audio_seconds)
            sound = _nothing(banks.frames, banks.mels) if config.beats else None
        clip = self.inputs.place(_nothing(frames, 3, side, side), sound)
        return inputs.Encoded([*clip.tokens], clip, [0] * GATE)

    def _omni(self, config: Qwen2_5OmniThinkerConfig, frames: int) -> omni_inputs.Encoded:
        vision, area = config.vision_config, omni_inputs.PUBLISHED_FRAME_AREA
        size, merge, pair = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        height, width = omni_inputs.smart_resize(*FRAME, size * merge, area["shortest_edge"], area["longest_edge"])
        grid = (-(-frames // pair), height // size, width // size)
        patches = np.broadcast_to(np.float32(0), (int(np.prod(grid)), vision.in_channels * pair * size**2))
        media = omni_inputs.Media(patches, grid, 1.0, np.zeros((config.audio_config.num_mel_bins, MEL), np.float32))
        counts = self.inputs._placeholders(media)
        video, audio = ([token] * counts[token] for token in (config.video_token_id, config.audio_token_id))
        ids = [config.vision_start_token_id, *video, 0, config.audio_start_token_id, *audio, 0]
        return omni_inputs.Encoded(ids, media)


def _zeros(device: torch.device, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


def _nothing(*shape: int) -> torch.Tensor:
    """Zeros that take no room."""
    return torch.zeros(()).expand(shape)


def _without_weights(spec: str | Mapping, settings: FinetuningSettings) -> tuple[ModuleType, Any]:
    """A family and a model of it whose parameters have no place yet."""
    if isinstance(spec, Mapping):
        kind, raw, folder = importlib.import_module(mllm.FAMILIES[spec["model_type"]]), dict(spec), Path("a config")
    else:
        kind, raw, folder = mllm.family(spec), PreTrainedConfig.get_config_dict(spec)[0], Path(spec)
    if kind is qwen_omni:
        known = Qwen2_5OmniThinkerConfig.from_dict
        config = known(raw) if isinstance(spec, Mapping) else qwen_omni._thinker_config(spec)
        model = decoder.without_weights(Qwen2_5OmniThinkerForConditionalGeneration, config, folder)
        model.tie_weights()
        return kind, model
    weights = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    shapes = checkpoint.Checkpoint(folder).shapes if weights else {}
    classes: dict[ModuleType, tuple[Any, Any]] = {
        humanomni: (humanomni.HumanOmniConfig, humanomni.HumanOmni),
        videollama2: (videollama2.VideoLlama2Config, videollama2.VideoLlama2),
    }
    of, made = classes[kind]
    native = decoder.without_weights(made, of.of(raw, folder, settings.mllm.towers, shapes), folder)
    native.llm.tie_weights()
    return kind, native


def _in_four_bits(model: nn.Module, core: nn.Module, spec: str, dtype: torch.dtype) -> None:
    """The decoder's linear layers as bitsandbytes', as the families load them."""
    wanted = mllm.four_bits(spec, dtype)
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    replace_with_bnb_linear(core, quantization_config=wanted)
    if isinstance(model, Qwen2_5OmniThinkerForConditionalGeneration):
        model.is_loaded_in_4bit = True  # as transformers says of what it loads so; peft takes other layers then


def _quantised(parameter: Any, weight: torch.Tensor) -> nn.Parameter:
    """A weight as bitsandbytes holds it."""
    from bitsandbytes.functional import quantize_4bit

    of = {name: getattr(parameter, name) for name in ("blocksize", "compress_statistics", "quant_type")}
    data, state = quantize_4bit(weight, **of)
    held = nn.Parameter(data, requires_grad=False)
    held.quant_state = state
    return held


def _stored(model: nn.Module) -> Iterator[torch.Tensor]:
    """Everything that lies in memory for a model, what belongs to weights of four bits included."""
    yield from model.parameters()
    yield from model.buffers()
    for state in filter(None, (getattr(parameter, "quant_state", None) for parameter in model.parameters())):
        yield from (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
