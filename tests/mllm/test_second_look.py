"""Stage 3 read on from stage 2's keys and values, against reading everything anew."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.mllm.conftest import RANGE, close
from uacs.mllm import MllmSettings
from uacs.mllm.chunk import Chunk, answer_chunk
from uacs.mllm.context import Context
from uacs.mllm.predictor import LargePredictor, moved
from uacs.mllm.prompts import question, second_question
from uacs.mllm.readouts import OverTrie
from uacs.records import NOT_ASKED, LargeOutput, Sample, SmallOutput

READOUTS = ["decode", "trie", "head"]


@pytest.fixture(scope="module", params=["qwen2_5_omni", "humanomni", "videollama2"])
def folder(request, trained_of):
    return trained_of(request.param)


def of(folder, **options):
    return LargePredictor(str(folder), MllmSettings(threads=1, **options), RANGE)


@pytest.fixture(scope="module")
def model(folder):
    return of(folder)


def hints(k):
    return dict(y_small=(-1) ** k * 0.5 * k, u_small=0.1 + 0.2 * k, y_large=1.0 - 0.5 * k, u_large=0.9)


def turns_of(model, samples, style):
    made = []
    for k, sample in enumerate(samples):
        media = model.inputs.media(sample)
        first, second = question(sample.text, RANGE), second_question(sample.text, RANGE, **hints(k), hints=style)
        made.append([model.inputs.encode(sample, media, prompt) for prompt in (first, second)])
    return made


def context_of(model, turns):
    batch = moved(model.inputs.collate(turns), model.model.device)
    return Context(model.decoder, model.vocabulary, model.family.embedded(model.model, batch))


@pytest.mark.parametrize("style", ["numbers", "words"])
def test_reading_on_gives_the_logits_of_reading_anew_whatever_rows_are_asked_again(model, samples, style):
    turns = turns_of(model, samples[:6], style)
    endings = {second.length - first.length for first, second in turns}
    assert (len(endings) > 1) == (style == "words")  # in words they are of all lengths, so that some are padded
    over = OverTrie(model.inputs.answer_ids, model.ends, RANGE, torch.device("cpu"))

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sets(st.integers(0, 5), min_size=1), st.booleans())
    @torch.inference_mode()
    def check(chosen, of_branch):
        rows = sorted(chosen)
        context = context_of(model, [first for first, _ in turns])
        model.reads.read(context)  # as stage 2 does
        said, instead = ([turns[k][stage].ids for k in rows] for stage in (0, 1))
        context.read_instead(rows, said, instead, model.inputs.pad_id)
        anew = context_of(model, [turns[k][1] for k in rows])
        if of_branch:  # read at once with a branch: its states, and then those of the words
            branch = over.trie.tokens, over.trie.depth, over.trie.sees
            assert torch.allclose(context.branch(*branch), anew.branch(*branch), rtol=0, atol=1e-5)
        assert torch.allclose(context.logits(), anew.logits(), rtol=0, atol=1e-5)
        assert context.mask.sum(1).tolist() == [turns[k][1].length for k in rows]
        assert torch.equal(context.last, anew.last)
        assert context.cache.get_seq_length() == context.mask.shape[1]

    check()


@pytest.mark.parametrize("readout", READOUTS)
def test_a_second_look_from_the_cache_says_what_a_fresh_one_says(folder, samples, readout):
    small = [SmallOutput(*((-1) ** k * 0.4 * (k % 5), 0.3 + 0.02 * k), (0.2, 0.4, 0.4)) for k in range(len(samples))]
    rng = np.random.default_rng(0)
    for size in (1, 5):
        model = of(folder, readout=readout, batch_size=size)
        chosen = set(rng.permutation(len(samples))[: len(samples) // 2].tolist())
        asked = []

        def due(some, large, chosen=chosen, asked=asked):
            at = [small.index(one) for one in some]
            asked.extend(at)
            return np.array([i in chosen for i in at])

        large, looked = model.answer_and_verify(samples, small, due)
        assert sorted(asked) == list(range(len(samples)))
        at = sorted(chosen)
        fresh = model.verify(*([column[i] for i in at] for column in (samples, small, large)))
        assert close([looked[i] for i in at], fresh)
        for i, one in zip(at, fresh, strict=True):
            assert looked[i].signals == pytest.approx(one.signals, abs=1e-4)
        assert {looked[i].status for i in range(len(samples)) if i not in chosen} == {"not_asked"}
        assert close(large, model.answer(samples))


def counted(monkeypatch, model):
    """How many clips' pictures and prompts' positions have gone through the model so far."""
    seen = {"towers": 0, "positions": 0}
    of_towers, forward = model.family.of_towers, model.decoder.forward

    def counting(one, batch):
        seen["towers"] += 1
        return of_towers(one, batch)

    def reading(*args, **kwargs):
        seen["positions"] += kwargs["inputs_embeds"].shape[1]
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.family, "of_towers", counting)
    monkeypatch.setattr(model.decoder, "forward", reading)
    return seen


SMALL = SmallOutput(-2.0, 0.9, (0.1, 0.8, 0.1))


def everyone(small, large):
    return np.ones(len(small), bool)


def test_a_second_look_is_told_of_another_estimators_doubt_in_nats(folder, samples):
    model, in_nats = of(folder), replace(SMALL, u=40.0, told=SMALL.u)
    answers = [model.answer_and_verify(samples[:1], [small], everyone)[1][0] for small in (SMALL, in_nats)]
    assert (answers[0].y, answers[0].u) == (answers[1].y, answers[1].u)
    (other,) = model.answer_and_verify(samples[:1], [replace(SMALL, u=40.0)], everyone)[1]
    assert other.u != answers[0].u


def test_the_second_look_costs_its_own_words_alone(folder, samples, monkeypatch):
    sample = replace(samples[0], text="it was great " * 40)
    positions = {}
    for fresh in (False, True):
        model = of(folder, readout="head", verify_prefill=fresh)
        media = model.inputs.media(sample)
        first = model.inputs.encode(sample, media, question(sample.text, RANGE)).length
        with monkeypatch.context() as patch:
            seen = counted(patch, model)
            _, (looked,) = model.answer_and_verify([sample], [SMALL], everyone)
        assert looked.status in ("ok", "clipped")
        positions[fresh] = seen["positions"] - first
    assert positions[False] < 0.4 * first < first < positions[True]


def test_a_fresh_second_look_reads_all_anew_but_encodes_no_clip_twice(folder, samples):
    model = of(folder, verify_prefill=True)
    named = model.model.named_modules()
    first = next(one for name, one in named if "patch_embed" in name and isinstance(one, nn.Conv2d | nn.Conv3d))
    calls = []
    first.register_forward_pre_hook(lambda *_: calls.append(1))
    large, looked = model.answer_and_verify(samples[:2], [SMALL] * 2, everyone)
    assert len(calls) == 1
    assert {o.status for o in looked} <= {"ok", "clipped"}
    assert close(looked, model.verify(samples[:2], [SMALL] * 2, large))


def test_what_the_gate_reads_is_pinned_unless_all_is_read_anew(trained_of, samples):
    pinned, faithful = (of(trained_of("humanomni"), verify_prefill=fresh) for fresh in (False, True))
    first, second = question("so so", RANGE), second_question("so so", RANGE, **hints(1))
    assert pinned.inputs.gate_ids(first) == pinned.inputs.gate_ids(second)
    assert faithful.inputs.gate_ids(first) == pinned.inputs.gate_ids(first)
    assert len(faithful.inputs.gate_ids(second)) > len(faithful.inputs.gate_ids(first))
    large = pinned.answer(samples[:1])
    said = [one.verify(samples[:1], [SMALL], large)[0] for one in (pinned, faithful)]
    assert abs(said[0].u - said[1].u) > 1e-6


def test_hints_that_do_not_fit_the_context_cost_the_second_look_alone(folder, samples):
    model = of(folder)
    sample = samples[0]
    media = model.inputs.media(sample)
    length = model.inputs.encode(sample, media, question(sample.text, RANGE)).length
    if hasattr(model.inputs, "limit"):
        model.inputs.limit = length + 2
    else:
        model.inputs.config.text_config.max_position_embeddings = length + 2
    (large,), (looked,) = model.answer_and_verify([sample], [SMALL], everyone)
    assert large.status in ("ok", "clipped")
    assert looked.status == "unavailable" and looked.error.startswith("sample 's0': ")


def test_a_chunk_is_asked_twice_where_due_and_a_faulty_sample_costs_its_rows_alone(model, samples):
    bad = Sample("bad", text=None, clip="/nowhere.mp4")
    small = [SMALL, SMALL, replace(SMALL, error="no"), SMALL]
    chunk = Chunk([samples[0], bad, samples[1], samples[2]], small, 0.0, "conflict")
    answer = answer_chunk(model, chunk)
    assert [o.status for o in answer.large][1] == "unavailable"
    assert answer.verify[1] == NOT_ASKED
    for i in (0, 2, 3):
        if (answer.large[i].y < -0.05) == (small[i].y < -0.05):
            assert answer.verify[i] == NOT_ASKED
        elif i == 2:
            assert "stage 3 needs both models' answers" in answer.verify[i].error
        else:
            assert answer.verify[i].status in ("ok", "clipped")


def test_where_attention_slides_the_second_look_reads_anew_and_neighbours_change_nothing(trained_of, tmp_path, samples):
    folder = shutil.copytree(trained_of("videollama2"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    sliding = {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 0}
    (folder / "config.json").write_text(json.dumps(config | sliding))
    model, small = of(folder, readout="head", hints="words"), []
    for k in range(6):
        small.append(SmallOutput(hints(k)["y_small"], hints(k)["u_small"], (0.2, 0.4, 0.4)))
    large, looked = model.answer_and_verify(samples[:6], small, everyone)
    assert close(looked, model.verify(samples[:6], small, large))
    alone = [model.answer_and_verify([s], [o], everyone)[1][0] for s, o in zip(samples[:6], small, strict=True)]
    assert close(looked, alone)


def test_rows_that_are_to_be_read_otherwise_from_before_their_beginning_are_refused(model, samples):
    turns = turns_of(model, samples[:2], "numbers")
    with torch.inference_mode():
        context = context_of(model, [first for first, _ in turns])
        with pytest.raises(ValueError, match="a row of 2 ids, of which"):
            context.read_instead([0, 1], [turns[0][0].ids, [1, 2]], [[9], [9]], model.inputs.pad_id)


@pytest.mark.parametrize("style", ["words", "both"])
def test_a_style_of_hints_reaches_the_model(folder, model, samples, style):
    large = [LargeOutput(0.4, 0.5, "ok")]
    said, other = (one.verify(samples[:1], [SMALL], large)[0] for one in (model, of(folder, hints=style)))
    assert (said.y, said.u) != (other.y, other.u)
