"""What a decoder has read and still holds: a batch of prompts as keys and values, to be read on from.

A read-out asks a context what comes next and leaves it as it found it. A second prompt that begins as the first one
did is then read for the price of its own ending: the context is cut back to what both share, narrowed to the rows that
are asked again, and reads on. Rows are padded on the left, and again on the left of whatever is read on, so each
row's last token is in the last place; a row's numbers do not depend on its neighbours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import DynamicCache


@dataclass
class Context:
    """Rows that `decoder` has read: mask (B, L), 1 where a token is; last (B,) or (axes, B), the last token's position;
    states (B, H), the last token's; `vocabulary` leads from states to logits."""

    decoder: nn.Module
    vocabulary: nn.Module
    cache: DynamicCache
    mask: torch.Tensor
    last: torch.Tensor
    states: torch.Tensor

    @classmethod
    def of(cls, decoder: nn.Module, vocabulary: nn.Module, inputs: dict[str, torch.Tensor]) -> "Context":
        """Rows read from their beginning, by a family's `embedded`, padded on the left."""
        cache = DynamicCache()
        states = decoder(**inputs, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        return cls(decoder, vocabulary, cache, inputs["attention_mask"], inputs["position_ids"][..., -1], states)

    def logits(self) -> torch.Tensor:
        """(B, V) float32, raw, of the token that comes next."""
        return self.vocabulary(self.states).float()

    def read(self, ids: torch.Tensor, there: torch.Tensor | None = None) -> None:
        """Read on: ids (B, n); there (B, n) is 0 where a row has fewer, which is on the left."""
        there = torch.ones_like(ids) if there is None else there
        positions = (self.last[..., None] + there.cumsum(-1)).clamp(min=0)
        self.mask = torch.cat([self.mask, there], dim=1)
        self.states = self.decoder(
            inputs_embeds=self.decoder.get_input_embeddings()(ids),
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        self.last = positions[..., -1]

    def branch(self, tokens: torch.Tensor, depth: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
        """States (B, N, H) of N tokens that might come, each seeing its own way there alone; nothing is read on.

        tokens (N,), depth (N,) counted from 1, sees (N, N) true where a token (row) sees another, itself included.
        """
        rows, count = len(self.mask), len(tokens)
        embeds = self.decoder.get_input_embeddings()(tokens).expand(rows, -1, -1)
        # a mask to add, not one of truths: some attention code adds whatever it is given
        seen = torch.cat([self.mask.bool()[:, None].expand(-1, count, -1), sees.expand(rows, -1, -1)], dim=2)
        unseen = torch.zeros(seen.shape, dtype=embeds.dtype, device=embeds.device)
        unseen.masked_fill_(~seen, torch.finfo(embeds.dtype).min)
        with self.kept():
            return self.decoder(
                inputs_embeds=embeds,
                attention_mask=unseen[:, None],
                position_ids=self.last[..., None] + depth,
                past_key_values=self.cache,
                use_cache=True,
            ).last_hidden_state

    @contextmanager
    def kept(self) -> Iterator[None]:
        """What is read inside is forgotten afterwards."""
        length, mask, last, states = self.cache.get_seq_length(), self.mask, self.last, self.states
        try:
            yield
        finally:
            self._forget(self.cache.get_seq_length() - length)
            self.mask, self.last, self.states = mask, last, states

    def cut(self, tokens: int) -> None:
        """Forget the last tokens of every row, none of them a medium's; what comes next is told after `read`."""
        if tokens:
            self._forget(tokens)
            self.mask, self.last = self.mask[:, :-tokens], self.last - tokens

    def narrowed(self, rows: list[int]) -> "Context":
        """Some of the rows, which go on by themselves; this context is used up."""
        if rows == list(range(len(self.mask))):
            return self
        kept = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(kept)
        last, states = self.last[..., kept], self.states[kept]
        return Context(self.decoder, self.vocabulary, self.cache, self.mask[kept], last, states)

    def read_instead(self, rows: list[int], said: list[list[int]], instead: list[list[int]], pad: int) -> "Context":
        """Some of the rows as if they had ended otherwise; this context is used up.

        Of each of these rows, `said` are the ids that it was read by and `instead` those that it is to have been; where
        they part, and from there on, all of them are words. pad is any token.
        """
        back = max(len(one) - shared(one, other) for one, other in zip(said, instead, strict=True))
        self.cut(back)
        narrowed = self.narrowed(rows)
        endings = [other[len(one) - back :] for one, other in zip(said, instead, strict=True)]
        longest = max(map(len, endings))
        ids = [[pad] * (longest - len(ending)) + ending for ending in endings]
        there = [[0] * (longest - len(ending)) + [1] * len(ending) for ending in endings]
        narrowed.read(*(torch.tensor(part, device=self.mask.device) for part in (ids, there)))
        return narrowed

    def _forget(self, tokens: int) -> None:
        if tokens:
            self.cache.crop(-tokens)  # what to remove: as a length to keep it would be refused


def shared(one: list[int], other: list[int]) -> int:
    """How many ids two rows have in common before they part.

    >>> shared([1, 2, 3], [1, 2, 4, 5])
    2
    """
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
