"""The read-outs of all families, against the models' own forward and transformers' own generation."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import entr
from transformers import GenerationConfig

from tests.mllm.conftest import RANGE, close
from uacs.errors import BadInput
from uacs.mllm import MllmSettings, head, training
from uacs.mllm.context import Context
from uacs.mllm.predictor import LargePredictor, moved
from uacs.mllm.prompts import question
from uacs.mllm.reading import spell, token_entropies
from uacs.mllm.readouts import OverTrie, greedy, scores
from uacs.mllm.trie import Trie
from uacs.records import Polarity

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["qwen2_5_omni", "humanomni", "videollama2"])
def folder(request, trained_of):
    return trained_of(request.param)


def of(folder, score_range=RANGE, **settings):
    return LargePredictor(str(folder), MllmSettings(threads=1, **settings), score_range)


@pytest.fixture(scope="module")
def model(folder):
    return of(folder)


@pytest.fixture(scope="module")
def turns(model, samples):
    """Rows of mixed lengths: both media, no text, sound alone, pictures alone, text alone."""
    return [model.inputs.encode(s, model.inputs.media(s), question(s.text, RANGE)) for s in samples[:5]]


def context_of(model, turns):
    batch = moved(model.inputs.collate(turns), model.model.device)
    return Context(model.decoder, model.vocabulary, model.family.embedded(model.model, batch))


def brute_force(model, turn):
    """ln p of every score and its turn's end after a turn, (C,) float64, each by a forward over the whole of it."""
    inputs, stops, found = model.inputs, torch.tensor(sorted(model.ends)), []
    for value in scores(RANGE):
        answer = inputs.answer_ids(spell(value))[:-1]
        row = replace(turn, ids=turn.ids + answer)
        output = model.model(**inputs.collate([row]))
        logits = getattr(output, "logits", output)[0, -len(answer) - 1 :].double()
        logp = torch.log_softmax(logits, dim=-1)
        told = sum(logp[k, token] for k, token in enumerate(answer))
        found.append(told + torch.logsumexp(logp[-1, stops], dim=-1))
    return torch.stack(found)


# the trie


@torch.inference_mode()
def test_a_trie_scores_every_answer_as_brute_force_does_padded_and_alone(model, turns):
    over = OverTrie(model.inputs.answer_ids, model.ends, RANGE, CPU)
    assert len(over.values) == 61 and len(over.trie) == 79
    together = over.trie.scores(context_of(model, turns))
    for turn, among in zip(turns, together, strict=True):
        expected = brute_force(model, turn)
        (alone,) = over.trie.scores(context_of(model, [turn]))
        for found in (among, alone):
            assert torch.allclose(found.logp.exp(), expected.exp(), rtol=0, atol=1e-5)
            assert torch.allclose(found.logp, expected, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("which", ["trained_of", "untrained_of"])
def test_a_tries_greedy_path_is_what_decoding_generates_as_far_as_it_stays_on_it(model, turns, which, request):
    if which == "untrained_of":  # which says anything, so leaves the trie at some time
        model = of(request.getfixturevalue(which)(model.inputs.spec.rpartition("/")[2]))
    context = context_of(model, turns)
    tokens, entropies, _ = greedy(context, model.ends, 12)
    over = OverTrie(model.inputs.answer_ids, model.ends, RANGE, CPU)
    arrived = 0
    for row, ids, u in zip(over.trie.scores(context), tokens.tolist(), entropies, strict=True):
        assert row.path == ids[: len(row.path)]
        assert np.allclose(row.entropies, u[: len(row.entropies)], rtol=0, atol=1e-5)
        ended = ids[len(row.path)] in model.ends
        answers = [model.inputs.answer_ids(spell(v))[:-1] for v in over.values]
        assert row.arrived == (answers.index(row.path) if ended and row.path in answers else None)
        arrived += row.arrived is not None
    assert arrived > 0 or which == "untrained_of"


@torch.inference_mode()
def test_decoding_says_how_probable_what_it_wrote_was(model, turns, samples):
    values = scores(RANGE).tolist()
    for output, turn in zip(model.answer(samples[:5]), turns, strict=True):
        # brute force sums over all that may end a turn, of which one was written
        assert output.signals["logp"] <= brute_force(model, turn)[values.index(output.y)].item() + 1e-5
        assert output.signals["logp"] > -20


def test_a_tries_reading_holds_what_decoding_reads(folder, model, samples):
    over, decoded = of(folder, readout="trie").answer(samples), model.answer(samples)
    for found, said in zip(over, decoded, strict=True):
        assert found.status == "ok" and found.signals["mass"] > 0.5
        assert found.signals["greedy"] == pytest.approx(said.y, abs=1e-9)
        assert found.signals["token_entropy"] == pytest.approx(said.u, abs=1e-5)


@torch.inference_mode()
def test_a_tries_score_is_the_expectation_and_its_uncertainty_the_polaritys_entropy(folder, model, turns, samples):
    found = of(folder, readout="trie").answer(samples[:5])
    for output, turn in zip(found, turns, strict=True):
        p, values = brute_force(model, turn).exp().numpy(), np.round(np.arange(-30, 31) / 10, 1)
        assert output.signals["mass"] == pytest.approx(p.sum(), abs=1e-5)
        p = p / p.sum()
        assert output.y == pytest.approx((p * values).sum(), abs=1e-5)
        assert output.signals["entropy"] == pytest.approx(entr(p).sum(), abs=1e-4)
        assert output.signals["mode"] == values[p.argmax()]
        three = [p[values == 0].sum(), p[values < 0].sum(), p[values > 0].sum()]
        assert output.u == pytest.approx(entr(three).sum(), abs=1e-4)


def test_no_score_is_read_off_a_model_that_would_rather_say_something_else(untrained_of, folder, samples):
    for output in of(untrained_of(folder.name), readout="trie").answer(samples[:5]):
        assert output.status == "unparsable" and math.isnan(output.y)
        assert "of the model's probability is on scores" in output.error
        assert output.error.startswith("sample 's")
        assert output.signals["mass"] < 0.5


def test_a_trie_of_answers_of_mixed_lengths_by_hand():
    # a decoder that ignores what it reads: after anything, token k has probability (k + 1) / 10
    class Vocabulary(torch.nn.Module):
        def forward(self, states):
            return torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4])).expand(*states.shape[:-1], 4)

    class Nothing:
        def branch(self, tokens, depth, sees):
            return torch.zeros(1, len(tokens), 1)

        def logits(self):
            return Vocabulary()(torch.zeros(1, 1))

        vocabulary = Vocabulary()

    trie = Trie([[1], [1, 2], [2, 2]], ends={0, 3}, device=CPU)
    (found,) = trie.scores(Nothing())
    # 0.2 x 0.5, 0.2 x 0.3 x 0.5, 0.3 x 0.3 x 0.5
    assert found.logp.exp().tolist() == pytest.approx([0.1, 0.03, 0.045])
    assert len(trie) == 4  # 1, 1 2, 2, 2 2
    assert found.path == [] and found.arrived is None  # the likeliest token ends the turn before a word is said


# decoding


def test_decoding_is_transformers_greedy_generation(model, turns):
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=12,
        eos_token_id=sorted(model.ends),
        pad_token_id=model.inputs.pad_id,
        return_dict_in_generate=True,
        output_logits=True,
    )
    batch = model.inputs.collate(turns)
    model.model.generation_config = config
    with torch.inference_mode():
        theirs = model.model.generate(**batch)
        tokens, entropies, logps = greedy(context_of(model, turns), model.ends, 12)
    said = theirs.sequences[:, -len(theirs.logits) :]
    expected = torch.stack([token_entropies(step) for step in theirs.logits], dim=1)
    for row, (ours, others) in enumerate(zip(tokens.tolist(), said.tolist(), strict=True)):
        end = next(k for k, token in enumerate(ours) if token in model.ends)
        assert ours[: end + 1] == others[: end + 1]
        assert torch.allclose(entropies[row, : end + 1], expected[row, : end + 1], rtol=0, atol=1e-5)
        for k, token in enumerate(ours[: end + 1]):
            assert logps[row, k] == pytest.approx(torch.log_softmax(theirs.logits[k][row], -1)[token].item(), abs=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("readout", ["decode", "trie", "head"])
def test_a_read_out_leaves_the_context_as_it_was(folder, turns, readout):
    model = of(folder, readout=readout)
    context = context_of(model, turns)
    logits, length = context.logits(), context.cache.get_seq_length()
    first, second = (model.reads.read(context) for _ in range(2))
    assert [(r.y, r.u) for r in first] == [(r.y, r.u) for r in second]
    assert context.cache.get_seq_length() == length == context.mask.shape[1]
    assert torch.equal(context.logits(), logits)


@pytest.mark.parametrize("readout", ["trie", "head"])
def test_half_precision_is_read_too(folder, samples, readout):
    whole, half = (of(folder, readout=readout, dtype=dtype).answer(samples[:12]) for dtype in ("float32", "bfloat16"))
    assert {o.status for o in half} <= {"ok", "clipped"}
    assert np.median([abs(a.y - b.y) for a, b in zip(whole, half, strict=True)]) < 0.1
    assert np.median([abs(a.u - b.u) for a, b in zip(whole, half, strict=True)]) < 0.1


def test_a_decoder_whose_attention_slides_is_not_read_by_trie(trained_of, tmp_path):
    folder = shutil.copytree(trained_of("videollama2"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    sliding = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}
    (folder / "config.json").write_text(json.dumps(config | sliding))
    with pytest.raises(BadInput, match="its attention slides, and a trie would see all; read it by decode or head"):
        of(folder, readout="trie")
    assert of(folder).readout == "decode"


# the head


@pytest.mark.parametrize("readout", ["trie", "head"])
def test_answers_do_not_depend_on_the_batch(folder, samples, readout):
    outputs = of(folder, readout=readout).answer(samples)
    for settings in ({"batch_size": 1}, {"batch_size": 7}, {"batch_gib": 1e-6}):
        assert close(of(folder, readout=readout, **settings).answer(samples), outputs)


def test_a_head_reads_score_and_polarity_off_the_prompts_last_state(folder, model, turns, samples):
    outputs = of(folder, readout="head").answer(samples[:5])
    weights = {name: value.double().numpy() for name, value in load_file(folder / head.FILE).items()}
    for turn, output in zip(turns, outputs, strict=True):
        with torch.inference_mode():
            state = context_of(model, [turn]).states[0].double().numpy()
        inner = weights["layers.0.weight"] @ state + weights["layers.0.bias"]
        inner = inner * np.vectorize(lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))))(inner)  # GELU
        score, *logits = weights["layers.2.weight"] @ inner + weights["layers.2.bias"]
        p = np.exp(logits) / np.exp(logits).sum()
        assert output.y == pytest.approx(np.clip(3 * score, *RANGE), abs=1e-4)
        assert output.u == pytest.approx(entr(p).sum(), abs=1e-4)
        said = [output.signals[name] for name in ("p_neutral", "p_negative", "p_positive")]
        assert said == pytest.approx(p.tolist(), abs=1e-5)


def test_a_head_learns_scores_and_polarities():
    torch.manual_seed(0)
    one, states = head.Head(states=16, bound=3.0), torch.randn(200, 16)
    labels = torch.tanh(states[:, :4].sum(1)) * 3
    optimizer = torch.optim.Adam(one.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        one.loss(states, labels.tolist()).backward()
        optimizer.step()
    score, logits = one(states)
    assert (score - labels).abs().mean() < 0.3
    told = torch.where(labels < 0, Polarity.NEGATIVE, Polarity.POSITIVE)
    assert (logits.argmax(1) == told).float().mean() > 0.95


def test_a_head_apart_changes_nothing_of_the_model_and_a_joint_one_does(untrained, samples, tmp_path):
    kinds = ("none", "apart", "joint")
    for kind in kinds:
        settings = training.TrainingSettings(epochs=2, batch_size=8, warmup_steps=2, threads=1, head=kind)
        training.train(untrained, samples[:16], tmp_path / kind, settings, RANGE)
    none, apart, joint = (load_file(tmp_path / kind / "model.safetensors") for kind in kinds)
    assert all(torch.equal(none[name], apart[name]) for name in none)
    assert not all(torch.equal(none[name], joint[name]) for name in none)
    assert [(tmp_path / kind / head.FILE).exists() for kind in kinds] == [False, True, True]
    with pytest.raises(BadInput, match=f"none: no {head.FILE}.*train it with one, or read by trie"):
        of(tmp_path / "none", readout="head")


def test_a_heads_loss_by_hand():
    one = head.Head(states=2, bound=3.0, width=2)
    for weight in one.parameters():
        torch.nn.init.zeros_(weight)
    # it says 0.0 and three equal classes: (1.5 / 3)^2 = 0.25 and (0 / 3)^2, and ln 3
    loss = one.loss(torch.zeros(2, 2), [1.5, 0.0])
    assert loss.item() == pytest.approx(0.125 + math.log(3), abs=1e-6)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda w: w | {"layers.0.weight": torch.zeros(256, 8)}, "states of 8, the model's have 64; it belongs to"),
        (lambda w: w | {"bound": torch.tensor(1.0)}, r"answers in \[-1, 1\], not in \(-3.0, 3.0\); train one on this"),
        (lambda w: {k: v for k, v in w.items() if k != "layers.2.bias"}, "no head that can be read"),
        (None, "no head that can be read"),
    ],
)
def test_a_head_that_does_not_belong_is_refused(trained, tmp_path, damage, said):
    for path in trained.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / head.FILE).unlink()
    if damage:
        save_file(damage(load_file(trained / head.FILE)), tmp_path / head.FILE)
    else:
        (tmp_path / head.FILE).write_bytes(b"no tensors")
    with pytest.raises(BadInput, match=said):
        of(tmp_path, readout="head")


def test_scores_are_the_ranges_decimals():
    assert scores((-1.0, 1.0)).tolist() == [round(-1 + k / 10, 1) for k in range(21)]
    assert json.dumps(scores(RANGE).tolist()[-1]) == "3.0"
