"""What training an adapter takes of a device: told by a dry run, without a weight and without the device.

A model is built of its config alone, an adapter put on it, and a step taken by the lines that take real ones: towers,
connectors, splice, decoder, loss, gradients, Adam. Only its tensors are torch's FakeTensors, which have shapes and
types and no numbers; ids, masks and positions are real, since what is computed depends on them. Each tensor is counted
from when it is made until nothing holds it any more.

    weights        what is not trained, as it lies there; in 4 bits as bitsandbytes stores it
    trained        parameters that learn, in float32, their gradients and Adam's two states
    activations    the most that a batch takes over both, wherever in the step that is

Not counted: CUDA itself (half a GiB or so), workspaces inside of kernels, what the allocator rounds up and cannot use
for being in pieces, and what validation takes. A device wants some 10 % more than is said here. DeepSpeed's parts and
buffers are not told either: this is one process by itself.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig, Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from uacs import mllm
from uacs.mllm import humanomni, lora, omni_inputs, qwen_omni, videollama2
from uacs.mllm.engines import Plain
from uacs.mllm.finetuning import FinetuningSettings
from uacs.mllm.head import Head
from uacs.mllm.lessons import Row
from uacs.mllm.native import beats, checkpoint, decoder, inputs
from uacs.mllm.native.sounds import FilterBanks
from uacs.mllm.training import answer_loss

GIB = 2**30
TEXT, ANSWER, QUESTION = 220, 5, 150
"""Tokens of a row beside its media: stage 3's turn with a transcript of 40 and the answer in it; the answer's, of
these; and what HumanOmni's gate reads."""
PICTURE, SECONDS = (360, 640), 30
"""Of a clip, where the family's inputs are not always of one size: height and width of a frame, and its length."""
OMNI_RATE = 100  # mel frames a second


@dataclass(frozen=True)
class Need:
    """What a step takes: trained parameters, positions of the batch's longest row, and bytes of each kind."""

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
        parts = {"weights": self.weights, "trained": self.trained, "activations": self.activations, "peak": self.total}
        lines = [f"{name:12}{size / GIB:8.2f} GiB" for name, size in parts.items()]
        return "\n".join([f"{self.parameters / 1e6:.1f} M parameters learn, {self.positions} positions a row", *lines])


def need(spec: str | Mapping, settings: FinetuningSettings) -> Need:
    """What a step takes of a device: `at_once` samples with a clip of `mllm.frames` frames each, when Adam has its states.

    spec is a folder, of which config.json and towers' configs are enough, a hub id, or what a config.json says.
    mllm.device says by whose rules; a GPU's need no GPU. Raises `BadInput` naming the folder and the mend.
    """
    dry = DryRun(spec, settings)
    return dry.take(settings.mllm.frames, settings.at_once)


def table(
    spec: str | Mapping,
    settings: FinetuningSettings,
    ranks: Sequence[int] = (16, 64, 128),
    frames: Sequence[int] = (8, 16, 32),
    rows: Sequence[int] = (1, 4),
) -> str:
    """GiB at a step's peak on a GPU, in Markdown: a line for bf16 and 4 bits by rank, a column for rows by frames."""
    heads = ["weights", "rank", "learn", "states", *(f"{n} x {t} frames" for n in rows for t in frames)]
    lines = [heads, ["---:"] * len(heads)]
    for bits in (False, True):
        for rank in ranks:
            of = {"device": "cuda", "dtype": "bfloat16", "load_in_4bit": bits}
            asked = settings.model_copy(update={"rank": rank, "mllm": settings.mllm.model_copy(update=of)})
            dry = DryRun(spec, asked)
            needs = [dry.take(t, n) for n in rows for t in frames]
            kind, first = "4-bit" if bits else "bf16", needs[0]
            begin = [f"{kind} {first.weights / GIB:.1f}", str(rank), f"{first.parameters / 1e6:.1f} M"]
            lines.append([*begin, f"{first.trained / GIB:.1f}", *(f"{one.total / GIB:.1f}" for one in needs)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class DryRun:
    """A model with an adapter, of shapes alone, that takes steps."""

    def __init__(self, spec: str | Mapping, settings: FinetuningSettings):
        lora.needed("the dry run")
        asked = settings.mllm
        self.settings, self.dtype = settings, getattr(torch, asked.dtype)
        self.kind, model = _without_weights(spec, settings)
        core = self.kind.decoder_of(model)
        if asked.load_in_4bit:
            _four_bits(model, core, str(spec), self.dtype)
        whole = [name for name in self.kind.CONNECTORS if _has(model, name)] if settings.projector else []
        with checkpoint.without_weights():
            lora.attach(model, core, settings.rank, settings.alpha, settings.dropout, whole)
        self.shapes = FakeTensorMode(allow_non_fake_inputs=True)
        _as_shapes(model, self.dtype, self.shapes)
        if settings.checkpointing:
            core.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.eval()
        core.train()
        with self.shapes:
            head = None if settings.head == "none" else Head(core.config.hidden_size, 3.0)
        self.pupil = _Pupil(self.kind, model, head, settings.head == "joint")

    def take(self, frames: int | None, rows: int) -> Need:
        """A batch of a step that is not the first."""
        model, settings = self.pupil.model, self.settings
        self.pupil.inputs = clips = Clips(self.kind, model, frames, self.shapes)
        learning = [*lora.trained(model).values(), *(self.pupil.head.parameters() if self.pupil.head else ())]
        engine = Plain(self.pupil, [{"params": learning, "lr": 0.0}], settings.clip_gradient, self.dtype, "cpu")
        batch = clips.rows(rows)
        with (
            nullcontext()
            if torch.device(settings.mllm.device).type == "cpu"
            else _as_on_cuda(self.dtype != torch.float32)
        ):
            weights, trained, activations = measured(engine, model, batch)
        learnt = sum(parameter.numel() for parameter in learning)
        return Need(learnt, max(row.turn.length for row in batch), weights, trained, activations)


def measured(engine: Plain, model: nn.Module, rows: list[Row]) -> tuple[int, int, int]:
    """Bytes of what is not trained, of what is, with its gradients and Adam's states, and of the rest at the peak of a
    batch: its loss, its gradients, and the optimiser's step."""
    learning = engine.parameters
    for parameter in learning:
        parameter.grad = torch.zeros_like(parameter)
    engine.optimiser.step()
    meter = Meter()
    meter.hold(tensor for row in rows for tensor in vars(row.turn.media).values() if isinstance(tensor, torch.Tensor))
    meter.live = 0  # clips lie in the host's memory until they are moved
    states = [tensor for state in engine.optimiser.state.values() for tensor in state.values()]
    trained = meter.hold([*learning, *(parameter.grad for parameter in learning), *states])
    weights = meter.hold(_stored(model)) + meter.hold(engine.module.buffers())
    with meter:
        engine.backward(engine.loss(rows, sum(row.tokens for row in rows), len(rows)), True)
        engine.step([0.0] * len(engine.optimiser.param_groups))
    return weights, trained, meter.peak - weights - trained


class Meter(TorchDispatchMode):
    """Counts the bytes of tensors that are made within it: those that are `live`, and the most that were, `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, ref] = {}  # storages, by which views of a tensor are that tensor

    def hold(self, tensors: Iterable[torch.Tensor]) -> int:
        """Count tensors that are there already; returns their bytes, unless they were counted before."""
        before = self.live
        for tensor in tensors:
            self._count(tensor)
        return self.live - before

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Every operation that makes tensors, forwards and backwards."""
        if function is torch.ops.prim.device.default:  # asked for more often than anything is computed
            return args[0].fake_device
        made = function(*_placed(function, args), **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return made

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known[key] = ref(storage, lambda _: self._drop(key, size))
            self.live += size
            self.peak = max(self.peak, self.live)

    def _drop(self, key: int, size: int) -> None:
        del self._known[key]
        self.live -= size


def _placed(function, args: tuple) -> tuple:
    """An indexing's arguments with real masks as the places that they mark: of a mask without numbers nobody knows how
    many."""
    if function not in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default):
        return args
    where: list = []
    for one in args[1]:
        real = isinstance(one, torch.Tensor) and not isinstance(one, FakeTensor) and one.dtype == torch.bool
        where += one.nonzero(as_tuple=True) if real else [one]
    return (args[0], where, *args[2:])


def _layer_norm(x, shape, weight=None, bias=None, eps=1e-5) -> torch.Tensor:
    """In float32, wherever autocast reigns on a GPU."""
    if torch.is_autocast_enabled("cpu"):
        x, weight, bias = (None if one is None else one.float() for one in (x, weight, bias))
    return torch.layer_norm(x, shape, weight, bias, eps)


def _dropout(x, p=0.5, training=True, inplace=False) -> torch.Tensor:
    """With a mask of a byte an element."""
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False) -> torch.Tensor:
    """By the kernel that a GPU would take: flash attention, the one for masks and float32, or none."""
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (one.to(torch.get_autocast_dtype("cpu")) for one in (q, k, v))
    if attn_mask is None and q.dtype != torch.float32:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, scale=scale)[0]
    if enable_gqa and q.shape[1] != k.shape[1]:
        return torch.ops.aten._scaled_dot_product_attention_math(
            q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=True
        )[0]
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = q.new_zeros(attn_mask.shape)
        length = attn_mask.shape[-1]
        attn_mask = functional.pad(attn_mask.to(q.dtype), (0, -length % 16))[..., :length]  # rows begin at whole 16s
        attn_mask = attn_mask.expand(*q.shape[:3], length)
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]


ON_CUDA = (
    (functional, "layer_norm", _layer_norm),
    (functional, "dropout", _dropout),
    (functional, "scaled_dot_product_attention", _attention),
    (beats, "scaled_dot_product_attention", _attention),
)
"""Operations for which a GPU holds more or less in memory than a CPU, and where they are called from."""


@contextmanager
def _as_on_cuda(autocast: bool) -> Iterator[None]:
    """Within it tensors of shapes alone take the room that they would on a GPU."""
    was = [getattr(*place) for *place, _ in ON_CUDA]
    try:
        torch.set_autocast_enabled("cuda", autocast)  # peft's 4-bit layers ask for this one
        for module, name, ours in ON_CUDA:
            setattr(module, name, ours)
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        for (module, name, _), theirs in zip(ON_CUDA, was, strict=True):
            setattr(module, name, theirs)


class _Pupil(nn.Module):
    """What `finetuning.Pupil` computes, without looking at a number."""

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

    What it collates is a copy, as a batch is that was moved to a device; `made` is where numbers are made: real ones,
    or within a FakeTensorMode.
    """

    def __init__(self, kind: ModuleType, model: Any, frames: int | None, made: AbstractContextManager | None = None):
        self.made = made or nullcontext()
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
        """Rows with their answers; they differ in length, as transcripts do, so that one of several has a mask."""
        turns = [replace(self.turn, ids=self.turn.ids + [0] * (TEXT - min(k, 1))) for k in range(count)]
        return [Row(turn, ANSWER, 0.0) for turn in turns]

    def collate(self, rows: list, padding: str) -> dict:
        """As the family collates."""
        batch = self.inputs.collate(rows, padding)
        with self.made:
            return {name: _copied(value) for name, value in batch.items()}

    def _native(self, kind: ModuleType, model: Any, frames: int) -> inputs.Encoded:
        config = model.config
        side, sound = config.vision.image_size, None
        if kind is humanomni and config.audio:
            sound = _zeros(config.audio.num_mel_bins, 2 * config.audio.max_source_positions)
        if kind is videollama2:
            media, frames = config.media, max(frames, 1 if model.video_count(1) else 2)
            banks = FilterBanks(media.mm_audio_windows, media.mm_audio_window, media.mm_audio_seconds)
            sound = _zeros(banks.frames, banks.mels) if config.beats else None
        clip = self.inputs.place(_zeros(frames, 3, side, side), sound)
        return inputs.Encoded([*clip.tokens], clip, [0] * QUESTION)

    def _omni(self, config: Qwen2_5OmniThinkerConfig, frames: int) -> omni_inputs.Encoded:
        vision, area = config.vision_config, omni_inputs.PUBLISHED_FRAME_AREA
        size, merge, pair = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        wanted = omni_inputs.smart_resize(*PICTURE, size * merge, area["shortest_edge"], area["longest_edge"])
        grid = (-(-frames // pair), wanted[0] // size, wanted[1] // size)
        patches = np.broadcast_to(np.float32(0), (int(np.prod(grid)), vision.in_channels * pair * size**2))
        mel = np.broadcast_to(np.float32(0), (config.audio_config.num_mel_bins, SECONDS * OMNI_RATE))
        media = omni_inputs.Media(patches, grid, SECONDS / grid[0], mel)
        counts = self.inputs._placeholders(media)
        video, audio = ([token] * counts[token] for token in (config.video_token_id, config.audio_token_id))
        return omni_inputs.Encoded([config.vision_start_token_id, *video, config.audio_start_token_id, *audio], media)


def _zeros(*shape: int) -> torch.Tensor:
    """Zeros that take no room."""
    return torch.zeros(()).expand(shape)


def _copied(value: Any) -> Any:
    if isinstance(value, list):
        return [_copied(one) for one in value]
    floats = isinstance(value, torch.Tensor) and value.is_floating_point()
    return torch.zeros(value.shape, dtype=value.dtype) if floats else value


def _without_weights(spec: str | Mapping, settings: FinetuningSettings) -> tuple[ModuleType, Any]:
    """A family and a model of it whose parameters have no place."""
    if isinstance(spec, Mapping):
        kind, raw, folder = importlib.import_module(mllm.FAMILIES[spec["model_type"]]), dict(spec), Path("a config")
    else:
        kind, raw, folder = mllm.family(spec), PreTrainedConfig.get_config_dict(spec)[0], Path(spec)
    if kind is qwen_omni:
        config: Any = Qwen2_5OmniThinkerConfig.from_dict(raw.get("thinker_config", raw))
        model: Any = decoder.without_weights(Qwen2_5OmniThinkerForConditionalGeneration, config, folder)
        model.tie_weights()
        return kind, model
    there = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    shapes = checkpoint.Checkpoint(folder).shapes if there else {}
    of, made = {
        humanomni: (humanomni.HumanOmniConfig, humanomni.HumanOmni),
        videollama2: (videollama2.VideoLlama2Config, videollama2.VideoLlama2),
    }[kind]
    model = decoder.without_weights(made, of.of(raw, folder, settings.mllm.towers, shapes), folder)
    model.llm.tie_weights()
    return kind, model


def _four_bits(model: nn.Module, core: nn.Module, spec: str, dtype: torch.dtype) -> None:
    """The decoder's linear layers as bitsandbytes has them, as the families load them."""
    wanted = mllm.four_bits(spec, dtype)
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    replace_with_bnb_linear(core, quantization_config=wanted)
    if isinstance(model, Qwen2_5OmniThinkerForConditionalGeneration):
        model.is_loaded_in_4bit = True  # transformers says so of its own, and peft takes other layers then


def _as_shapes(model: nn.Module, dtype: torch.dtype, shapes: FakeTensorMode) -> None:
    """Give every parameter a place that takes no memory: what learns in float32, all else in `dtype` or four bits."""
    known: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if parameter not in known:
                learns = parameter.requires_grad
                with shapes:
                    empty = torch.empty(parameter.shape, dtype=torch.float32 if learns else dtype)
                four = hasattr(parameter, "quant_state")
                known[parameter] = _quantised(parameter, empty) if four else nn.Parameter(empty, learns)
            module._parameters[name] = known[parameter]


def _quantised(parameter: Any, weight: torch.Tensor) -> nn.Parameter | None:
    """A weight as bitsandbytes would hold it, where it would."""
    if not hasattr(parameter, "quant_state"):
        return None
    from bitsandbytes.functional import quantize_4bit

    of = {name: getattr(parameter, name) for name in ("blocksize", "compress_statistics", "quant_type")}
    data, state = quantize_4bit(weight, **of)
    held = nn.Parameter(data, requires_grad=False)
    held.quant_state = state
    return held


def _stored(model: nn.Module) -> Iterator[torch.Tensor]:
    """Everything that lies in memory for a model."""
    yield from model.parameters()
    yield from model.buffers()
    for parameter in model.parameters():
        for state in filter(None, (getattr(parameter, "quant_state", None),)):
            yield from (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)


def _has(model: nn.Module, name: str) -> bool:
    return any(path == name for path, _ in model.named_modules())
