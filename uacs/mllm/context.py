"""What a decoder has read and still holds: a batch of prompts as keys and values, to be read on from.

A read-out asks a context what comes next and leaves it as it found it. A second prompt that begins as the first one
did is then read for the price of its own ending: the context is cut back to what both share, narrowed to the rows that
are asked again, and reads on. Rows are padded on the left, and again on the left of whatever is read on, so each
row's last token is in the last place; a row's numbers do not depend on its neighbours.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import DynamicCache


class Context:
    """Rows that `decoder` has read, padded on the left; `vocabulary` leads from states to logits.

    mask (B, L) is 1 where a token is; last (B,) or (axes, B) is the position of each row's last token.
    """

    def __init__(self, decoder: nn.Module, vocabulary: nn.Module, inputs: dict[str, torch.Tensor]):
        """Rows read from their beginning, by a family's `embedded`."""
        self.decoder, self.vocabulary, self.cache = decoder, vocabulary, DynamicCache()
        self.mask, self.last = inputs["attention_mask"], inputs["position_ids"][..., -1]
        self._states = self._read(**inputs)[:, -1]
        # words are read when somebody wants to know what comes after them: at once with a branch, if that is who does
        self._unread: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def states(self) -> torch.Tensor:
        """(B, H), of each row's last token."""
        self._catch_up()
        return self._states

    def logits(self) -> torch.Tensor:
        """(B, V) float32, raw, of the token that comes next."""
        return self.vocabulary(self.states).float()

    def read(self, ids: torch.Tensor, there: torch.Tensor | None = None) -> None:
        """Read on: ids (B, n); there (B, n) is 0 where a row has fewer, which is on the left."""
        self._catch_up()
        there = torch.ones_like(ids) if there is None else there
        positions = self.last[..., None] + there.cumsum(-1)
        self.mask, self.last = torch.cat([self.mask, there], dim=1), positions[..., -1]
        self._unread = ids, positions

    def branch(self, tokens: torch.Tensor, depth: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
        """States (B, N, H) of N tokens that might come, each seeing its own way there alone; nothing is read on.

        tokens (N,), depth (N,) counted from 1, sees (N, N) true where a token (row) sees another, itself included.
        """
        rows, count, device = len(self.mask), len(tokens), self.mask.device
        embeds, positions = self._embed(tokens).expand(rows, -1, -1), self.last[..., None] + depth
        unread = 0
        if self._unread:
            ids, before = self._unread
            unread, embeds = ids.shape[1], torch.cat([self._embed(ids), embeds], dim=1)
            positions = torch.cat([before, positions], dim=-1)
        # in columns all of the past, the unread words and the branch; in rows the last two
        past = self.mask.bool()[:, None].expand(-1, unread + count, -1)
        ahead = torch.ones(unread + count, past.shape[-1], dtype=torch.bool, device=device)
        ahead[:unread, past.shape[-1] - unread :] = torch.ones(unread, unread, dtype=torch.bool, device=device).tril()
        beside = torch.cat([torch.zeros(unread, count, dtype=torch.bool, device=device), sees])
        seen = torch.cat([past & ahead, beside.expand(rows, -1, -1)], dim=2)
        # a mask to add, not one of truths: some attention code adds whatever it is given
        unseen = torch.zeros(seen.shape, dtype=embeds.dtype, device=device)
        unseen.masked_fill_(~seen, torch.finfo(embeds.dtype).min)
        states = self._read(embeds, unseen[:, None], positions)
        self.cache.crop(-count)
        if self._unread:
            self._states, self._unread = states[:, unread - 1], None
        return states[:, unread:]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """What is read inside is forgotten afterwards."""
        states, length, mask, last = self.states, self.cache.get_seq_length(), self.mask, self.last
        try:
            yield
        finally:
            if more := self.cache.get_seq_length() - length:
                self.cache.crop(-more)  # what to remove: a length to keep it would refuse
            self.mask, self.last, self._states, self._unread = mask, last, states, None

    def read_instead(self, rows: list[int], said: list[list[int]], instead: list[list[int]], pad: int) -> None:
        """Go on with some of the rows alone, as if they had ended otherwise.

        Of each of these rows, `said` are the ids that it was read by and `instead` those that it is to have been; where
        they part, and from there on, all of them are words. pad is any token.
        """
        back = max(len(one) - shared(one, other) for one, other in zip(said, instead, strict=True))
        if min(map(len, said)) < back:
            raise ValueError(f"a row of {min(map(len, said))} ids, of which {back} are to be read otherwise")
        self._cut(back)
        self._narrow(rows)
        endings = [other[len(one) - back :] for one, other in zip(said, instead, strict=True)]
        longest = max(map(len, endings))
        ids = [[pad] * (longest - len(ending)) + ending for ending in endings]
        there = [[0] * (longest - len(ending)) + [1] * len(ending) for ending in endings]
        self.read(*(torch.tensor(part, device=self.mask.device) for part in (ids, there)))

    def drop(self) -> None:
        """Let keys and values go; this context is used up."""
        self.cache = DynamicCache()

    def _catch_up(self) -> None:
        """Read what is unread."""
        if self._unread:
            ids, positions = self._unread
            self._states, self._unread = self._read(self._embed(ids), self.mask, positions)[:, -1], None

    def _cut(self, tokens: int) -> None:
        """Forget the last tokens of every row, all of them words."""
        self._catch_up()
        if tokens:
            self.cache.crop(-tokens)
            self.mask, self.last = self.mask[:, :-tokens], self.last - tokens

    def _narrow(self, rows: list[int]) -> None:
        if rows != list(range(len(self.mask))):
            kept = torch.tensor(rows, device=self.mask.device)
            self.cache.batch_select_indices(kept)
            self.mask, self.last, self._states = self.mask[kept], self.last[..., kept], self._states[kept]

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.decoder.get_input_embeddings()(ids)

    def _read(
        self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor
    ) -> torch.Tensor:
        """States (B, n, H) of what comes behind the cache, which holds it from now on."""
        return self.decoder(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state


def shared(one: list[int], other: list[int]) -> int:
    """How many ids two rows have in common before they part.

    >>> shared([1, 2, 3], [1, 2, 4, 5])
    2
    """
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
