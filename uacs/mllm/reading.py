"""What a large model's answer says (Eq. 10-12): one number and how sure the model was of it, or nothing.

An answer is one decimal number with nothing around it but white space and a closing full stop: `1`,
`+1.0`, `-.5`, `-1.4.`, and the same with a typographic minus or full-width characters. Anything else is
unparsable: "about 1.4", "1 or 2", and also an answer that was cut off, since the number may have been
cut as well. A guess would be counted as the model's word.

`read` is the whole read-out; `spell` writes a score the way models are trained and asked to.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

NUMBER = re.compile(r"\s*(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+))\.?\s*")
SAME_MEANING = str.maketrans("−－﹣＋﹢．。０１２３４５６７８９", "---++..0123456789")


@dataclass(frozen=True)
class Reading:
    """A score with its entropy in nats; both NaN where the status is unparsable, and then `fault` says why.

    signals are a read-out's further numbers by name.
    """

    status: Literal["ok", "clipped", "unparsable"]
    y: float = math.nan
    u: float = math.nan
    signals: dict[str, float] = field(default_factory=dict)
    fault: str | None = None


def spell(score: float) -> str:
    """A score as an answer spells it: signed, one decimal, zero positive.

    >>> spell(-1.44), spell(-0.04)
    ('-1.4', '+0.0')
    """
    return f"{round(score, 1) + 0.0:+.1f}"


def read(
    pieces: Sequence[str], entropies: Sequence[float], score_range: tuple[float, float], finished: bool
) -> Reading:
    """The score that the generated tokens spell, and their mean entropy (Eq. 12).

    pieces are the tokens' texts up to the end of the turn, entropies those of the distributions that they
    were drawn from; only tokens that spell the number count: sign, digits, point. `finished` says
    whether the model ended its turn. A score outside `score_range` is set to its end.
    """
    found = NUMBER.fullmatch("".join(pieces).translate(SAME_MEANING))
    if not found or not finished:
        return Reading("unparsable")
    spelling = label_tokens(pieces, *found.span("number"))
    u = sum(entropies[k] for k in spelling) / len(spelling)
    if not math.isfinite(u):  # logits that overflowed in half precision answer nothing
        return Reading("unparsable")
    said = float(found["number"]) + 0.0  # + 0.0 makes -0.0 positive
    y = min(max(said, score_range[0]), score_range[1])
    return Reading("ok" if y == said else "clipped", y, u)


def label_tokens(pieces: Sequence[str], start: int, end: int) -> list[int]:
    """Which tokens spell the characters start..end of the joined text, whole or in part.

    >>> label_tokens([" -", "1", ".", "4", ".\\n"], 1, 5)
    [0, 1, 2, 3]
    """
    tokens, at = [], 0
    for k, piece in enumerate(pieces):
        # an empty piece holds the first bytes of the next character
        if at < end and at + max(len(piece), 1) > start:
            tokens.append(k)
        at += len(piece)
    return tokens


def pieces_of(ids: Sequence[int], decode: Callable[[list[int]], str]) -> list[str]:
    """The text that each token adds to the answer; empty for one that only begins a character."""
    pieces, before = [], ""
    for k in range(len(ids)):
        text = decode(list(ids[: k + 1]))
        if k + 1 < len(ids):
            text = text.rstrip("\ufffd")  # bytes still to come
        pieces.append(text[len(before) :])
        before = text
    return pieces


def token_entropies(logits: "torch.Tensor") -> "torch.Tensor":
    """Entropy in nats of each next-token distribution over the whole vocabulary (Eq. 11-12).

    logits (..., V) raw, before any constraint and at temperature 1; returns (...) float64.
    """
    import torch  # who spells or reads a number, as a driver and all who wait for a model, needs none of it

    return torch.special.entr(torch.softmax(logits.double(), dim=-1)).sum(dim=-1)
