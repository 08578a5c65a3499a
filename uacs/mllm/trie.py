"""All answers that a model may give, scored at once over their token trie (read-out `trie`).

Spelt answers share their beginnings: 61 scores of one decimal are 79 tokens and the ends of their turns. One forward
over these, in which each token sees the prompt and its own beginnings, gives the probability that the model
would generate each answer, spelt by these tokens: greedy decoding follows one path through the same tree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from uacs.mllm.context import Context
from uacs.mllm.reading import token_entropies


@dataclass(frozen=True)
class Scores:
    """What a trie says of one row.

    logp (C,) float64, each candidate's log-probability in nats, its turn's end included; path, the tokens that greedy
    decoding would generate as far as they stay in the trie, and its entropies in nats; arrived, the candidate
    that it spells to its end, or None.
    """

    logp: torch.Tensor
    path: list[int]
    entropies: list[float]
    arrived: int | None


class Trie:
    """The trie of some answers as token ids, without an end; `ends` are the tokens that end a turn."""

    def __init__(self, answers: Sequence[Sequence[int]], ends: set[int], device: torch.device):
        if len({tuple(ids) for ids in answers}) < len(answers):
            raise ValueError("two answers are spelt by the same tokens")
        self.ends = ends
        nodes: dict[tuple[int, ...], int] = {(): 0}  # by the tokens that lead there; 0 is the prompt
        for ids in answers:
            for k in range(1, len(ids) + 1):
                nodes.setdefault(tuple(ids[:k]), len(nodes))
        self.nodes, self.answers = nodes, {tuple(ids): c for c, ids in enumerate(answers)}
        ways = list(nodes)[1:]
        self.tokens = torch.tensor([way[-1] for way in ways], device=device)
        self.depth = torch.tensor([len(way) for way in ways], device=device)
        self.sees = torch.zeros(len(ways), len(ways), dtype=torch.bool, device=device)
        for way in ways:
            for k in range(1, len(way) + 1):
                self.sees[nodes[way] - 1, nodes[way[:k]] - 1] = True
        self.parents = torch.tensor([nodes[way[:-1]] for way in ways], device=device)
        self.finals = torch.tensor([nodes[tuple(ids)] for ids in answers], device=device)
        self.stops = torch.tensor(sorted(ends), device=device)
        self.on_way = self.sees[self.finals - 1].double()  # adds up what leads to a candidate

    def __len__(self) -> int:
        """Tokens that are scored beside the prompt."""
        return len(self.tokens)

    def scores(self, context: Context) -> list[Scores]:
        """One for each row of the context, which is left as it was; one row's logits are in memory at a time."""
        states = context.branch(self.tokens, self.depth, self.sees)
        first = context.logits()  # after the branch: with it what is unread yet is read at once
        return [
            self._scores(torch.cat([root[None], context.vocabulary(row).float()]))
            for root, row in zip(first, states, strict=True)
        ]

    def _scores(self, logits: torch.Tensor) -> Scores:
        """Of one row: logits (1 + N, V) after the prompt and after each of the trie's tokens."""
        whole = torch.logsumexp(logits, dim=-1).double()
        edges = logits[self.parents, self.tokens].double() - whole[self.parents]
        ending = torch.logsumexp(logits[self.finals[:, None], self.stops].double(), dim=-1) - whole[self.finals]
        logp = self.on_way @ edges + ending
        likeliest, nodes = logits.argmax(dim=-1).tolist(), [0]
        path: list[int] = []
        while (way := (*path, likeliest[nodes[-1]])) in self.nodes:
            path.append(way[-1])
            nodes.append(self.nodes[way])
        ended = likeliest[nodes[-1]] in self.ends
        entropies = token_entropies(logits[nodes]).tolist()
        return Scores(logp, path, entropies, self.answers.get(tuple(path)) if ended else None)
