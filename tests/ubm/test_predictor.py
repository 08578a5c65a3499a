"""The small predictor: order kept, batches without influence, one bad sample costs itself."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests import threads
from uacs.cascade.uncertainty import entropy
from uacs.errors import BadInput
from uacs.records import Sample
from uacs.ubm.predictor import SmallPredictor


@pytest.fixture(scope="module")
def samples(dataset):
    return list(dataset.samples("valid"))


@pytest.fixture(scope="module")
def outputs(ubm, samples):
    return SmallPredictor(ubm).predict(samples)


def scores(outputs):
    return np.array([(o.y, o.u, *o.p) for o in outputs])


def test_probabilities_sum_to_one_and_u_is_their_entropy(outputs):
    for output in outputs:
        assert sum(output.p) == pytest.approx(1)
        assert output.u == pytest.approx(float(entropy(np.array(output.p))))


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_batches_have_no_influence(ubm, samples, outputs, batch_size):
    again = SmallPredictor(ubm, batch_size=batch_size).predict(samples)
    assert np.allclose(scores(again), scores(outputs), atol=1e-5)


def test_very_long_clips_are_answered_in_smaller_batches(ubm, samples, outputs, monkeypatch):
    monkeypatch.setattr("uacs.ubm.predictor.MOST_NUMBERS", 200)
    predictor, seen = SmallPredictor(ubm), []
    predictor.model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert np.allclose(scores(predictor.predict(samples)), scores(outputs), atol=1e-5)
    padded = [rows.values for batch in seen for rows in batch.values()]
    assert len(seen) > 1 and all(len(values) == 1 or values.numel() <= 200 for values in padded)


def test_order_is_kept(ubm, samples, outputs):
    backwards = SmallPredictor(ubm).predict(samples[::-1])
    assert np.allclose(scores(backwards)[::-1], scores(outputs), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(audio=np.full((2, 3), np.nan, np.float32)), "audio holds NaN"),
        (dict(audio=np.full((2, 3), np.inf, np.float32)), "audio holds NaN or infinity"),
        (dict(audio=np.full((2, 3), 1e300)), "audio holds NaN or infinity"),
        (dict(audio=[[1.0, 2.0, 3.0]]), "audio is of type list; give an array of numbers (steps, 3)"),
        (dict(audio=np.array([["a", "b", "c"]])), "audio is of type <U1; give"),
        (dict(text=float("nan")), "text is of type float; give it words, or None"),
        (dict(text=" ", audio=None), "nothing the UBM reads; give it text or audio features"),
        (dict(audio=np.ones((2, 5), np.float32)), "audio is (2, 5), the UBM reads (steps, 3)"),
        (dict(audio=np.ones((0, 3), np.float32)), "audio has 0 steps"),
        (dict(text=None, audio=None), "nothing the UBM reads; give it text or audio features"),
    ],
)
def test_a_bad_sample_says_why_and_costs_no_other(ubm, samples, outputs, change, said):
    damaged = [*samples[:5], replace(samples[5], **change), *samples[6:]]
    again = SmallPredictor(ubm).predict(damaged)
    assert said in again[5].error and samples[5].sample_id in again[5].error
    assert np.isnan(again[5].y)
    kept = [i for i in range(len(samples)) if i != 5]
    assert np.allclose(scores(again)[kept], scores(outputs)[kept], atol=1e-5)


def test_a_modality_that_it_was_not_trained_with_is_passed_over(ubm, samples, outputs):
    seen = [replace(s, vision=np.ones((2, 9), np.float32)) for s in samples]
    assert np.allclose(scores(SmallPredictor(ubm).predict(seen)), scores(outputs), atol=1e-5)


def test_nothing_in_gives_nothing_out(ubm):
    assert SmallPredictor(ubm).predict([]) == []


def test_words_it_never_saw_are_answered(ubm):
    (output,) = SmallPredictor(ubm).predict([Sample("s", "完全 unknown ¿words?")])
    assert output.error is None and np.isfinite(output.y)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("", None),
        (" \n", None),
        ("great \ud800 film", "great \ufffd film"),
        ("great \ud83d\ude00 film", "great \U0001f600 film"),
        ("dull " * 10_000, "dull " * 126),  # 128 tokens with the two at the ends
    ],
)
def test_a_text_that_is_not_fit_is_read_as_the_one_that_is_and_costs_no_other(ubm, samples, outputs, text, same):
    damaged, mended = ([*samples[:5], replace(samples[5], text=t), *samples[6:]] for t in (text, same))
    again = SmallPredictor(ubm).predict(damaged)
    assert [o.error for o in again] == [None] * len(samples)
    assert np.array_equal(scores(again), scores(SmallPredictor(ubm).predict(mended)))
    kept = [i for i in range(len(samples)) if i != 5]
    assert np.allclose(scores(again)[kept], scores(outputs)[kept], atol=1e-5)


def test_an_answer_that_is_no_number_is_an_error_of_its_sample(ubm, samples, outputs):
    predictor = SmallPredictor(ubm)
    predictor.model.encoders["audio"].scale.fill_(1e-38)  # so that features of 1 overflow
    huge = [replace(samples[0], audio=np.full((2, 3), 1e3, np.float32)), replace(samples[1], audio=None)]
    first, second = predictor.predict(huge)
    assert first.error.startswith(f"sample '{samples[0].sample_id}': the UBM's answer is no number")
    assert np.isnan(first.y) and second.error is None and np.isfinite(second.y)


def test_a_folder_without_weights_is_named(ubm, tmp_path):
    copy = shutil.copytree(ubm, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="not a whole UBM") as error:
        SmallPredictor(copy)
    assert str(copy) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("audio", [[np.inf, -np.inf, 0], [3e38, 3e38, 0]])
def test_numbers_that_are_or_add_up_to_infinity_are_told_in_one_line_alone(ubm, samples, audio, recwarn):
    one = replace(samples[0], audio=np.array([audio], np.float32))
    (output,) = SmallPredictor(ubm).predict([one])
    assert ("holds NaN or infinity" in (output.error or "")) == (np.inf in audio)
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_it_works_with_its_threads_in_whichever_thread_it_is_asked(ubm, samples):
    predictor = SmallPredictor(ubm, threads=3)
    assert threads.of_products(predictor.model, lambda: predictor.predict(samples)) == {3}
