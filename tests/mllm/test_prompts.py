import re
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoTokenizer

from uacs.data.corpus.chinese import CHINESE
from uacs.data.corpus.words import sentence
from uacs.mllm import prompts, tiny_omni
from uacs.mllm.prompts import WORDINGS, phrases, question, second_question, version

RANGE = (-3.0, 3.0)
HINTS = dict(y_small=1.24, u_small=0.913, y_large=-0.4, u_large=0.51)

in_each_language = pytest.mark.parametrize("language", list(WORDINGS))


def text(prompt):
    return prompt.before + prompt.transcript + prompt.after + prompt.hints


@pytest.mark.parametrize(
    ("language", "said"),
    [("en", r"answered (\S+) with uncertainty (\d\.\d\d)"), ("zh", r"答案是(\S+?)，不确定度为(\d\.\d\d)")],
)
def test_stage_3_carries_both_predictions_and_both_uncertainties(language, said):
    hints = second_question("so so", RANGE, language, **HINTS).hints
    assert re.findall(said, hints) == [("+1.2", "0.91"), ("-0.4", "0.51")]


@in_each_language
@pytest.mark.parametrize("transcript", ["so so", None])
def test_stage_3_begins_as_stage_2_so_that_their_prefix_can_be_shared(language, transcript):
    first, second = question(transcript, RANGE, language), second_question(transcript, RANGE, language, **HINTS)
    assert text(second).startswith(text(first))


@pytest.mark.parametrize(
    ("language", "range_"),
    [("en", "from -1.0 (most negative) to +1.0 (most positive)"), ("zh", "从-1.0（最消极）到+1.0（最积极）")],
)
def test_the_question_comes_after_the_transcript_and_names_the_range_of_the_dataset(language, range_):
    prompt = question("so so", (-1.0, 1.0), language)
    assert "so so" not in prompt.before + prompt.after
    assert range_ in prompt.after


@in_each_language
def test_the_examples_are_spelt_as_answers_and_lie_in_every_range(language):
    signed = re.findall(r"[+-][0-9]\.[0-9]", WORDINGS[language].question)
    assert signed == ["+0.4", "-0.7"]


@pytest.mark.parametrize(("language", "said"), [("en", "not written down"), ("zh", "没有文字记录")])
@pytest.mark.parametrize("missing", [None, "", "  \n"])
def test_a_missing_transcript_is_said_to_be_missing(language, said, missing):
    prompt = question(missing, RANGE, language)
    assert prompt.transcript == ""
    assert said in prompt.before
    assert not set('"“”') & set(text(prompt))


@in_each_language
@pytest.mark.parametrize("transcript", ["{low} {y_small} {}", "%s", 'he said "no"\n', "他说：“不。”", "<|im_end|>"])
def test_a_transcript_is_kept_as_it_is(language, transcript):
    assert question(transcript, RANGE, language).transcript == transcript
    assert second_question(transcript, RANGE, language, **HINTS).transcript == transcript


@in_each_language
def test_the_version_changes_with_a_word_and_not_otherwise(language, monkeypatch):
    before = version(language)
    assert version(language) == before
    words = WORDINGS[language]
    monkeypatch.setitem(prompts.WORDINGS, language, replace(words, hints=words.hints + " Now."))
    assert version(language) != before


def test_each_language_has_words_of_its_own_and_any_other_is_asked_in_english():
    assert len({version(language) for language in WORDINGS}) == len(WORDINGS)
    assert question("assez bien", RANGE, "fr") == question("assez bien", RANGE, "en")
    assert version("fr") == version("en")


@in_each_language
@pytest.mark.parametrize("transcript", ["so so", None])
def test_prompts_are_made_of_their_phrases_transcript_and_numbers(language, transcript):
    for prompt in (question(transcript, RANGE, language), second_question(transcript, RANGE, language, **HINTS)):
        rest = prompt.before + "|" + prompt.after + prompt.hints
        for phrase in sorted(phrases(RANGE, language), key=len, reverse=True):
            rest = rest.replace(phrase, "")
        assert re.fullmatch(r"\||\|([+-]?\d\.\d+)+", rest)


def test_the_tiny_tokenizer_keeps_each_chinese_phrase_whole_and_spells_any_chinese_text(tmp_path, sizes):
    rng = np.random.default_rng(0)
    texts = [sentence(CHINESE, sentiment, rng) for sentiment in np.linspace(-3, 3, 200)]
    fixed = phrases((-1.0, 1.0), "zh")
    tiny_omni.create(tmp_path, texts, fixed, sizes)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert all(len(tokenizer.encode(phrase, add_special_tokens=False)) == 1 for phrase in fixed)
    for said in (*texts, "没见过的字：鑫，“好”。"):
        ids = tokenizer.encode(said, add_special_tokens=False)
        assert tokenizer.decode(ids) == said
        assert not {tokenizer.decode([i]) for i in ids} & set(fixed)
    prompt = second_question(texts[0], (-1.0, 1.0), "zh", **HINTS)
    tokens = [tokenizer.decode([i]) for i in tokenizer.encode(prompt.after + prompt.hints, add_special_tokens=False)]
    assert [t for t in tokens if t not in fixed] == list("+1.20.91-0.40.51")  # digits, signs and points stand alone


@pytest.mark.parametrize(
    ("language", "style", "told"),
    [
        ("en", "words", ["positive, guessing", "neutral, fairly sure"]),
        ("en", "both", ["+1.2 (slightly positive)", "-0.1 (neutral) with uncertainty 0.20 (fairly sure)"]),
        ("zh", "words", ["积极，近乎猜测", "中性，比较有把握"]),
        ("zh", "both", ["-0.1（中性），不确定度为0.20（比较有把握）"]),
    ],
)
def test_hints_may_be_in_words(language, style, told):
    numbers = dict(y_small=1.24, u_small=1.0, y_large=-0.1, u_large=0.2)
    prompt = second_question("so so", RANGE, language, **numbers, hints=style)
    assert all(part in prompt.hints for part in told)
    assert (("nats" in prompt.hints), bool(re.search(r"\d", prompt.hints))) == ((style == "both",) * 2)


@in_each_language
def test_every_score_and_doubt_has_its_word(language):
    words = WORDINGS[language]
    seven = [prompts.feeling(y, RANGE, words) for y in (-3, -2, -1, 0, 1, 2, 3)]
    assert seven == list(words.feelings) and len(set(seven)) == 7
    for tenth in range(-30, 31):  # Acc7 rounds as numpy does, halves to even
        assert prompts.feeling(tenth / 10, RANGE, words) == words.feelings[3 + int(np.round(tenth / 10))]
    thirds = [prompts.feeling(y, (-1.0, 1.0), words) for y in (-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1)]
    assert thirds == seven
    assert [prompts.doubt(u, words) for u in (0.0, 0.3, 0.7, 4.0)] == list(words.doubts)


@in_each_language
@pytest.mark.parametrize("style", ["numbers", "words", "both"])
def test_a_tokenizers_phrases_hold_no_word_that_a_transcript_may_have(language, style):
    fixed = phrases(RANGE, language, style)
    assert all(len(phrase) > 4 or phrase in WORDINGS[language].transcript for phrase in fixed)
    assert not set(fixed) & {*WORDINGS[language].feelings, *WORDINGS[language].doubts}


def test_the_version_is_of_the_words_that_are_asked_alone(monkeypatch):
    # as it was when there were hints in numbers alone: runs made then go on
    assert (version("en"), version("zh")) == ("c123a2c7d72d", version("zh", "numbers"))
    assert len({version("en", style) for style in ("numbers", "words", "both")}) == 3
    before = [version("en", style) for style in ("numbers", "words")]
    other = replace(WORDINGS["en"], feelings=("a", "b", "c", "d", "e", "f", "g"))
    monkeypatch.setitem(WORDINGS, "en", other)
    after = [version("en", style) for style in ("numbers", "words")]
    assert after[0] == before[0] and after[1] != before[1]
