"""Who takes a training step: PyTorch itself, or DeepSpeed, whose processes share optimiser states and weights.

Processes that torch.distributed has joined train one model together: the losses that they are given are their parts
of a step's loss, and the step is the one that a single process would make of the sum.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import distributed, nn

from uacs.errors import BadInput, WrongUse, reason

SHIPPED = ("zero2", "zero3", "zero2-offload", "zero3-offload")
OURS = (
    "optimizer",
    "scheduler",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "fp16",
    "bf16",
)
"""Keys of a DeepSpeed config that the training's own settings say."""
STATE, LATEST = "state.pt", "latest"  # the second by DeepSpeed, whose parts lie in the folder that it names


def place() -> tuple[int, int]:
    """This process's rank, and how many train together: (0, 1) unless torch.distributed has joined them."""
    together = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)


def summed(values: list[float], device: str) -> list[float]:
    """Of each value the sum over all processes."""
    if place()[1] == 1:
        return values
    told = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(told)
    return told.tolist()


def gathered(value: Any) -> list[Any]:
    """A value of each process, by rank; it has to be one that pickle takes."""
    if place()[1] == 1:
        return [value]
    told: list[Any] = [None] * place()[1]
    distributed.all_gather_object(told, value)
    return told


class Plain:
    """Every process has all weights and the whole optimiser."""

    lockstep = partitioned = False  # processes exchange nothing within a step

    def __init__(self, module: nn.Module, groups: list[dict], clip: float, dtype: torch.dtype, device: str):
        self.module, self.clip, self.dtype, self.device = module, clip, dtype, torch.device(device).type
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimiser = torch.optim.AdamW(groups, fused=True)

    def loss(self, *inputs) -> torch.Tensor:
        """What the module makes of a batch."""
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            return self.module(*inputs)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add a batch's gradients; `last` is the step's last one."""
        loss.backward()

    def step(self, rates: list[float]) -> None:
        """Move by the gradients of all processes, at a learning rate for each group."""
        if place()[1] > 1:
            self._sum_gradients()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad()

    def whole(self) -> AbstractContextManager:
        """Within it every trained weight is whole on every process."""
        return nullcontext()

    def weights(self, module: nn.Module) -> dict[str, torch.Tensor]:
        """What of a module is trained, by name, within `whole`; all processes have to ask."""
        return {name: weight.detach() for name, weight in module.named_parameters() if weight.requires_grad}

    def save(self, folder: Path, told: dict) -> None:
        """Leave the state from which to go on, and what is `told` with it; the first process's is everyone's."""
        if place()[0] == 0:
            state = {name: weight for name, weight in self.module.named_parameters() if weight.requires_grad}
            aside = folder / f"{STATE}.partial"
            torch.save({"trained": state, "optimiser": self.optimiser.state_dict(), "told": told}, aside)
            aside.replace(folder / STATE)

    def load(self, folder: Path) -> dict:
        """Take up a state that was left; returns what was told with it."""
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        weights = dict(self.module.named_parameters())
        with torch.no_grad():
            for name, weight in state["trained"].items():
                weights[name].copy_(weight)
        self.optimiser.load_state_dict(state["optimiser"])
        return state["told"]

    def _sum_gradients(self) -> None:
        """In one exchange: a process whose part of the step was empty has no gradients, and takes the others'."""
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in self.parameters])
        distributed.all_reduce(flat)
        for parameter, gradient in zip(self.parameters, flat.split([p.numel() for p in self.parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter)


class Sharded:
    """DeepSpeed (ZeRO, arXiv 1910.02054): optimiser states and gradients in parts, at stage 3 weights too."""

    def __init__(
        self,
        module: nn.Module,
        groups: list[dict],
        clip: float,
        dtype: torch.dtype,
        device: str,
        at_once: int,
        config: Mapping,
    ):
        deepspeed = import_deepspeed(device)
        zero = config.get("zero_optimization", {})
        self.lockstep, self.partitioned = True, zero.get("stage") == 3
        whole = {
            **config,
            "train_micro_batch_size_per_gpu": at_once,
            "gradient_accumulation_steps": 1,  # a step's batches are counted here
            "gradient_clipping": clip,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": dtype == torch.bfloat16},
            "data_types": {"grad_accum_dtype": "fp32"},  # as PyTorch alone does
        }
        self.deepspeed, self.size = deepspeed, place()[1]
        parameters = [parameter for group in groups for parameter in group["params"]]
        self.engine, *_ = deepspeed.initialize(
            model=module,
            model_parameters=parameters,
            optimizer=torch.optim.AdamW(groups),
            config=whole,
            dist_init_required=False,
        )
        self.module, self.parameters, self.half = module, parameters, dtype == torch.bfloat16

    def loss(self, *inputs) -> torch.Tensor:
        """What the module makes of a batch."""
        return self.engine(*inputs)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add a batch's gradients; `last` is the step's last one."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * self.size)  # it takes the mean over processes, where the sum is meant

    def step(self, rates: list[float]) -> None:
        """Move by the gradients of all processes, at a learning rate for each group."""
        for group, rate in zip(self.engine.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.engine.step()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within it every trained weight is whole on every process."""
        gather = self.deepspeed.zero.GatheredParameters(self.parameters) if self.partitioned else nullcontext()
        with gather:
            yield

    def weights(self, module: nn.Module) -> dict[str, torch.Tensor]:
        """What of a module is trained, by name, within `whole`; all processes have to ask.

        In half precision those that the optimiser moves, of which the module has copies that are rounded.
        """
        trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        exact = self.deepspeed.utils.safe_get_full_fp32_param if self.half else torch.Tensor.detach
        return {name: exact(weight) for name, weight in trained.items()}

    def save(self, folder: Path, told: dict) -> None:
        """Leave the state from which to go on, and what is `told` with it; each process writes its part."""
        tag = f"step{told['step']}"
        also = {"client_state": {"told": told}, "save_latest": False, "exclude_frozen_parameters": True}
        self.engine.save_checkpoint(str(folder), tag, **also)
        distributed.barrier()
        if place()[0] == 0:  # now that every process has written its part
            aside = folder / f"{LATEST}.partial"
            aside.write_text(tag)
            aside.replace(folder / LATEST)
            for other in folder.glob("step*"):
                if other.name != tag:
                    shutil.rmtree(other)

    def load(self, folder: Path) -> dict:
        """Take up a state that was left; returns what was told with it."""
        _, state = self.engine.load_checkpoint(str(folder), load_module_strict=False)
        return state["told"]


Engine = Plain | Sharded


def left(folder: Path) -> bool:
    """Whether a state to go on from lies in a folder."""
    return (folder / STATE).exists() or (folder / LATEST).exists()


def drop(folder: Path) -> None:
    """Have a state that lies in a folder be none any more."""
    for name in (STATE, LATEST):
        (folder / name).unlink(missing_ok=True)


def deepspeed_config(name: str) -> dict:
    """A DeepSpeed config: one of `SHIPPED`, or a JSON file; raises naming what is wrong with it."""
    if name not in SHIPPED and not Path(name).is_file():
        raise WrongUse(f"--deepspeed {name}: neither a file nor one of {', '.join(SHIPPED)}")
    path = files("uacs.mllm") / "deepspeed" / f"{name}.json" if name in SHIPPED else Path(name)
    try:
        config = json.loads(path.read_text())
        stage = config.get("zero_optimization", {}).get("stage")
    except (ValueError, AttributeError) as error:
        raise BadInput(f"{name}: no DeepSpeed config ({reason(error)}); it is a JSON object") from None
    if ours := [key for key in OURS if key in config]:
        raise WrongUse(f"--deepspeed {name}: {ours[0]} is the training's to say; leave it away")
    if stage not in (0, 1, 2, 3):
        raise WrongUse(f"--deepspeed {name}: zero_optimization.stage is {stage}; give it one from 0 to 3")
    if name not in SHIPPED:
        _check_zero(config["zero_optimization"], name)
    return config


def _check_zero(zero: dict, name: str) -> None:
    import_deepspeed("cuda" if torch.cuda.is_available() else "cpu")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    try:
        DeepSpeedZeroConfig(**zero)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["zero_optimization", *map(str, first["loc"])])
        raise WrongUse(f"--deepspeed {name}: {key}: {first['msg']}; see DeepSpeed's documentation") from None


def import_deepspeed(device: str):
    """The package, quiet; raises `BadInput` where it is missing."""
    if torch.device(device).type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    try:
        import deepspeed
    except ImportError as error:
        mend = "pip install '.[finetune]', or leave --deepspeed away"
        raise BadInput(f"DeepSpeed is not here ({reason(error)}); {mend}") from None
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # compiled at its first use, by all processes at once, which has failed; gloo does without
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
