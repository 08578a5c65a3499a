"""VideoLLaMA2-7B as it is published: a sentencepiece model for a tokenizer, and Llama 2's system message."""

import json

import numpy as np
import pytest
import sentencepiece

import uacs.mllm
from tests.mllm.native.conftest import GOLDENS
from uacs.errors import BadInput
from uacs.mllm import MllmSettings, videollama2
from uacs.mllm.prompts import Prompt, question
from uacs.records import Footage, Sample

TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% endif %}{% for message in messages %}[INST] "
    "{% if system is defined and loop.first %}{{ system }}\n\n{% endif %}{{ message['content'] }} [/INST]{% endfor %}"
)
TEXTS = ["the film was great and I liked it", "it was awful, dull and cold", "how positive or negative is it?"]


@pytest.fixture
def folder(copy_of):
    """The golden with a tokenizer of its family."""
    folder = copy_of("videollama2-tiny", vocab_size=None)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=310,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "legacy": True,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def inputs(folder):
    return videollama2.Inputs(str(folder), uacs.mllm.load(GOLDENS / "videollama2-tiny"), MllmSettings())


def test_every_stretch_is_tokenised_as_sentencepiece_does(inputs, folder):
    pieces = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    ids = inputs.turns.ids("<video>", Prompt("the film was great", "", ""))
    place = ids.index(videollama2.VIDEO)
    system = f"[INST] {videollama2.SYSTEM}\n\n"
    assert ids[:place] == [pieces.bos_id(), *pieces.encode(system)]
    assert ids[place + 1 :] == pieces.encode("\nthe film was great [/INST]")


def test_an_answer_is_sign_digits_and_point(inputs):
    *ids, end = inputs.answer_ids("-1.4")
    assert [inputs.tokenizer.decode([i]) for i in ids if inputs.tokenizer.decode([i])] == ["-", "1", ".", "4"]
    assert end == inputs.tokenizer.eos_token_id == 2


def test_without_sound_a_clip_is_seen_alone(inputs):
    frames = np.zeros((4, 50, 60, 3), np.uint8)
    media = inputs.media_of(Footage(frames, np.arange(4.0), np.zeros(16000, np.float32), 16000))
    assert media.sound is None and media.markers == "<video>"
    row = inputs.encode(Sample("x"), media, question("so so", (-3.0, 3.0)))
    assert row.length == len(row.ids) - 1 + inputs.model.video_count(4)


def test_a_template_that_takes_no_system_message_is_refused(folder):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    path.write_text(json.dumps(config))
    with pytest.raises(BadInput, match="its chat template does not run .*no system.*; copy the original's"):
        videollama2.Inputs(str(folder), uacs.mllm.load(GOLDENS / "videollama2-tiny"), MllmSettings())


def test_a_folder_without_a_template_is_refused_since_mistrals_have_several(folder):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["chat_template"]
    path.write_text(json.dumps(config))
    with pytest.raises(BadInput, match="no chat template; copy the checkpoint's tokenizer_config.json"):
        videollama2.Inputs(str(folder), uacs.mllm.load(GOLDENS / "videollama2-tiny"), MllmSettings())
