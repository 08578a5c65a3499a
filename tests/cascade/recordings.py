"""Recordings to search on, drawn or by hand."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from uacs.cascade.recording import Recording
from uacs.cascade.replay import Answers


def recording(y_small, u_small, y_large, u_large, label, y_verify=None, dataset="mosi", p_small=None) -> Recording:
    """By hand; without y_verify there are no second answers, though looks are paid for."""
    columns = [np.asarray(values, float) for values in (y_small, u_small, y_large, u_large)]
    n = len(columns[0])
    columns.append(np.full(n, np.nan) if y_verify is None else np.asarray(y_verify, float))
    p = np.full((n, 3), 1 / 3) if p_small is None else np.asarray(p_small, float)
    return Recording(dataset, Answers(*columns), np.asarray(label, float), p, np.ones(n, bool))


SCORES = st.floats(-3.5, 3.5).map(lambda x: round(x, 1))
UNSURE = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5000001, 0.9])  # so that ties are common
LACKING = st.one_of(SCORES, st.just(float("nan")))


@st.composite
def recordings(draw) -> Recording:
    """Of any shape: ties, answers and labels that lack, both ways to score; one sample at least can be scored."""
    n = draw(st.integers(1, 25))

    def column(elements):
        return draw(hnp.arrays(float, n, elements=elements))

    y_small, u_small, y_large = column(LACKING), column(UNSURE), column(LACKING)
    u_large = np.where(np.isfinite(y_large), column(UNSURE), np.nan)
    label, y_verify = column(LACKING), column(LACKING)
    y_small[0] = label[0] = 1.0
    made = recording(y_small, u_small, y_large, u_large, label, y_verify, draw(st.sampled_from(["mosi", "sims"])))
    return made


def drawn(n: int = 400, seed: int = 0, dataset: str = "mosi") -> Recording:
    """A plausible one: the small model errs where it is unsure, the large one less often and not there."""
    draw = np.random.default_rng(seed)
    label = np.round(draw.choice([-1, 1], n) * draw.uniform(0.4, 3, n), 1)
    u_small, u_large = draw.uniform(0, np.log(3), n), draw.gamma(2.0, 0.2, n)
    wrong_small = draw.random(n) < 0.02 + 0.4 * (u_small / np.log(3)) ** 2
    wrong_large = draw.random(n) < 0.02 + 0.08 * u_large
    noise = draw.normal(0, 0.2, (3, n))
    y_small, y_large = np.where(wrong_small, -label, label) + noise[0], np.where(wrong_large, -label, label) + noise[1]
    y_verify = np.where(draw.random(n) < 0.1, -label, label) + noise[2]
    p = np.stack([np.full(n, 0.1), *(np.where(y_small < 0, side, 0.9 - side) for side in (0.6, 0.3))], axis=-1)
    made = recording(y_small, u_small, y_large, u_large, label, y_verify, dataset, p)
    return made
