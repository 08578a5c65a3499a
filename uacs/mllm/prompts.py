"""What a large model is asked: stage 2 plainly, stage 3 with both earlier answers (Eq. 16).

A prompt is one user turn. The clip comes first, then the transcript, then the question, and what only
stage 3 says comes last: whatever stands before it can be shared between the stages. The transcript is
data, kept apart from our words, so that nothing in it can become an instruction token.
"""

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from string import Formatter
from typing import Literal

from uacs.mllm.reading import spell

Hints = Literal["numbers", "words", "both"]
"""How stage 3 is told the earlier answers; the paper has scores and uncertainties, and shows no prompt."""


@dataclass(frozen=True)
class Wording:
    """The prompts' texts in one language.

    What follows question is stage 3's alone: hints with a place for each of the two answers, the unit of their
    numbers, and by `Hints` how an answer is put. feelings, from most negative to most positive, and doubts, from the
    least unsure, are how numbers read in words.
    """

    transcript: tuple[str, str]
    no_transcript: str
    question: str
    hints: str
    unit: str
    answers: dict[Hints, str]
    feelings: tuple[str, ...]
    doubts: tuple[str, ...]


WORDINGS = {
    "en": Wording(
        transcript=('The person says: "', '"\n'),
        no_transcript="What the person says is not written down.\n",
        question=(
            "How positive or negative is the person's sentiment, judged by the words, the voice and the face? "
            "Answer with one number from {low} (most negative) to {high} (most positive), "
            "with its sign and one decimal, such as +0.4 or -0.7, and with nothing else."
        ),
        hints=(
            "\nThere are two earlier answers, each with its uncertainty{unit}. "
            "A small model answered {small}; you answered {large}. "
            "Either may be wrong: look and listen again, weigh both, and give the final number."
        ),
        unit=" (an entropy in nats; 0 is certain)",
        answers={
            "numbers": "{y} with uncertainty {u}",
            "words": "{feeling}, {doubt}",
            "both": "{y} ({feeling}) with uncertainty {u} ({doubt})",
        },
        feelings=(
            "very negative",
            "negative",
            "slightly negative",
            "neutral",
            "slightly positive",
            "positive",
            "very positive",
        ),
        doubts=("certain", "fairly sure", "rather unsure", "guessing"),
    ),
    "zh": Wording(
        transcript=("这个人说：“", "”\n"),
        no_transcript="这个人说的话没有文字记录。\n",
        question=(
            "请根据言语、声音和面部表情，判断这个人的情感有多积极或多消极。"
            "请用一个从{low}（最消极）到{high}（最积极）的数字回答，"
            "带正负号并保留一位小数，例如+0.4或-0.7，不要回答任何其他内容。"
        ),
        hints=(
            "\n此前已有两个答案，每个答案都附有不确定度{unit}。"
            "小模型的答案是{small}；你的答案是{large}。"
            "两个答案都可能有误：请重新观看和聆听，权衡两者，给出最终的数字。"
        ),
        unit="，即以奈特（nats）为单位的熵，0表示完全确定",
        answers={
            "numbers": "{y}，不确定度为{u}",
            "words": "{feeling}，{doubt}",
            "both": "{y}（{feeling}），不确定度为{u}（{doubt}）",
        },
        feelings=("非常消极", "消极", "略微消极", "中性", "略微积极", "积极", "非常积极"),
        doubts=("完全确定", "比较有把握", "不太确定", "近乎猜测"),
    ),
}
"""By the dataset's language; any other language is asked in English, whatever the transcript is in.

Digits, sign and point are ASCII in each, as the answer's are to be.
"""

SHORTEST_PHRASE = 4  # characters; a bracket alone, say, may stand in a transcript too
DOUBTS = (0.15, 0.5, 0.9)  # nats, from where on the next of a wording's doubts holds


@dataclass(frozen=True)
class Prompt:
    """The turn after its clip: our words, the transcript (empty where there is none), our words, stage 3's hints."""

    before: str
    transcript: str
    after: str
    hints: str = ""


def question(transcript: str | None, score_range: tuple[float, float], language: str = "en") -> Prompt:
    """Stage 2: one number in the score range for the person in the clip."""
    words = wording(language)
    opening, closing = words.transcript
    if not (transcript or "").strip():
        opening, transcript, closing = words.no_transcript, "", ""
    return Prompt(opening, transcript or "", closing + _question(words, score_range))


def second_question(
    transcript: str | None,
    score_range: tuple[float, float],
    language: str = "en",
    *,
    y_small: float,
    u_small: float,
    y_large: float,
    u_large: float,
    hints: Hints = "numbers",
) -> Prompt:
    """Stage 3 (Eq. 16): the question of stage 2 anew, then both predictions and uncertainties in nats."""
    first, words = question(transcript, score_range, language), wording(language)

    def put(y: float, u: float) -> str:
        said = {"y": spell(y), "u": f"{u:.2f}", "feeling": feeling(y, score_range, words), "doubt": doubt(u, words)}
        return words.answers[hints].format(**said)

    told = words.hints.format(unit=_unit(words, hints), small=put(y_small, u_small), large=put(y_large, u_large))
    return Prompt(first.before, first.transcript, first.after, told)


def feeling(y: float, score_range: tuple[float, float], words: Wording) -> str:
    """A score as one of seven words, by the class of Acc7 that it falls into where the range is [-3, 3].

    >>> feeling(-0.8, (-1, 1), WORDINGS["en"]), feeling(0.04, (-3, 3), WORDINGS["en"])
    ('negative', 'neutral')
    """
    middle = len(words.feelings) // 2
    share = y / (score_range[1] if y > 0 else -score_range[0])
    return words.feelings[middle + round(middle * max(-1.0, min(share, 1.0)))]


def doubt(u: float, words: Wording) -> str:
    """An uncertainty in nats as one of four words; three classes alike are 1.1 nats.

    >>> doubt(0.05, WORDINGS["en"]), doubt(1.1, WORDINGS["en"])
    ('certain', 'guessing')
    """
    return words.doubts[bisect_right(DOUBTS, u)]


def wording(language: str) -> Wording:
    """The texts for a dataset's language."""
    return WORDINGS.get(language, WORDINGS["en"])


def version(language: str = "en", hints: Hints = "numbers") -> str:
    """Names the texts in a run's identity: answers to other words are other answers."""
    words = wording(language)
    places = [
        words.answers[hints].format(y=f"{{y_{who}}}", u=f"{{u_{who}}}", feeling="{feeling}", doubt="{doubt}")
        for who in ("small", "large")
    ]
    told = words.hints.format(unit=_unit(words, hints), small=places[0], large=places[1])
    texts: tuple = (words.transcript, words.no_transcript, words.question, told)
    if hints != "numbers":
        texts += (words.feelings, words.doubts)
    return hashlib.sha256(repr(texts).encode()).hexdigest()[:12]


def phrases(score_range: tuple[float, float], language: str = "en", hints: Hints = "numbers") -> list[str]:
    """Every fixed stretch of both prompts, for a tokenizer that is to know them as one token each."""
    words = wording(language)
    whole = words.hints.format(unit=_unit(words, hints), small=words.answers[hints], large=words.answers[hints])
    told = [text for text, *_ in Formatter().parse(whole) if len(text) > SHORTEST_PHRASE]
    return list(dict.fromkeys([*words.transcript, words.no_transcript, _question(words, score_range), *told]))


def _unit(words: Wording, hints: Hints) -> str:
    return "" if hints == "words" else words.unit


def _question(words: Wording, score_range: tuple[float, float]) -> str:
    low, high = score_range
    return words.question.format(low=spell(low), high=spell(high))
