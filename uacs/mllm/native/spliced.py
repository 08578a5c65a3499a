"""A decoder that reads media in the middle of a sentence.

Ids come with markers, which are no token: -200 picture, -201 video, -202 sound. In a marker's place the
features that the family's towers and connectors make of the medium are put between the embeddings of the
text, which makes the row longer; positions count on through all of it.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from uacs.mllm.native.checkpoint import LoadReport

MARKERS = {"<image>": -200, "<video>": -201, "<audio>": -202}

IMAGE, VIDEO, AUDIO = MARKERS.values()
FRAMES_AT_ONCE, SOUNDS_AT_ONCE = 64, 32

Rows: TypeAlias = torch.Tensor | Sequence[torch.Tensor | None] | None
"""A medium of a batch: one tensor or None a row, or (B, ...) or (rows that hold its marker, ...) in one tensor."""


class SplicedModel(nn.Module):
    """What families share: `llm`, a causal decoder, and how rows reach it.

    A family defines `encoded(ids, **media)`: for each row of ids a tensor by marker, what its towers make of the
    medium whatever is asked; and `features(ids, encoded, **questions)`: for each row what stands in the markers'
    places, (n, H) by marker.
    """

    llm: PreTrainedModel
    encoded: Callable[..., list[dict[int, torch.Tensor]]]
    features: Callable[..., list[dict[int, torch.Tensor]]]
    media: tuple[str, ...]
    """The arguments of `encoded`, by name."""
    questions: tuple[str, ...] = ()
    """Those of `features`, by name."""
    report: LoadReport

    def forward(self, input_ids: torch.Tensor, **inputs) -> torch.Tensor:
        """Logits (B, L, V) of the rows after splicing, L being the longest row's length; arguments as of `spliced`."""
        return self.llm(**self.spliced(input_ids, **inputs), use_cache=False).logits

    def states(self, input_ids: torch.Tensor, **inputs) -> torch.Tensor:
        """As `forward`, but the last hidden states (B, L, H), before the vocabulary is spread out."""
        return self.llm.model(**self.spliced(input_ids, **inputs), use_cache=False).last_hidden_state

    def generate(self, input_ids: torch.Tensor, **inputs):
        """What transformers' generate returns by `generation_config`; `sequences` hold new tokens only."""
        spliced = self.spliced(input_ids, **inputs)
        spliced.pop("position_ids")  # generate counts them by the mask
        return self.llm.generate(**spliced)

    @property
    def generation_config(self) -> GenerationConfig | None:
        """How the decoder generates."""
        return self.llm.generation_config

    @generation_config.setter
    def generation_config(self, wanted: GenerationConfig) -> None:
        self.llm.generation_config = wanted

    def towers(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **media) -> list[dict]:
        """What `spliced` may be given as `encoded`, a row each: so that media asked about twice are encoded once."""
        media = {name: medium for name, medium in media.items() if medium is not None and name in self.media}
        return self.encoded(self._rows(input_ids, attention_mask), **media)

    def spliced(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        padding: str = "right",
        encoded: list[dict] | None = None,
        **media,
    ) -> dict[str, torch.Tensor]:
        """The decoder's arguments: inputs_embeds (B, L, H), attention_mask and position_ids (B, L).

        input_ids (B, l) hold markers; attention_mask (B, l) is 0 where ids are padding; media are the family's, None
        being as good as left away; `encoded` stands in for towers that have run.
        Rows shorter than the longest are padded on the side that `padding` names; what stands there means nothing.
        """
        if padding not in ("left", "right"):
            raise ValueError(f"padding '{padding}' is neither left nor right")
        ids = self._rows(input_ids, attention_mask)
        if encoded is None:
            encoded = self.towers(input_ids, attention_mask, **media)
        features = self.features(ids, encoded, **{name: media[name] for name in self.questions if name in media})
        # in one look-up: where weights lie in parts on several devices, each costs an exchange that all must make
        texts = self.llm.get_input_embeddings()(torch.cat(ids).clamp(min=0).to(self.device)).split([*map(len, ids)])
        rows = [_row(*parts) for parts in zip(ids, texts, features, strict=True)]
        length = max(map(len, rows))
        embeds = rows[0].new_zeros(len(rows), length, rows[0].shape[-1])
        there = torch.zeros(len(rows), length, dtype=torch.long, device=embeds.device)
        for k, row in enumerate(rows):
            place = slice(length - len(row), None) if padding == "left" else slice(len(row))
            embeds[k, place], there[k, place] = row, 1
        positions = (there.cumsum(-1) - 1).clamp(min=0)
        return {"inputs_embeds": embeds, "attention_mask": there, "position_ids": positions}

    def get_output_embeddings(self) -> nn.Module:
        """The layer from states to logits."""
        return self.llm.lm_head

    @property
    def device(self) -> torch.device:
        """Where the decoder lies."""
        return self.llm.device

    def _rows(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[torch.Tensor]:
        """Each row's ids without its padding."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return [row[kept.bool()] for row, kept in zip(input_ids, mask, strict=True)]


def _row(ids: torch.Tensor, text: torch.Tensor, features: dict[int, torch.Tensor]) -> torch.Tensor:
    """One row's embeddings (n, H), media in their places; raises `ValueError` where one is missing or left over.

    text (l, H) are the embeddings of its ids; those of markers mean nothing.
    """
    wanted = [int(i) for i in ids[ids < 0]]
    if sorted(wanted) != sorted(features):
        raise ValueError(f"a row has the markers {wanted}, and media for {sorted(features)}")
    pieces, start = [], 0
    for place in torch.nonzero(ids < 0).flatten().tolist():
        pieces += [text[start:place], features[int(ids[place])].to(text.dtype)]
        start = place + 1
    return torch.cat([*pieces, text[start:]])


def decoder_of(model: SplicedModel) -> nn.Module:
    """The decoder, from embeddings to states."""
    return model.llm.model


def of_towers(model: SplicedModel, batch: dict) -> list[dict]:
    """What the towers make of a batch of `Inputs.collate`, a row each, whatever is asked about it."""
    return model.towers(**batch)


def embedded(model: SplicedModel, batch: dict, encoded: list[dict] | None = None) -> dict[str, torch.Tensor]:
    """The decoder's arguments for a batch of `Inputs.collate`; `encoded` stands in for towers that have run."""
    return model.spliced(**batch, encoded=encoded)


def rows_of(medium: Rows, ids: list[torch.Tensor], *markers: int) -> list[torch.Tensor | None]:
    """A medium as one tensor or None for each row; raises `ValueError` where its rows are none of those `Rows` says.

    Of one tensor, rows without any of the markers get nothing: the originals fill such places with dummies.
    """
    if medium is None:
        return [None] * len(ids)
    if not isinstance(medium, torch.Tensor):
        if len(medium) != len(ids):
            raise ValueError(f"media for {len(medium)} rows, ids for {len(ids)}")
        return list(medium)
    marked = [k for k, row in enumerate(ids) if any(marker in row for marker in markers)]
    if len(medium) not in (len(ids), len(marked)):
        raise ValueError(f"media for {len(medium)} rows; {len(ids)} rows of ids, {len(marked)} with a marker of it")
    places = marked if len(medium) == len(marked) else range(len(ids))
    given = dict(zip(places, medium, strict=True))
    return [given.get(k) if k in marked else None for k in range(len(ids))]


def each(
    rows: list[torch.Tensor | None], encode: Callable[[list[int]], torch.Tensor], at_once: int
) -> list[torch.Tensor | None]:
    """What `encode` makes of the rows that are there, given the positions of at most `at_once` rows of one shape.

    A tower's memory grows with the rows that it is shown together, and a batch may be larger than it can take.
    """
    groups: dict[torch.Size, list[int]] = {}
    for k, row in enumerate(rows):
        if row is not None:
            groups.setdefault(row.shape, []).append(k)
    encoded: list[torch.Tensor | None] = [None] * len(rows)
    for group in groups.values():
        for start in range(0, len(group), at_once):
            some = group[start : start + at_once]
            for k, one in zip(some, encode(some), strict=True):
                encoded[k] = one
    return encoded


def clips_at_once(rows: list[torch.Tensor | None]) -> int:
    """How many clips of (T, 3, side, side) a vision tower is shown together: about 64 frames, one clip at least."""
    longest = max((len(row) for row in rows if row is not None), default=1)
    return max(1, FRAMES_AT_ONCE // longest)


def stacked(rows: list[torch.Tensor | None], group: list[int]) -> torch.Tensor:
    """The rows at some positions as one batch."""
    return torch.stack([row for row in (rows[k] for k in group) if row is not None])
