"""What is wrong with one sample is its own row's, whoever stands beside it in the batch."""

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.mllm.conftest import RANGE, close
from uacs.mllm.omni_inputs import Media
from uacs.mllm.prompts import question
from uacs.records import Sample, SmallOutput

SMALL = SmallOutput(1.0, 0.9, (0.1, 0.2, 0.7))


def test_a_clip_that_does_not_decode_costs_its_row_alone(model, samples, answers, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a clip")
    mixed = [*samples[:3], Sample("bad", text="fine", clip=str(broken)), *samples[3:6]]
    outputs = model.answer(mixed)
    bad = outputs.pop(3)
    assert bad.status == "unavailable"
    assert np.isnan([bad.y, bad.u]).all()
    assert re.fullmatch(r"sample 'bad': .*broken\.mp4: .+", bad.error)
    assert close(outputs, answers[:6])


def test_a_sample_with_neither_clip_nor_text_is_unavailable(model):
    output = model.answer([Sample("x", text=" ", audio=np.ones((3, 2), np.float32))])[0]
    assert (output.status, output.error[:10]) == ("unavailable", "sample 'x'")


def test_a_missing_clip_costs_its_row_alone(model, samples, answers, tmp_path):
    gone = [str(tmp_path / "gone.mp4"), str(tmp_path), "s3://", "\ud800.mp4", "a\0b.mp4", float("nan")]
    mixed = [*samples[:3], *(Sample(f"bad{i}", text="fine", clip=clip) for i, clip in enumerate(gone)), *samples[3:6]]
    outputs = model.answer(mixed)
    bad = outputs[3 : 3 + len(gone)]
    assert [o.status for o in bad] == ["unavailable"] * len(gone)
    assert all(re.match(f"sample 'bad{i}': .", o.error) and o.error.isprintable() for i, o in enumerate(bad))
    assert str(tmp_path / "gone.mp4") in bad[0].error
    assert close(outputs[:3] + outputs[-3:], answers[:6])


def test_a_text_of_ten_thousand_words_is_read_to_half_of_the_context(model, samples, answers):
    long = Sample("x", text="dull " * 10_000)
    output, *others = model.answer([long, *samples[:5]])
    assert output.status in ("ok", "clipped")
    assert close(others, answers[:5])
    turn = model.inputs.encode(long, Media(), question("dull " * 10_000, RANGE))
    empty = model.inputs.encode(long, Media(), question("-", RANGE))
    assert len(turn.ids) - len(empty.ids) == 2048 // 2 - 1


def test_a_clip_beyond_the_context_is_unavailable(model, samples, monkeypatch):
    monkeypatch.setattr(model.inputs.config.text_config, "max_position_embeddings", 20)
    assert "tokens, the model takes 20; shorten the clip" in model.answer(samples[:1])[0].error


@pytest.mark.parametrize(("text", "same"), [("great \ud800 film", "great \ufffd film"), (" ", None)])
def test_a_text_that_is_not_fit_is_read_as_the_one_that_is(model, samples, answers, text, same):
    for ask in (model.answer, lambda asked: model.verify(asked, [SMALL] * 3, answers[:3])):
        damaged, mended = (ask([replace(samples[0], text=t), *samples[1:3]]) for t in (text, same))
        assert close(damaged, mended) and damaged[0].status != "unavailable"


def test_what_is_no_text_costs_its_row_alone(model, samples, answers):
    output, *others = model.answer([replace(samples[0], text=float("nan")), *samples[1:5]])
    assert (output.status, output.error) == (
        "unavailable",
        "sample 's0': text is of type float; give it words, or None",
    )
    assert close(others, answers[1:5])
