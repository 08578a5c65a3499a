import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from uacs.data import media
from uacs.errors import BadInput
from uacs.mllm import omni_inputs, prompts, qwen_omni, tiny_omni
from uacs.mllm.omni_inputs import OmniInputs
from uacs.mllm.qwen_omni import load_thinker
from uacs.mllm.training import TrainingSettings, answer_loss, draw_hints, lr_share, train
from uacs.records import Sample

RANGE = (-3.0, 3.0)
FEW = TrainingSettings(epochs=3, batch_size=8, lr=3e-3, warmup_steps=2, threads=1)


def weights(folder):
    return load_thinker(str(folder)).state_dict()


@pytest.fixture(scope="module")
def few(tmp_path_factory, untrained, samples):
    folder, steps = tmp_path_factory.mktemp("few"), []
    report = train(untrained, samples[:20], folder, FEW, RANGE, progress=lambda *step: steps.append(step))
    return folder, report, steps


def test_training_lowers_the_loss_and_reports_every_step(few):
    _, report, steps = few
    assert report.losses[-1] < 0.8 * report.losses[0]
    assert [(done, of) for done, of, _ in steps] == [(k + 1, 9) for k in range(9)]
    assert report.losses[0] == pytest.approx(np.mean([loss for *_, loss in steps[:3]]))


def test_a_seed_makes_the_same_weights_and_another_seed_others(few, untrained, samples, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    train(untrained, samples[:20], again, FEW, RANGE)
    train(untrained, samples[:20], other, FEW.model_copy(update={"seed": 1}), RANGE)
    first = weights(few[0])
    assert all(torch.equal(weight, first[name]) for name, weight in weights(again).items())
    assert not torch.equal(weights(other)["lm_head.weight"], first["lm_head.weight"])


def test_what_was_learnt_by_heart_is_answered(untrained, tmp_path, build):
    samples = [Sample(f"s{i}", text=text, label=y) for i, (text, y) in enumerate([("great", 2.6), ("dull", -1.4)] * 8)]
    settings = TrainingSettings(epochs=30, batch_size=8, lr=3e-3, warmup_steps=5, threads=1)
    train(untrained, samples, tmp_path, settings, RANGE)
    model = build(tmp_path)
    assert [(o.status, o.y) for o in model.answer(samples[:2])] == [("ok", 2.6), ("ok", -1.4)]


def test_only_the_answers_tokens_count_in_the_loss(untrained, samples):
    model = load_thinker(str(untrained))
    inputs = OmniInputs(str(untrained), model.config, frames=2)
    rows = []
    for sample in samples[:6]:
        turn = inputs.encode(sample, inputs.media(sample), prompts.question(sample.text, RANGE))
        answer = inputs.answer_ids("-1.4")
        assert inputs.tokenizer.convert_ids_to_tokens(answer) == ["-", "1", ".", "4", "<|im_end|>"]
        rows.append((omni_inputs.Encoded(turn.ids + answer, turn.media), len(answer)))
    batch = inputs.collate([row for row, _ in rows], padding="right")
    labels = torch.full_like(batch["input_ids"], -100)
    for k, (row, length) in enumerate(rows):
        labels[k, len(row.ids) - length : len(row.ids)] = torch.tensor(row.ids[-length:])
    with torch.inference_mode():
        theirs = model(**batch, labels=labels).loss.item()
        assert answer_loss(qwen_omni, model, inputs, rows)[0].item() == pytest.approx(theirs, abs=1e-5)


def test_each_clip_is_decoded_once(untrained, samples, tmp_path, monkeypatch):
    decoded = []
    decode = media.decode
    monkeypatch.setattr(media, "decode", lambda path, *rest: (decoded.append(path), decode(path, *rest))[1])
    train(untrained, samples[:10], tmp_path, FEW, RANGE)
    assert sorted(decoded) == sorted(s.clip for s in samples[:10] if s.clip)


def test_a_clip_that_does_not_decode_is_left_out_and_noted(untrained, samples, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no")
    out = tmp_path / "out"
    bad = [Sample("bad", text="fine", clip=str(broken), label=1.0), Sample("empty", label=1.0)]
    report = train(untrained, [*samples[:8], *bad], out, FEW, RANGE)
    assert [note.partition(":")[0] for note in report.notes] == ["sample 'bad'", "sample 'empty'"]
    assert report.steps == 3


def test_a_sample_without_a_label_is_refused(untrained, tmp_path):
    with pytest.raises(BadInput, match="sample 'x': no label"):
        train(untrained, [Sample("x", text="fine")], tmp_path, FEW, RANGE)


def test_the_folder_remembers_how_it_was_made(few):
    folder, report, _ = few
    record = json.loads((folder / "training.json").read_text())
    assert record["settings"] == json.loads(FEW.model_dump_json())
    assert record["losses"] == report.losses
    assert record["prompts"] == prompts.version()
    assert json.loads((folder / "video_preprocessor_config.json").read_text())["num_frames"] == FEW.frames


def test_a_folder_whose_writing_failed_is_no_model(untrained, samples, tmp_path, monkeypatch):
    def fails(self, folder):
        raise OSError("disk full")

    monkeypatch.setattr(OmniInputs, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        train(untrained, samples[:8], tmp_path, FEW, RANGE)
    assert not (tmp_path / "config.json").exists()


def test_the_learning_rate_warms_up_and_falls_to_its_floor():
    settings = TrainingSettings(warmup_steps=4, final_lr=0.05)
    shares = [lr_share(step, 104, settings.warmup_steps, settings.final_lr) for step in range(105)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert [shares[4], shares[54], shares[104]] == pytest.approx([1.0, 0.525, 0.05])
    assert all(a >= b for a, b in pairwise(shares[3:]))


def test_a_surer_hint_is_nearer_to_the_label_and_all_stay_in_range():
    rng = np.random.default_rng(0)
    hints = [draw_hints(0.2, 1.0, (-1.0, 1.0), rng) for _ in range(4000)]
    y, u = (np.array([[h[f"{n}_{who}"] for who in ("small", "large")] for h in hints]) for n in "yu")
    assert np.abs(y).max() <= 1
    assert np.abs(u - np.log(3) / 2).max() <= np.log(3) / 2
    sure = u < np.log(3) / 2
    # a third of the noise in [-3, 3], times 0.5..1 where sure and 1..1.5 where not
    assert y[sure].std() == pytest.approx(0.25, abs=0.03)
    assert y[~sure].std() == pytest.approx(0.4, abs=0.05)


def test_unknown_settings_are_refused():
    with pytest.raises(ValidationError):
        TrainingSettings(learning_rate=1e-3)


def test_the_tiny_thinker_is_the_same_for_a_seed(untrained, samples, sizes, tmp_path):
    tiny_omni.create(tmp_path, [s.text or "" for s in samples], prompts.phrases(RANGE), sizes)
    assert (tmp_path / "tokenizer.json").read_text() == (untrained / "tokenizer.json").read_text()
    first = weights(untrained)
    assert all(torch.equal(weight, first[name]) for name, weight in weights(tmp_path).items())


def test_the_default_tiny_thinker_has_under_a_million_weights_and_whole_prompts(tmp_path, build):
    tiny_omni.create(tmp_path, ["so so"], prompts.phrases(RANGE))
    model = build(tmp_path)
    assert 0.7e6 < sum(p.numel() for p in model.model.parameters()) < 1e6
    turn = model.inputs.encode(Sample("x"), omni_inputs.Media(), prompts.question("so so", RANGE))
    assert len(turn.ids) < 20


def test_the_second_look_is_trained_in_the_style_that_it_will_be_asked_in(untrained, samples, tmp_path, monkeypatch):
    seen, second_question = set(), prompts.second_question

    def watched(*args, **kwargs):
        seen.add(kwargs["hints"])
        return second_question(*args, **kwargs)

    monkeypatch.setattr(prompts, "second_question", watched)
    settings = TrainingSettings(epochs=1, batch_size=8, hinted=1.0, hints="words", warmup_steps=1, threads=1)
    train(untrained, samples[:8], tmp_path, settings, RANGE)
    assert seen == {"words"}
