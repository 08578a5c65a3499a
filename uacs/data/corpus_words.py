"""What the generated people say: sentences of 65 words about films, whose sentiment is arithmetic.

An adjective or verb has a sentiment of its own; an intensifier multiplies it, "not" turns and weakens
it, and what stands after "but" counts more than what stands before. `sentence` says whatever comes
nearest to a wanted sentiment.
"""

import numpy as np

TRIES = 25

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
NOT = -0.6
BEFORE_BUT, AFTER_BUT = 0.3, 0.7
OPENINGS = ("well", "honestly", "maybe", "i think", "you know", "to me")


def sentence(sentiment: float, rng: np.random.Generator) -> str:
    """The nearest of 25 random sentences to a sentiment in [-3, 3]."""
    tries = [_random_sentence(rng) for _ in range(TRIES)]
    return min(tries, key=lambda said: abs(said[1] - sentiment))[0]


def _random_sentence(rng: np.random.Generator) -> tuple[str, float]:
    """A sentence and its sentiment."""
    text, value = _clause(rng)
    if rng.random() < 0.3:
        after, then = _clause(rng)
        if rng.random() < 0.5:
            text, value = f"{text} but {after}", BEFORE_BUT * value + AFTER_BUT * then
        else:
            text, value = f"{text} and {after}", (value + then) / 2
    if rng.random() < 0.3:
        text = f"{_one_of(OPENINGS, rng)} {text}"
    return text, value


def _clause(rng: np.random.Generator) -> tuple[str, float]:
    thing = _one_of(THINGS, rng)
    negated = rng.random() < 0.2
    if rng.random() < 0.35:
        verb = _one_of(VERBS, rng)
        text, value = f"{verb} {_one_of(('the', 'this'), rng)} {thing}", VERBS[verb]
        if rng.random() < 0.3:
            text, value = f"really {text}", value * INTENSIFIERS["really"]
        text = f"i do not {text}" if negated else f"i {text}"
    else:
        adjective = _one_of(ADJECTIVES, rng)
        text, value = adjective, ADJECTIVES[adjective]
        if rng.random() < 0.4:
            intensifier = _one_of(INTENSIFIERS, rng)
            text, value = f"{intensifier} {text}", value * INTENSIFIERS[intensifier]
        subject = _one_of((f"the {thing}", f"this {thing}", "it"), rng)
        text = f"{subject} was not {text}" if negated else f"{subject} was {text}"
    return text, value * NOT if negated else value


def _one_of(choices, rng: np.random.Generator) -> str:
    return list(choices)[rng.integers(len(choices))]
