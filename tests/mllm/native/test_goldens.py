"""Published checkpoints answer as the original code does: every golden, batched and one by one."""

import pytest
import torch
from safetensors.torch import load_file

import uacs.mllm
from tests.mllm.native.conftest import GOLDENS

FILES = sorted(path.relative_to(GOLDENS).as_posix() for path in GOLDENS.glob("*/expected*.safetensors"))
MODELS = [name for name in FILES if (GOLDENS / name).with_name("config.json").exists()]
ARGUMENTS = ("input_ids", "frames", "audio_mel", "audio_fbank", "gate_input_ids", "gate_attention_mask")
CLOSE = dict(rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def models():
    """A golden's model, loaded once; three in four files share theirs with another."""
    loaded = {}

    def model(folder):
        if folder not in loaded:
            loaded[folder] = uacs.mllm.load(folder)
        return loaded[folder]

    return model


def inputs_of(name):
    """A golden's inputs as our forward takes them, and all that it holds."""
    expected = load_file(GOLDENS / name)
    inputs = {key: expected[key] for key in ARGUMENTS if key in expected}
    if "mixed" in name:  # film with sound, sound alone, film alone
        frames, sounds = expected["frames"], expected["audio_fbank"]
        inputs |= {"frames": [frames[0], None, frames[1]], "audio_fbank": [sounds[0], sounds[1], None]}
    return inputs, expected


def row(value, k):
    return value[k : k + 1] if isinstance(value, torch.Tensor) else [value[k]]


def test_there_is_a_golden_of_every_family_and_kind():
    assert len(MODELS) == 16


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_a_golden_is_met(models, name):
    model = models((GOLDENS / name).parent)
    inputs, expected = inputs_of(name)
    spliced, logits = model.spliced(**inputs), model(**inputs)
    assert logits.shape == expected["logits"].shape
    masked = (1 - expected.get("attention_mask", torch.ones_like(inputs["input_ids"]))).sum(1)
    for k, length in enumerate((spliced["attention_mask"].sum(1) - masked).tolist()):
        # behind its end a shorter row has what the original makes of padding
        embeds = spliced["inputs_embeds"][k, :length]
        torch.testing.assert_close(embeds, expected["inputs_embeds"][k, :length], **CLOSE)
        torch.testing.assert_close(logits[k, :length], expected["logits"][k, :length], **CLOSE)
        alone = model(**{key: row(value, k) for key, value in inputs.items()})[0, :length]
        torch.testing.assert_close(alone, expected["logits"][k, :length], **CLOSE)


SEEN = [name for name in MODELS if "image" not in name and "video_tokens" in load_file(GOLDENS / name)]


@pytest.mark.parametrize("name", SEEN)
@torch.inference_mode()
def test_what_is_seen_and_heard_is_the_originals_and_as_long_as_foretold(models, name):
    model = models((GOLDENS / name).parent)
    inputs, expected = inputs_of(name)
    frames = expected["frames"]
    if "gate_input_ids" in expected:
        shares = model.gate_shares(expected["gate_input_ids"], expected["gate_attention_mask"])
        video = model.video_tokens(frames, shares)
        foretold = model.projector.tokens(frames.shape[1], int(frames.shape[-1] // model.config.vision.patch_size))
    else:
        video, foretold = model.video_tokens(frames), model.video_count(frames.shape[1])
    torch.testing.assert_close(video, expected["video_tokens"], **CLOSE)
    assert video.shape[1] == foretold
    if "audio_tokens" in expected:
        torch.testing.assert_close(model.audio_tokens(inputs["audio_mel"]), expected["audio_tokens"], **CLOSE)
    if "beats_features" in expected:
        torch.testing.assert_close(model.audio(expected["audio_fbank"]), expected["beats_features"], **CLOSE)


@torch.inference_mode()
def test_padding_on_the_left_changes_no_answer(models):
    model = models(GOLDENS / "humanomni-tiny")
    inputs, expected = inputs_of("humanomni-tiny/expected.safetensors")
    shorter = expected["input_ids"].clone()
    shorter[1, :2] = 0
    mask = torch.ones_like(shorter)
    mask[1, :2] = 0
    left = model(**inputs | {"input_ids": shorter}, attention_mask=mask, padding="left")
    alone = model(**{key: row(value, 1) for key, value in (inputs | {"input_ids": shorter[:, 2:]}).items()})
    torch.testing.assert_close(left[1, 2:], alone[0], **CLOSE)
    torch.testing.assert_close(left[0], expected["logits"][0], **CLOSE)


@pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 0.25), ("float16", 0.05)])
@torch.inference_mode()
def test_half_precision_is_near(dtype, near):
    for name in ("humanomni-tiny", "videollama2-av-tiny", "videollama2-tiny"):
        inputs, expected = inputs_of(f"{name}/expected.safetensors")
        model = uacs.mllm.load(GOLDENS / name, dtype=dtype)
        assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
        apart = (model(**inputs).float() - expected["logits"]).abs().max() / expected["logits"].std()
        assert apart < near


@torch.inference_mode()
def test_greedy_generation_is_the_argmax_of_forward():
    model = uacs.mllm.load(GOLDENS / "videollama2-av-small")
    inputs, _ = inputs_of("videollama2-av-small/expected-mixed.safetensors")
    model.generation_config.max_new_tokens, model.generation_config.do_sample = 3, False
    said = model.generate(**inputs, padding="left")
    for k in range(3):
        ids = inputs["input_ids"][k : k + 1]
        media = {key: row(value, k) for key, value in inputs.items() if key != "input_ids"}
        for token in said[k]:
            assert model(ids, **media)[0, -1].argmax() == token
            ids = torch.cat([ids, token.view(1, 1)], dim=1)


@torch.inference_mode()
def test_media_that_do_not_fit_the_markers_are_refused(models):
    model = models(GOLDENS / "humanomni-tiny")
    inputs, _ = inputs_of("humanomni-tiny/expected.safetensors")
    for change, said in (
        ({"audio_mel": None}, "media for"),
        ({"gate_input_ids": None}, "depends on the question"),
        ({"frames": inputs["frames"][[0, 1, 1]]}, "media for 3 rows"),
    ):
        with pytest.raises(ValueError, match=said):
            model(**inputs | change)


@torch.inference_mode()
def test_what_is_seen_depends_on_what_is_asked(models):
    model = models(GOLDENS / "humanomni-tiny")
    inputs, expected = inputs_of("humanomni-tiny/expected.safetensors")
    other = model.spliced(**inputs | {"gate_input_ids": inputs["gate_input_ids"].flip(0)})["inputs_embeds"]
    assert (other - expected["inputs_embeds"]).abs().max() > 1e-4
