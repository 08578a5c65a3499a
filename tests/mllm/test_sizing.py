"""A step that is told of is the step that is taken: of tiny models, to the byte."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import bitsandbytes
import pytest
import torch
from torch.nn import functional

from tests.mllm.conftest import FAMILIES, RANGE
from tests.mllm.native.test_published import HUMANOMNI
from uacs.mllm import MllmSettings, engines, prompts, sizing, tiny_native
from uacs.mllm.finetuning import FinetuningSettings, Pupil
from uacs.mllm.predictor import Loaded

FRAMES, ROWS = 4, 2
PLAIN = {"head": "apart"}
FOUR_BITS = {"dtype": "bfloat16", "load_in_4bit": True}
CASES = [
    *((family, way) for family in FAMILIES for way in (PLAIN, FOUR_BITS)),
    ("humanomni", {"checkpointing": False, "head": "joint"}),
    ("humanomni", {"dtype": "bfloat16"}),
    ("qwen2_5_omni", {"projector": True, "head": "none"}),
    ("videollama2", {"projector": True, "dtype": "bfloat16"}),
]


def settings(**changes) -> FinetuningSettings:
    """Settings with those of the model among them."""
    asked = {name: changes.pop(name) for name in ("dtype", "load_in_4bit", "device") if name in changes}
    return FinetuningSettings(rank=8, at_once=ROWS, mllm=MllmSettings(frames=FRAMES, **asked)).model_copy(
        update=changes
    )


def zeros(shape, dtype) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A HumanOmni whose decoder is larger than its towers."""
    folder = tmp_path_factory.mktemp("deep")
    sizes = tiny_native.TinySettings(width=128, layers=3, tower_width=32, tower_layers=1)
    tiny_native.create_humanomni(folder, ["it was great"], prompts.phrases(RANGE), sizes)
    return str(folder)


@pytest.mark.parametrize(("family", "way"), CASES, ids=lambda case: case if isinstance(case, str) else ", ".join(case))
def test_what_is_told_is_what_a_real_step_takes(untrained_of, family, way):
    asked = settings(**way)
    told = sizing.need(str(untrained_of(family)), asked)
    info = SimpleNamespace(score_range=RANGE, language="en")
    pupil = Pupil(SimpleNamespace(base=str(untrained_of(family)), settings=asked, dataset=SimpleNamespace(info=info)))
    pupil.inputs = sizing.Clips(pupil.kind, pupil.model, FRAMES, zeros)
    pupil.decoder.train()
    engine = engines.Plain(pupil, pupil.groups(asked), 1.0, getattr(torch, asked.mllm.dtype), "cpu")
    weights, trained, activations = sizing.measured(engine, pupil.model, pupil.inputs.rows(ROWS))
    assert (told.weights, told.trained) == (weights, trained)
    assert told.activations == pytest.approx(activations, rel=0.02)  # a table that BEATs keeps may be there already
    learning = {id(p): p for p in [*pupil.parameters(), *pupil.model.parameters()] if p.requires_grad}
    assert told.parameters == sum(p.numel() for p in learning.values())
    assert told.trained >= 16 * told.parameters  # weight, gradient and two states of 4 bytes each


@pytest.mark.parametrize("family", ["humanomni", "videollama2"])
def test_clips_take_the_positions_that_a_decoded_one_takes(untrained_of, samples, family):
    loaded = Loaded.of(str(untrained_of(family)), MllmSettings(frames=FRAMES))
    clip = loaded.inputs.media(samples[0])
    stand_in = sizing.Clips(loaded.family, loaded.model, FRAMES, zeros)
    assert stand_in.turn.media.tokens == clip.tokens
    assert (stand_in.turn.media.frames.shape, stand_in.turn.media.sound.shape) == (clip.frames.shape, clip.sound.shape)


def test_a_config_is_enough(untrained, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(untrained / "config.json", bare)
    assert sizing.need(str(bare), settings()) == sizing.need(str(untrained), settings())


def test_on_a_gpu_it_grows_with_the_positions_and_not_with_their_square(deep, monkeypatch):
    rehearsal, needs = sizing.Rehearsal(deep, settings(device="cuda", dtype="bfloat16")), []
    for text in (1000, 4000, 7000):
        monkeypatch.setattr(sizing, "TEXT", text)
        needs.append(rehearsal.step(FRAMES, 1))
    short, middle, long = needs
    assert middle.positions - short.positions == long.positions - middle.positions == 3000
    first, second = middle.activations - short.activations, long.activations - middle.activations
    assert second == pytest.approx(first, rel=0.001)


def test_layers_computed_again_are_not_kept(deep):
    kept, again = (sizing.need(deep, settings(checkpointing=again)).activations for again in (False, True))
    assert again < kept / 1.5


def test_a_gpu_is_told_of_and_this_machine_left_as_it_was(deep):
    theirs = functional.layer_norm, functional.dropout, functional.scaled_dot_product_attention
    here, there = (sizing.need(deep, settings(device=device, dtype="bfloat16")) for device in ("cpu", "cuda"))
    assert (functional.layer_norm, functional.dropout, functional.scaled_dot_product_attention) == theirs
    assert not torch.is_autocast_enabled("cuda")
    assert there.activations < here.activations  # dropout's masks are of bytes
    assert replace(there, activations=0) == replace(here, activations=0)


def test_four_bits_are_stored_as_bitsandbytes_stores_them():
    how = {"bias": False, "compress_statistics": True, "quant_type": "nf4"}
    real = bitsandbytes.nn.Linear4bit(512, 384, **how).to("cpu")
    stored = sum(one.untyped_storage().nbytes() for one in {id(t): t for t in sizing._stored(real)}.values())
    empty = bitsandbytes.nn.Linear4bit(512, 384, device="meta", **how)
    empty.weight = sizing._quantised(empty.weight, sizing.Shape.of((384, 512), torch.bfloat16))
    assert sizing.Meter().hold(sizing._stored(empty)) == stored
    # half a byte a weight, a byte a block of 64, 4 bytes a block of 256 of these; two tables and an offset
    n = 384 * 512
    assert stored == n // 2 + n // 64 + 4 * n // 64 // 256 + 4 * (16 + 256 + 1)


def test_humanomni_7b_is_of_the_published_size():
    rehearsal = sizing.Rehearsal(HUMANOMNI, settings(dtype="bfloat16", device="cuda").model_copy(update={"rank": 16}))
    learning = [p for p in rehearsal.pupil.model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learning) == 40_370_176
    frozen = sum(p.nbytes for p in rehearsal.pupil.model.parameters() if not p.requires_grad)
    assert round(frozen / sizing.GIB, 1) == 17.8


def test_a_meter_counts_what_is_held_and_views_once():
    with sizing.Meter() as meter:
        a = torch.zeros(1000)  # 4000 bytes
        b = a.view(10, 100).T
        c = a + b.reshape(-1)  # 4000 for the copy that reshape makes, 4000 for the sum
        assert (meter.live, meter.peak) == (8000, 12000)
        del a
        assert meter.live == 8000  # b looks at it
        del b, c
        assert (meter.live, meter.peak) == (0, 12000)


def test_a_table_has_a_line_for_each_kind_of_weights_and_rank(deep):
    head, _, *lines = sizing.table(deep, settings(), ranks=(4,), frames=(2, 4), rows=(1,)).splitlines()
    assert head == "| weights, GiB | rank | learn, M | trained, GiB | 1 x 2 frames | 1 x 4 frames |"
    assert [line.split()[1] for line in lines] == ["bf16", "4-bit"]


def test_what_is_told_adds_up():
    need = sizing.Need(40_370_176, 3856, 17 * sizing.GIB, sizing.GIB // 2, 3 * sizing.GIB)
    assert str(need).splitlines() == [
        "40.4 M parameters learn, 3856 positions a row",
        "weights        17.00 GiB",
        "trained         0.50 GiB",
        "activations     3.00 GiB",
        "peak           20.50 GiB",
    ]
