"""The generated people's English: 65 words, lower case, no punctuation."""

import numpy as np

from uacs.data.corpus.words import NOT, Grammar, one_of

THINGS = ("film", "story", "plot", "music", "acting", "ending", "cast", "camera", "script", "scene")
ADJECTIVES = {
    "wonderful": 2.8,
    "great": 2.3,
    "lovely": 2.0,
    "funny": 1.6,
    "good": 1.4,
    "nice": 1.0,
    "fine": 0.6,
    "long": 0.0,
    "new": 0.0,
    "odd": -0.6,
    "slow": -1.0,
    "dull": -1.4,
    "bad": -1.6,
    "sad": -1.8,
    "ugly": -2.0,
    "poor": -2.3,
    "awful": -2.8,
}
VERBS = {"love": 2.6, "enjoy": 1.8, "like": 1.3, "remember": 0.0, "dislike": -1.3, "regret": -1.8, "hate": -2.6}
INTENSIFIERS = {"very": 1.3, "really": 1.2, "so": 1.3, "quite": 0.8, "slightly": 0.5}


def _clause(rng: np.random.Generator) -> tuple[str, float]:
    thing = one_of(THINGS, rng)
    negated = rng.random() < 0.2
    if rng.random() < 0.35:
        verb = one_of(VERBS, rng)
        text, value = f"{verb} {one_of(('the', 'this'), rng)} {thing}", VERBS[verb]
        if rng.random() < 0.3:
            text, value = f"really {text}", value * INTENSIFIERS["really"]
        text = f"i do not {text}" if negated else f"i {text}"
    else:
        adjective = one_of(ADJECTIVES, rng)
        text, value = adjective, ADJECTIVES[adjective]
        if rng.random() < 0.4:
            intensifier = one_of(INTENSIFIERS, rng)
            text, value = f"{intensifier} {text}", value * INTENSIFIERS[intensifier]
        subject = one_of((f"the {thing}", f"this {thing}", "it"), rng)
        text = f"{subject} was not {text}" if negated else f"{subject} was {text}"
    return text, value * NOT if negated else value


def _contrasts(value: float, then: float, rng: np.random.Generator) -> bool:
    """Half the time, whatever the two clauses say."""
    return rng.random() < 0.5


ENGLISH = Grammar(
    clause=_clause,
    contrasts=_contrasts,
    but=" but ",
    and_=" and ",
    openings=("well ", "honestly ", "maybe ", "i think ", "you know ", "to me "),
)
