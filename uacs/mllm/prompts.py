"""What a large model is asked: stage 2 plainly, stage 3 with both earlier answers (Eq. 16).

A prompt is one user turn. The clip comes first, then the transcript, then the question, and what only
stage 3 says comes last: whatever stands before it can be shared between the stages. The transcript is
data, kept apart from our words, so that nothing in it can become an instruction token.
"""

import hashlib
from dataclasses import astuple, dataclass
from string import Formatter

from uacs.mllm.reading import spell


@dataclass(frozen=True)
class Wording:
    """The prompts' texts in one language; `hints` is stage 3's alone."""

    transcript: tuple[str, str]
    no_transcript: str
    question: str
    hints: str


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
            "\nThere are two earlier answers, each with its uncertainty (an entropy in nats; 0 is certain). "
            "A small model answered {y_small} with uncertainty {u_small}; "
            "you answered {y_large} with uncertainty {u_large}. "
            "Either may be wrong: look and listen again, weigh both, and give the final number."
        ),
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
            "\n此前已有两个答案，每个答案都附有不确定度，即以奈特（nats）为单位的熵，0表示完全确定。"
            "小模型的答案是{y_small}，不确定度为{u_small}；"
            "你的答案是{y_large}，不确定度为{u_large}。"
            "两个答案都可能有误：请重新观看和聆听，权衡两者，给出最终的数字。"
        ),
    ),
}
"""By the dataset's language; any other language is asked in English, whatever the transcript is in.

Digits, sign and point are ASCII in each, as the answer's are to be.
"""


@dataclass(frozen=True)
class Prompt:
    """The turn after its clip: our words, the transcript (empty where there is none), our words."""

    before: str
    transcript: str
    after: str


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
) -> Prompt:
    """Stage 3 (Eq. 16): the question of stage 2 anew, then both predictions and uncertainties in nats."""
    first = question(transcript, score_range, language)
    hints = wording(language).hints.format(
        y_small=spell(y_small), u_small=f"{u_small:.2f}", y_large=spell(y_large), u_large=f"{u_large:.2f}"
    )
    return Prompt(first.before, first.transcript, first.after + hints)


def wording(language: str) -> Wording:
    """The texts for a dataset's language."""
    return WORDINGS.get(language, WORDINGS["en"])


def version(language: str = "en") -> str:
    """Names the texts in a run's identity: answers to other words are other answers."""
    return hashlib.sha256(repr(astuple(wording(language))).encode()).hexdigest()[:12]


def phrases(score_range: tuple[float, float], language: str = "en") -> list[str]:
    """Every fixed stretch of both prompts, for a tokenizer that is to know them as one token each."""
    words = wording(language)
    hints = [text for text, *_ in Formatter().parse(words.hints) if text]
    return list(dict.fromkeys([*words.transcript, words.no_transcript, _question(words, score_range), *hints]))


def _question(words: Wording, score_range: tuple[float, float]) -> str:
    low, high = score_range
    return words.question.format(low=spell(low), high=spell(high))
