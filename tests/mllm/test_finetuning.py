"""An adapter learns, is the same however it was computed or interrupted, and says in one line what it cannot do."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.mllm.conftest import RANGE, dataset_of
from uacs import mllm
from uacs.errors import BadInput, Refused
from uacs.mllm import MllmSettings, adapters, lessons, prompts, validation
from uacs.mllm.finetuning import Diverged, train
from uacs.mllm.finetuning_settings import FinetuningSettings, Training
from uacs.mllm.pupil import Pupil
from uacs.mllm.validation import best, judged

FAMILIES = ["qwen2_5_omni", "humanomni", "videollama2"]


def weights(folder):
    return load_file(folder / adapters.WEIGHTS)


def apart(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.fixture
def task(course, trained, short, tmp_path):
    """A function that makes a training, with settings as given."""

    def make(out="adapter", base=trained, second_looks=None, dataset=course, **settings):
        mllm_ = short.mllm.model_copy(update=settings.pop("mllm", {}))
        return Training(
            dataset, str(base), short.model_copy(update=settings | {"mllm": mllm_}), tmp_path / out, second_looks
        )

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_it_learns_what_it_is_shown(task, trained_of, family, tmp_path):
    heard = []
    record = train(task(base=trained_of(family), epochs=6, lr=1e-2, projector=True, projector_lr=1e-3), heard.append)
    losses = [step["loss"] for step in record["steps"]]
    assert np.mean(losses[-4:]) < 0.85 * np.mean(losses[:4])
    assert [news["step"] for news in heard if "loss" in news] == list(range(1, 25))
    assert [look["step"] for look in record["validations"]] == [4, 8, 12, 16, 20, 24]
    model = mllm.build(str(tmp_path / "adapter"), MllmSettings(threads=1), RANGE)
    valid = list(task().dataset.samples("valid"))
    outputs = model.answer(valid)
    mae = np.mean([abs(output.y - sample.label) for output, sample in zip(outputs, valid, strict=True)])
    assert mae == pytest.approx(record["best"]["mae"], abs=1e-5)
    assert min(look["judged"] for look in record["validations"]) == record["best"]["judged"]


@pytest.mark.parametrize("stop", [1, 3, 5, 8])
def test_an_interrupted_training_makes_the_same_adapter_bit_by_bit(task, adapter_of, stop, tmp_path):
    def interrupt(news):
        if news["step"] == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(task(), interrupt)
    assert not (tmp_path / "adapter" / adapters.MANIFEST).exists()
    heard = []
    record = train(task(), heard.append)
    assert heard[0]["step"] > stop - 2  # no more than what came after the state that was left is done again
    undisturbed = adapter_of("qwen2_5_omni")
    for name in (adapters.WEIGHTS, "readout_head.safetensors"):
        assert (tmp_path / "adapter" / name).read_bytes() == (undisturbed / name).read_bytes()
    theirs = json.loads((undisturbed / "training.json").read_text())
    figures = [[{k: v for k, v in s.items() if k != "seconds"} for s in r["steps"]] for r in (record, theirs)]
    assert figures[0] == figures[1]
    assert not (tmp_path / "adapter" / "unfinished").exists()


def test_how_a_step_is_computed_does_not_change_it(task, tmp_path):
    train(task("whole", dropout=0.0, at_once=8, checkpointing=False))
    train(task("pieces", dropout=0.0, at_once=3, checkpointing=True))
    assert apart(tmp_path / "whole", tmp_path / "pieces") < 1e-5


def test_another_seed_makes_another_adapter(task, adapter_of, tmp_path):
    train(task(seed=1))
    assert apart(tmp_path / "adapter", adapter_of("qwen2_5_omni")) > 1e-3


def test_parts_of_a_step_sum_up_to_it(task, course):
    taken, given = lessons.lessons(course, "train"), task(dropout=0.0, checkpointing=False, head="joint")
    pupil = Pupil(given)
    rows = lessons.Rows(pupil.inputs, RANGE, "en", "numbers", 1.0, 0)
    made = [rows.row(taken[i], pupil.inputs.media(taken[i].sample), lessons.Task(i, False), 0) for i in range(7)]
    tokens = sum(row.tokens for row in made)
    whole = pupil(made, tokens, 7)
    parts = [pupil(some, tokens, 7) for some in (made[:2], made[2:3], made[3:])]
    assert sum(parts).item() == pytest.approx(whole.item(), abs=1e-5)


def test_the_head_learns_beside_the_adapter_or_with_it(task, adapter_of, tmp_path):
    # clipping alone would couple them, so there is none
    for head in ("none", "apart", "joint"):
        train(task(head, head=head, clip_gradient=1e9))
    assert apart(tmp_path / "none", tmp_path / "apart") == 0
    assert apart(tmp_path / "none", tmp_path / "joint") > 1e-4
    assert not (tmp_path / "none" / "readout_head.safetensors").exists()


def test_second_looks_are_asked_with_the_small_model_s_own_answers(task, course, monkeypatch, tmp_path, adapter_of):
    told = []
    asked = prompts.second_question
    monkeypatch.setattr(prompts, "second_question", lambda *of, **hints: told.append(hints) or asked(*of, **hints))
    ids = [sample.sample_id for sample in course.samples("train")]
    folds = pd.DataFrame({"sample_id": ids, "y_small": np.linspace(-3, 3, len(ids)), "u_small": 0.25})
    folds.to_parquet(tmp_path / "folds.parquet")
    train(task(second_looks=tmp_path / "folds.parquet", epochs=4))
    assert 0.2 < len(told) / (4 * len(ids)) < 0.5
    assert {hints["y_small"] for hints in told} <= set(folds["y_small"]) and {h["u_small"] for h in told} == {0.25}
    assert len({hints["y_large"] for hints in told}) > 10
    assert adapters.manifest(tmp_path / "adapter").second_looks
    notes = json.loads((tmp_path / "adapter" / "training.json").read_text())["notes"]
    assert len(notes) == 1 and "no column fold" in notes[0]
    assert not adapters.manifest(adapter_of("qwen2_5_omni")).second_looks


def test_connectors_are_trained_and_answer_with_the_adapter(task, trained_of, samples, tmp_path):
    base = trained_of("humanomni")
    train(task(base=base, projector=True, projector_lr=1e-2))
    kept = {name for name in weights(tmp_path / "adapter") if "lora" not in name}
    assert {name.split(".")[2] for name in kept} == {"projector", "audio_projector"}
    model = mllm.build(str(tmp_path / "adapter"), MllmSettings(threads=1), RANGE)
    saved = weights(tmp_path / "adapter")["base_model.model.audio_projector.0.weight"]
    assert any(torch.equal(weight, saved) for name, weight in model.model.named_parameters() if "audio_pro" in name)
    assert not torch.equal(mllm.load(base).audio_projector[0].weight, saved)


def test_a_clip_that_does_not_decode_is_left_out_and_noted(task, samples, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no clip")
    (tmp_path / "data").mkdir()
    bad = replace(samples[0], sample_id="bad", clip=str(broken))
    data = dataset_of(tmp_path / "data", {"train": [*samples[:9], bad], "valid": samples[30:34]})
    record = train(task(dataset=data))
    assert len(record["notes"]) == 1 and record["notes"][0].startswith("sample 'bad': ")
    (tmp_path / "none").mkdir()
    nothing = dataset_of(tmp_path / "none", {"train": [bad], "valid": samples[30:34]})
    with pytest.raises(BadInput, match="none of the samples so far can be read, as sample 'bad'"):
        train(task("none", dataset=nothing))
    record = train(task("alone", dataset=data, batch_size=1, epochs=1, validations=1))  # a step of its own
    assert [step["loss"] for step in record["steps"]].count(None) == 1 and len(record["steps"]) == 10


@pytest.mark.parametrize("projector", [False, True])
@pytest.mark.parametrize("how", [{"dtype": "bfloat16"}, {"load_in_4bit": True}])
def test_weights_in_fewer_bits_are_trained_over(task, trained_of, how, projector, tmp_path):
    base = trained_of("humanomni")
    record = train(task(base=base, mllm=how, projector=projector))
    exact = train(task("exact", base=base, projector=projector))
    losses = [[step["loss"] for step in made["steps"]] for made in (record, exact)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1) and losses[0] != losses[1]
    assert {weight.dtype for weight in weights(tmp_path / "adapter").values()} == {torch.float32}
    assert any(weight.any() for name, weight in weights(tmp_path / "adapter").items() if "lora_B" in name)
    model = mllm.build(str(tmp_path / "adapter"), MllmSettings(threads=1, **how), RANGE)
    samples = list(task().dataset.samples("valid"))
    wide = mllm.build(str(tmp_path / "exact"), MllmSettings(threads=1), RANGE)
    ours, theirs = (np.array([output.y for output in one.answer(samples)]) for one in (model, wide))
    assert np.nanmean(np.abs(ours - theirs)) < 0.5


def test_a_missing_answer_counts_as_the_worst_there_is():
    answers, labels = np.array([1.0, math.nan, -1.0, math.nan]), np.array([2.0, 1.0, -1.0, -3.0])
    found = judged(answers, labels, RANGE, "mosi")
    assert found["mae"] == pytest.approx((1 + 4 + 0 + 6) / 4)  # 1.0 is 4 from -3, -3.0 is 6 from 3
    assert found["acc2"] == pytest.approx(0.5)
    looks = [{"judged": value} for value in (0.5, 0.3, 0.3, 0.9)]
    assert (best(looks, "mae"), best(looks, "acc2")) == (1, 3)


def test_the_best_look_is_kept_not_the_last(task, monkeypatch, tmp_path):
    maes = iter([0.5, 0.2, 0.9, 0.4])
    monkeypatch.setattr(validation, "judged", lambda *_: {"mae": next(maes), "acc2": 0.0})
    saved = []
    keep = validation._save_best
    monkeypatch.setattr(validation, "_save_best", lambda *of: (saved.append(1), keep(*of)))
    record = train(task(validations=2))
    assert record["best"]["step"] == 4 and len(record["steps"]) == 8 and len(saved) == 2


def test_an_adapter_of_a_look_that_was_lost_is_not_the_best_of_the_one_that_goes_on(task, monkeypatch, tmp_path):
    def seen(*maes):
        given = iter(maes)
        monkeypatch.setattr(validation, "judged", lambda *_: {"mae": next(given), "acc2": 0.0})

    def interrupt(news):
        if "judged" in news and news["step"] == 8:  # looked, and kept, but its state is not left yet
            raise KeyboardInterrupt

    seen(0.5, 0.2)
    with pytest.raises(KeyboardInterrupt):
        train(task(), interrupt)
    first = (tmp_path / "adapter" / "unfinished" / "best-4" / adapters.WEIGHTS).read_bytes()
    seen(0.9)  # as another machine might see it
    record = train(task())
    assert record["best"]["step"] == 4
    assert (tmp_path / "adapter" / adapters.WEIGHTS).read_bytes() == first


def test_what_lies_there_is_refused(task, adapter_of, trained, tmp_path):
    with pytest.raises(Refused, match="a trained adapter lies there; name another --out or remove it"):
        train(replace(task(), out=adapter_of("qwen2_5_omni")))
    with pytest.raises(Refused, match="a model lies there; name another --out"):
        train(replace(task(), out=trained))

    def interrupt(news):
        if news["step"] == 3:  # by when the second step has left its state
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(task(), interrupt)
    with pytest.raises(Refused, match="a training with other lr, rank was begun there; name another --out"):
        train(task(rank=2, lr=1e-3))


def test_a_rate_that_is_too_high_is_said(task):
    with pytest.raises(Diverged, match=r"step \d+: the loss is (nan|inf); lower lr"):
        train(task(lr=1e20, clip_gradient=1e30))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mllm": {"dtype": "float16"}}, "float16 overflows in training"),
        ({"mllm": {"readout": "head"}, "head": "none"}, "readout=head needs a head"),
        ({"mllm": {"adapters": ["x"]}}, "an adapter is trained over a base alone"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        FinetuningSettings.model_validate(wrong)


def test_the_command_says_what_is_wrong_in_one_line(uacs, course, trained, adapter_of, monkeypatch, tmp_path):
    def said(*words, model=trained, data=course.folder):
        code, _, told = uacs("train", "mllm", data, "--model", model, "--out", tmp_path / "out", *words)
        assert told.count("\n") == 1 and told.startswith("uacs train mllm: ")
        return code, told

    assert said("--set", "ranks=3")[0] == 2
    assert said("--set", "mllm.dtype=float16")[0] == 2
    code, told = said("--set", "mllm.device=cuda")
    assert code == 1 and "cannot be put on cuda" in told
    code, told = said("--deepspeed", "zero4")
    assert code == 2 and "neither a file nor one of zero2, zero3" in told
    code, told = said(model=adapter_of("qwen2_5_omni"))
    assert code == 2 and "an adapter; name its base" in told
    code, told = said(model="recorded:answers.parquet")
    assert code == 2 and "recorded answers learn nothing" in told
    code, told = said(model=tmp_path / "nothing")
    assert code == 1 and "neither a folder here nor a model that the hub gives" in told
    (tmp_path / "half").mkdir()
    half = dataset_of(tmp_path / "half", {"train": list(course.samples("train"))})
    code, told = said(data=half.folder)
    assert code == 1 and "split 'valid' is empty" in told
    for package in ("deepspeed", "peft"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        code, told = said("--deepspeed", "zero2")
        assert code == 1 and package in told.lower() and "pip install '.[finetune]'" in told


def test_the_command_trains_reports_and_is_evaluated(uacs, course, trained, tmp_path):
    sets = [f"--set={word}" for word in ("rank=2", "alpha=4", "batch_size=16", "mllm.frames=2", "mllm.threads=1")]
    code, said, _ = uacs("train", "mllm", course.folder, "--model", trained, "--out", tmp_path / "out", *sets)
    assert code == 0 and "of 2 is kept, valid Acc2" in said
    assert "Adapter over" in (tmp_path / "out" / "report.html").read_text()
    report = (tmp_path / "out" / "report.html").read_bytes()
    (tmp_path / "out" / "report.html").unlink()
    assert uacs("report", tmp_path / "out")[0] == 0 and (tmp_path / "out" / "report.html").read_bytes() == report
    code, said, _ = uacs("doctor", "--mllm", tmp_path / "out")
    assert code == 0 and "parameters over" in said and "trained on demo without second looks" in said


def test_a_base_that_has_no_number_to_say_yet_is_told_as_that(uacs, course, untrained, tmp_path):
    sets = [f"--set={word}" for word in ("rank=1", "batch_size=30", "mllm.frames=2", "validations=1")]
    code, said, _ = uacs("train", "mllm", course.folder, "--model", untrained, "--out", tmp_path / "out", *sets)
    assert code == 0 and said.count("valid: 10 unanswered, no answer is a number yet") == 2
    assert json.loads((tmp_path / "out" / "training.json").read_text())["best"]["mae"] is None
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("before", ["Manifest", "engines.drop"])
def test_one_that_is_killed_while_it_puts_the_adapter_in_place_does_it_again(
    task, adapter_of, monkeypatch, before, tmp_path
):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"uacs.mllm.finetuning.{before}", killed)
        with pytest.raises(KeyboardInterrupt):
            train(task())
    train(task())
    ours, theirs = tmp_path / "adapter", adapter_of("qwen2_5_omni")
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
    assert (ours / adapters.WEIGHTS).read_bytes() == (theirs / adapters.WEIGHTS).read_bytes()
