"""The ways to read a score and its uncertainty from a model that has read its prompts.

    decode   the model writes a number; the mean entropy of its tokens (Eq. 11-12). The paper's
    trie     every score as it is asked to write one, each with its probability, in one forward
    head     a trained head on the prompt's last state, in no further forward (arXiv 2606.05713)

Each leaves the context as it found it, and gives one `Reading` a row.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from uacs.cascade.uncertainty import entropy, training_class
from uacs.errors import BadInput
from uacs.mllm import reading
from uacs.mllm.context import Context
from uacs.mllm.head import Head
from uacs.mllm.reading import Reading, spell
from uacs.mllm.trie import Scores, Trie
from uacs.records import Polarity

LEAST_MASS = 0.5
"""Of a model's probability, what numbers must have between them for one to be read off them: else it would rather
have said something else, and what is left says nothing."""


NOT_FINITE = "the model's numbers are not finite; use mllm.dtype=float32 or bfloat16"


class ReadOut(Protocol):
    """Reads one score a row off a context, in `most` tokens at most."""

    most: int

    def read(self, context: Context) -> list[Reading]:
        """The rows' readings, in order."""


class Decode:
    """Greedy decoding, and a parser of what was written; `text` decodes ids, `ends` end a turn.

    signals: logp, the log-probability in nats of what was written, the turn's end included.
    """

    def __init__(self, text: Callable[[list[int]], str], ends: set[int], most: int, score_range: tuple[float, float]):
        self.text, self.ends, self.most, self.score_range = text, ends, most, score_range
        self.early = True  # otherwise as many forward passes whatever is written, for processes that must do as many

    def read(self, context: Context) -> list[Reading]:
        """The numbers that the rows write."""
        written = (of_all.tolist() for of_all in greedy(context, self.ends, self.most, self.early))
        return [self._reading(*row) for row in zip(*written, strict=True)]

    def _reading(self, ids: list[int], entropies: list[float], logps: list[float]) -> Reading:
        end = next((k for k, token in enumerate(ids) if token in self.ends), None)
        pieces = reading.pieces_of(ids[:end], self.text)
        answer = reading.read(pieces, entropies, self.score_range, finished=end is not None)
        if answer.status != "unparsable" and end is not None:
            return replace(answer, signals={"logp": sum(logps[: end + 1])})
        if not all(map(math.isfinite, entropies[:end])):
            return Reading("unparsable", fault=NOT_FINITE)
        cut = "" if end is not None else f", cut at {self.most} tokens"
        return Reading("unparsable", fault=f"answered {''.join(pieces)[:40]!r}{cut}, which is not one number")


def greedy(
    context: Context, ends: set[int], most: int, early: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The likeliest token after the likeliest token, until every row has ended or has `most` of them; if not `early`,
    the latter whatever is written.

    Returns tokens (B, n), a row's after its end meaning nothing, and of the distributions that they were taken from
    the entropies (B, n) float64 in nats (Eq. 11-12) and the tokens' log-probabilities (B, n).
    """
    tokens, entropies, logps = [], [], []
    stops = torch.tensor(sorted(ends), device=context.mask.device)
    ended = torch.zeros(len(context.mask), dtype=torch.bool, device=context.mask.device)
    with context.kept():
        while True:
            logits = context.logits()
            best, token = logits.max(dim=-1)
            tokens.append(token)
            logps.append(best - torch.logsumexp(logits, dim=-1))
            entropies.append(reading.token_entropies(logits))
            ended |= torch.isin(tokens[-1], stops)
            if len(tokens) == most or (early and ended.all()):
                return torch.stack(tokens, dim=1), torch.stack(entropies, dim=1), torch.stack(logps, dim=1)
            context.read(tokens[-1][:, None])


class OverTrie:
    """Every score of one decimal in the range, spelt as models are asked to, with its probability.

    The score is the expectation; the uncertainty is the entropy of its polarity (Eq. 6, 8), which is what the small
    model's is of. signals: mass, entropy (of all the scores), mode, and where greedy decoding would spell one of them
    greedy and token_entropy, as `decode` gives them.
    """

    def __init__(
        self,
        answer_ids: Callable[[str], list[int]],
        ends: set[int],
        score_range: tuple[float, float],
        device: torch.device,
    ):
        self.values = scores(score_range)
        spelt = [answer_ids(spell(value)) for value in self.values]  # as a family's inputs do, with the turn's end
        try:
            self.trie = Trie([ids[:-1] for ids in spelt], ends, device)
        except ValueError as error:
            raise BadInput(f"its tokenizer makes no trie of scores ({error}); read it by decode or head") from None
        classes = training_class(self.values)
        self.most = len(self.trie)
        self.polarities = np.stack([classes == polarity for polarity in Polarity], axis=1).astype(float)

    def read(self, context: Context) -> list[Reading]:
        """What the distributions over scores say."""
        return [self._reading(row) for row in self.trie.scores(context)]

    def _reading(self, found: Scores) -> Reading:
        p = found.logp.exp().cpu().numpy()
        mass = float(p.sum())
        if not math.isfinite(mass):
            return Reading("unparsable", fault=NOT_FINITE)
        if mass < LEAST_MASS:
            return Reading("unparsable", signals={"mass": mass}, fault=_other(mass))
        p = p / mass
        signals = {"mass": mass, "entropy": float(entropy(p)), "mode": float(self.values[p.argmax()])}
        if found.arrived is not None:
            signals["greedy"] = float(self.values[found.arrived])
            signals["token_entropy"] = float(np.mean(found.entropies[:-1]))  # the last is of the turn's end
        return Reading("ok", float(p @ self.values), float(entropy(p @ self.polarities)), signals)


def scores(score_range: tuple[float, float]) -> np.ndarray:
    """Every score of one decimal in a range, ascending.

    >>> scores((-0.2, 0.1))
    array([-0.2, -0.1,  0. ,  0.1])
    """
    low, high = score_range
    return np.arange(math.ceil(round(10 * low, 6)), math.floor(round(10 * high, 6)) + 1) / 10


def _other(mass: float) -> str:
    return (
        f"only {mass:.1%} of the model's probability is on scores as it is asked to write them; train it to, "
        "or read it by mllm.readout=decode"
    )


class FromHead:
    """A head's score and the entropy of its three classes (Eq. 8); signals: p_neutral, p_negative, p_positive."""

    def __init__(self, head: Head, score_range: tuple[float, float]):
        self.head, self.score_range, self.most = head, score_range, 0

    def read(self, context: Context) -> list[Reading]:
        """What the head makes of each prompt's last state."""
        score, logits = self.head(context.states.float())
        p = torch.softmax(logits.double(), dim=-1).cpu().numpy()
        return [self._reading(*row) for row in zip(score.tolist(), p, entropy(p).tolist(), strict=True)]

    def _reading(self, score: float, p: np.ndarray, u: float) -> Reading:
        if not (math.isfinite(score) and math.isfinite(u)):
            return Reading("unparsable", fault=NOT_FINITE)
        low, high = self.score_range
        y = min(max(score, low), high)
        signals = {f"p_{polarity.name.lower()}": float(p[polarity]) for polarity in Polarity}
        return Reading("ok" if y == score else "clipped", y, u, signals)
