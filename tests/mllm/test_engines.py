"""Two processes, by PyTorch alone and by DeepSpeed's own engine at ZeRO-2 and ZeRO-3, take the steps that one takes."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, multiprocessing

from uacs.errors import BadInput, WrongUse
from uacs.mllm import adapters, finetuning
from uacs.mllm.engines import SHIPPED, deepspeed_config
from uacs.mllm.finetuning_settings import Training

ENGINES = {"plain": None, "zero2": "zero2", "zero3": "zero3"}
FURTHER = {
    "plain-connectors": lambda of: {"projector": True, "projector_lr": 1e-3},
    "zero2-half": lambda of: {"mllm": of.mllm.model_copy(update={"dtype": "bfloat16"})},
    "zero3-half": lambda of: {"mllm": of.mllm.model_copy(update={"dtype": "bfloat16"})},
}
"""Further trainings, by their names, which begin with their engine's."""


def work(rank: int, size: int, meeting: str, tasks: dict[str, Training]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu"}
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    for name, task in tasks.items():
        try:
            finetuning.train(task, _stop_once(task.out))
        except KeyboardInterrupt:
            distributed.barrier()
            finetuning.train(task)
        print(name, flush=True)
    distributed.destroy_process_group()


def _stop_once(out: Path):
    """What stops a training whose folder ends in `resumed`, in all processes after the third step."""
    if not out.name.endswith("resumed"):
        return None
    step = finetuning._step

    def stepped(turn, *of):
        if turn[0] == 3:
            finetuning._step = step
            raise KeyboardInterrupt
        return step(turn, *of)

    finetuning._step = stepped
    return None


@pytest.fixture(scope="module")
def one(course, trained_of, short, tmp_path_factory) -> Training:
    """A training by one process; without dropout, which is drawn for rows as they stand in a batch."""
    folder = tmp_path_factory.mktemp("engines")
    settings = short.model_copy(update={"dropout": 0.0, "at_once": 3, "save_steps": 3})
    task = Training(course, str(trained_of("humanomni")), settings, folder / "one")
    finetuning.train(task)
    return task


@pytest.fixture(scope="module")
def together(one, tmp_path_factory) -> dict[str, Path]:
    """The same by two processes, by each engine, in peace and interrupted."""
    folder = tmp_path_factory.mktemp("together")
    tasks = {
        out: replace(one, out=folder / out, deepspeed=deepspeed_config(name) if name else None)
        for kind, name in ENGINES.items()
        for out in (kind, f"{kind}-resumed")
    }
    for name, settings in FURTHER.items():
        changed = one.settings.model_copy(update=settings(one.settings))
        engine = ENGINES[name.split("-")[0]]
        config = deepspeed_config(engine) if engine else None
        tasks[name] = replace(one, out=folder / name, settings=changed, deepspeed=config)
    multiprocessing.spawn(work, (2, str(folder / "meeting"), tasks), nprocs=2)
    return {name: task.out for name, task in tasks.items()}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [*ENGINES, *(f"{kind}-resumed" for kind in ENGINES)])
def test_two_processes_make_the_adapter_that_one_makes(one, together, kind):
    ours, theirs = load_file(one.out / adapters.WEIGHTS), load_file(together[kind] / adapters.WEIGHTS)
    assert ours.keys() == theirs.keys()
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) < 1e-5
    moved = max(weight.abs().max().item() for name, weight in ours.items() if "lora_B" in name)
    assert moved > 1e-2  # a thousand times what they may differ by
    assert not (together[kind] / "unfinished").exists()
    head = "readout_head.safetensors"
    both = load_file(one.out / head), load_file(together[kind] / head)
    # from nothing Adam's first steps are as long for a gradient that is hardly any as for another
    assert all(torch.allclose(both[0][name], both[1][name], atol=1e-4) for name in both[0])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FURTHER)
def test_so_they_do_with_connectors_and_in_half_precision(one, together, name, tmp_path):
    alone = replace(one, out=tmp_path / "alone", settings=one.settings.model_copy(update=FURTHER[name](one.settings)))
    finetuning.train(alone)
    ours, theirs = load_file(alone.out / adapters.WEIGHTS), load_file(together[name] / adapters.WEIGHTS)
    assert {weight.dtype for weight in theirs.values()} == {torch.float32}
    started = {name: weight for name, weight in ours.items() if "lora_B" in name}  # from zero
    off = sum((weight - theirs[name]).abs().sum() for name, weight in started.items())
    assert off / sum(weight.abs().sum() for weight in started.values()) < (0.2 if "half" in name else 1e-3)
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in theirs.values())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configs_are_of_their_names(name):
    zero = deepspeed_config(name)["zero_optimization"]
    assert f"zero{zero['stage']}" == name.removesuffix("-offload")
    assert ("offload_optimizer" in zero) == name.endswith("-offload")


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("{", BadInput, "no DeepSpeed config"),
        ("[]", BadInput, "no DeepSpeed config"),
        ('{"optimizer": {}, "zero_optimization": {"stage": 2}}', WrongUse, "optimizer is the training's to say"),
        ('{"zero_optimization": {"stage": 5}}', WrongUse, "zero_optimization.stage is 5; give it one from 0 to 3"),
        ('{"fp16": {"enabled": true}, "zero_optimization": {"stage": 2}}', WrongUse, "fp16 is the training's to say"),
        ('{"zero_optimization": {"stage": 2, "overlap": 1}}', WrongUse, "zero_optimization.overlap: Extra inputs"),
    ],
)
def test_a_config_that_cannot_be_is_said(tmp_path, text, error, said):
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(error, match=said):
        deepspeed_config(str(tmp_path / "own.json"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"projector": True}, "projector=true: connectors are trained by PyTorch alone; leave --deepspeed away"),
        (
            {"mllm": {"load_in_4bit": True}},
            "mllm.load_in_4bit=true: ZeRO-3 would part packed weights; take --deepspeed",
        ),
        ({}, "DeepSpeed: no processes that torch.distributed has joined"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(one, changed, said, tmp_path):
    own = one.settings.mllm.model_copy(update=changed.get("mllm", {}))
    settings = one.settings.model_copy(update=changed | {"mllm": own})
    with pytest.raises(WrongUse, match=said):
        finetuning.train(replace(one, settings=settings, out=tmp_path / "out", deepspeed=deepspeed_config("zero3")))
