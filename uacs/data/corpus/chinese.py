"""The generated people's Chinese: some 65 words in simplified characters, full-width commas, no spaces.

Three kinds of clause, each with its own ways to strengthen and to deny: a thing and an adjective
(音乐很精彩, 音乐不精彩), a liking (我喜欢这部电影, 我不喜欢这部电影), and what a thing did to the
speaker (结局让我失望, 结局没让我失望).
"""

import numpy as np

from uacs.data.corpus.words import NOT, Grammar, one_of

THINGS = {  # and how one of them is pointed at
    "电影": "这部电影",
    "故事": "这个故事",
    "剧情": "这段剧情",
    "音乐": "这段音乐",
    "表演": "这段表演",
    "结局": "这个结局",
    "画面": "这个画面",
    "台词": "这句台词",
    "角色": "这个角色",
    "镜头": "这个镜头",
}
ADJECTIVES = {
    "完美": 2.8,
    "精彩": 2.3,
    "出色": 2.0,
    "动人": 1.8,
    "有趣": 1.6,
    "好": 1.4,
    "好看": 1.4,
    "好听": 1.4,
    "自然": 1.0,
    "流畅": 0.6,
    "长": 0.0,
    "熟悉": 0.0,
    "奇怪": -0.6,
    "平淡": -1.0,
    "无聊": -1.4,
    "差": -1.6,
    "难看": -1.8,
    "难听": -1.8,
    "乏味": -2.0,
    "糟糕": -2.3,
    "烂": -2.8,
}
SAID_OF = {  # the other adjectives are said of any thing
    "好看": ("电影", "故事", "画面"),
    "难看": ("电影", "画面"),
    "好听": ("音乐",),
    "难听": ("音乐",),
    "流畅": ("故事", "剧情", "表演", "台词", "镜头"),
    "长": ("电影", "故事", "台词", "镜头"),
}
LIKINGS = {"爱": 2.6, "喜欢": 1.8, "欣赏": 1.3, "在意": 0.0, "嫌弃": -1.3, "讨厌": -2.0, "恨": -2.6}
FEELINGS = {"着迷": 2.6, "感动": 2.3, "开心": 1.8, "犯困": -1.3, "失望": -1.8, "生气": -2.3}

# How a word is put, and what this makes of its sentiment; the plain way comes first.
IS = {"很{}": 1.0, "非常{}": 1.3, "太{}了": 1.3, "真的很{}": 1.2, "挺{}的": 0.8}
IS_GOOD, IS_BAD = IS | {"还算{}": 0.5}, IS | {"有点{}": 0.5}  # nobody finds a thing 有点好
IS_NOT = {"不{}": NOT, "不是非常{}": 1.3 * NOT, "不太{}": 0.8 * NOT}
I_LIKE = {"我{}": 1.0, "我非常{}": 1.3, "我真的很{}": 1.2, "我挺{}": 0.8, "我有点{}": 0.5}
I_DO_NOT_LIKE = {"我不{}": NOT, "我真的不{}": 1.2 * NOT, "我不太{}": 0.8 * NOT}
MADE_ME = {"让我{}": 1.0, "让我非常{}": 1.3, "真的让我很{}": 1.2, "让我有点{}": 0.5}
DID_NOT_MAKE_ME = {"没让我{}": NOT, "真的没让我{}": 1.2 * NOT, "没让我太{}": 0.8 * NOT}


def _clause(rng: np.random.Generator) -> tuple[str, float]:
    negated = rng.random() < 0.2
    kind = rng.random()
    if kind < 0.25:
        text, value = _put(LIKINGS, I_DO_NOT_LIKE if negated else I_LIKE, rng)
        return text + THINGS[one_of(THINGS, rng)], value
    if kind < 0.4:
        text, value = _put(FEELINGS, DID_NOT_MAKE_ME if negated else MADE_ME, rng)
        return _subject(one_of(THINGS, rng), rng) + text, value
    adjective = one_of(ADJECTIVES, rng)
    ways = IS_NOT if negated else IS_GOOD if ADJECTIVES[adjective] > 0 else IS_BAD
    text, value = _put({adjective: ADJECTIVES[adjective]}, ways, rng)
    return _subject(one_of(SAID_OF.get(adjective, THINGS), rng), rng) + text, value


def _put(words: dict[str, float], ways: dict[str, float], rng: np.random.Generator) -> tuple[str, float]:
    """One of the words, put in one of the ways, and its sentiment then."""
    word = one_of(words, rng)
    plain, *others = ways
    way = one_of(others, rng) if rng.random() < 0.4 else plain
    return way.format(word), words[word] * ways[way]


def _subject(thing: str, rng: np.random.Generator) -> str:
    return one_of((thing, THINGS[thing]), rng)


def _contrasts(value: float, then: float, rng: np.random.Generator) -> bool:
    """Where the clauses contradict each other: 而且 between them would be no Chinese, nor 但是 elsewhere."""
    return value * then < 0


CHINESE = Grammar(
    clause=_clause,
    contrasts=_contrasts,
    but="，但是",
    and_="，而且",
    openings=("说实话，", "老实说，", "怎么说呢，", "对我来说，", "其实", "我觉得"),
)
