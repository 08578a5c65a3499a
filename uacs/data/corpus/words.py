"""What the generated people say: sentences about films, whose sentiment is arithmetic.

An adjective or verb has a sentiment of its own; an intensifier multiplies it, "not" turns and weakens
it, and what stands after "but" counts more than what stands before. `sentence` says whatever comes
nearest to a wanted sentiment. A language is a `Grammar`: its words, and how one clause is made of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

TRIES = 25
NOT = -0.6
BEFORE_BUT, AFTER_BUT = 0.3, 0.7


@dataclass(frozen=True)
class Grammar:
    """How one language makes a sentence; its texts bring the white space or punctuation they need.

    clause draws a clause and its sentiment, contrasts says whether "but" joins two clauses of these
    sentiments; otherwise "and" does.
    """

    clause: Callable[[np.random.Generator], tuple[str, float]]
    contrasts: Callable[[float, float, np.random.Generator], bool]
    but: str
    and_: str
    openings: tuple[str, ...]


def sentence(grammar: Grammar, sentiment: float, rng: np.random.Generator) -> str:
    """The nearest of 25 random sentences to a sentiment in [-3, 3]."""
    tries = [_random_sentence(grammar, rng) for _ in range(TRIES)]
    return min(tries, key=lambda said: abs(said[1] - sentiment))[0]


def one_of(choices: Iterable[str], rng: np.random.Generator) -> str:
    """One of them, each as likely."""
    several = list(choices)
    return several[rng.integers(len(several))]


def _random_sentence(grammar: Grammar, rng: np.random.Generator) -> tuple[str, float]:
    """A sentence and its sentiment."""
    text, value = grammar.clause(rng)
    if rng.random() < 0.3:
        after, then = grammar.clause(rng)
        if grammar.contrasts(value, then, rng):
            text, value = text + grammar.but + after, BEFORE_BUT * value + AFTER_BUT * then
        else:
            text, value = text + grammar.and_ + after, (value + then) / 2
    if rng.random() < 0.3:
        text = one_of(grammar.openings, rng) + text
    return text, value
