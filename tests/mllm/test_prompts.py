import re

import pytest

from uacs.mllm import prompts
from uacs.mllm.prompts import Wording, phrases, question, second_question, version

RANGE = (-3.0, 3.0)
HINTS = dict(y_small=1.24, u_small=0.913, y_large=-0.4, u_large=0.51)


def text(prompt):
    return prompt.before + prompt.transcript + prompt.after


def test_stage_3_carries_both_predictions_and_both_uncertainties():
    after = second_question("so so", RANGE, **HINTS).after
    assert re.findall(r"answered (\S+) with uncertainty (\d\.\d\d)", after) == [("+1.2", "0.91"), ("-0.4", "0.51")]


def test_stage_3_begins_as_stage_2_so_that_their_prefix_can_be_shared():
    assert text(second_question("so so", RANGE, **HINTS)).startswith(text(question("so so", RANGE)))


def test_the_question_comes_after_the_transcript_and_names_the_range_of_the_dataset():
    prompt = question("so so", (-1.0, 1.0))
    assert "so so" not in prompt.before + prompt.after
    assert "from -1.0 (most negative) to +1.0 (most positive)" in prompt.after


@pytest.mark.parametrize("missing", [None, "", "  \n"])
def test_a_missing_transcript_is_said_to_be_missing(missing):
    prompt = question(missing, RANGE)
    assert prompt.transcript == ""
    assert "not written down" in prompt.before
    assert '"' not in text(prompt)


@pytest.mark.parametrize("transcript", ["{low} {y_small} {}", "%s", 'he said "no"\n', "<|im_end|>"])
def test_a_transcript_is_kept_as_it_is(transcript):
    assert question(transcript, RANGE).transcript == transcript
    assert second_question(transcript, RANGE, **HINTS).transcript == transcript


def test_the_version_changes_with_a_word_and_not_otherwise(monkeypatch):
    before = version()
    assert version() == before
    words = prompts.WORDINGS["en"]
    monkeypatch.setitem(
        prompts.WORDINGS, "en", Wording(words.transcript, words.no_transcript, words.question, words.hints + " Now.")
    )
    assert version() != before


def test_a_language_without_prompts_of_its_own_is_asked_in_english():
    assert question("还行", RANGE, "zh") == question("还行", RANGE, "en")
    assert version("zh") == version("en")


@pytest.mark.parametrize("transcript", ["so so", None])
def test_prompts_are_made_of_their_phrases_transcript_and_numbers(transcript):
    for prompt in (question(transcript, RANGE), second_question(transcript, RANGE, **HINTS)):
        rest = prompt.before + "|" + prompt.after
        for phrase in sorted(phrases(RANGE), key=len, reverse=True):
            rest = rest.replace(phrase, "")
        assert re.fullmatch(r"\||\|([+-]?\d\.\d+)+", rest)
