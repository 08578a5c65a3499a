"""A checkpoint of any family as a `LargeModel`.

Rows of a batch are padded on the left and read together; a row's answer does not depend on its neighbours. What a
row is, and how it reaches the model, is the family's; what is read off it, the read-out's. Asked for both stages at
once, the second look goes on from what the first one has read, batch by batch.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch

from uacs.errors import BadInput
from uacs.mllm import Due, MllmSettings, adapters, batches, family, head, load, lora
from uacs.mllm.context import Context
from uacs.mllm.head import Head
from uacs.mllm.prompts import Prompt, question, second_question
from uacs.mllm.reading import Reading
from uacs.mllm.readouts import Decode, FromHead, OverTrie, ReadOut
from uacs.records import ANSWERED, NOT_ASKED, LargeOutput, Sample, SmallOutput, transcript

BATCHES_AHEAD = 4  # as many batches' clips are in memory at a time, as far as the budget takes them
HINTS_ROOM = 160  # positions behind a prompt that memory is kept for, beside what a read-out reads
GIB = 2**30


class Turn(Protocol):
    """A row as a family's inputs make it: its ids, of which those from `words` on are words alone, and how many
    positions they take with what they stand for."""

    ids: list[int]
    media: Any

    @property
    def words(self) -> int:
        """The first id behind all media."""

    @property
    def length(self) -> int:
        """Positions in the decoder."""


@dataclass
class _Row:
    """A sample on its way: where it stands, its turn, and the seconds that its clip took to read."""

    place: int
    turn: Turn
    seconds: float


@dataclass
class _Look:
    """A batch that was read and answered; encoded, what the towers made of it, if that was to be kept."""

    rows: list[_Row]
    context: Context
    encoded: list[dict] | None


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory, its family's file, its way from samples to batches, and a head that is not in a file.

    precision is what it is computed within, where its weights are of several types.
    """

    model: Any
    family: ModuleType
    inputs: Any
    head: Head | None = None
    precision: Callable[[], AbstractContextManager] = nullcontext

    @classmethod
    def of(cls, spec: str, settings: MllmSettings) -> "Loaded":
        """The checkpoint of a folder or hub id; raises `BadInput` naming it and the mend."""
        model = load(spec, settings.dtype, settings.device, settings.towers, settings.load_in_4bit)
        kind = family(spec)
        return cls(model, kind, kind.Inputs(spec, model, settings))


class LargePredictor:
    """Answers samples by text and clip, whatever of them there is (stage 2), and a second time with hints (stage 3).

    With an adapter's folder it answers through that; what was `loaded` may be shared by several that do.
    """

    def __init__(
        self,
        spec: str,
        settings: MllmSettings,
        score_range: tuple[float, float],
        language: str = "en",
        adapter: str | None = None,
        loaded: Loaded | None = None,
    ):
        self.settings, self.score_range, self.language = settings, score_range, language
        self.readout: str = settings.readout
        loaded = loaded or Loaded.of(spec, settings)
        self.model, self.family, self.inputs = loaded.model, loaded.family, loaded.inputs
        self.precision = loaded.precision
        self.folder, self.adapter = adapter or spec, adapters.name_of(adapter) if adapter else None
        if adapter and self.adapter:
            lora.load(self.model, adapter, self.adapter)
            if settings.frames is None:  # as many as it was trained with
                as_trained = settings.model_copy(update={"frames": adapters.manifest(adapter).frames})
                self.inputs = self.family.Inputs(spec, self.model, as_trained)
        self.ends = _turn_ends(self.model, self.inputs)
        self.decoder, self.vocabulary = self.family.decoder_of(self.model), self.model.get_output_embeddings()
        config = self.decoder.config
        window = getattr(config, "sliding_window", None)
        self.slides = bool(window and window < config.max_position_embeddings)
        self.reads = self._read_out(self.folder, loaded.head)
        self.read_on = HINTS_ROOM + self.reads.most
        each = sum(batches.position_bytes(config, self.vocabulary.weight.element_size()))
        self.most_positions = int(settings.batch_gib * GIB / each)

    @property
    def frames(self) -> int:
        """Of a clip that it looks at."""
        return self.inputs.frames

    def answer(self, samples: list[Sample]) -> list[LargeOutput]:
        """Stage 2 (Eq. 10-12)."""
        return self._ask(samples, lambda i: self._question(samples[i]))

    def verify(self, samples: list[Sample], small: list[SmallOutput], large: list[LargeOutput]) -> list[LargeOutput]:
        """Stage 3 (Eq. 16): both answers and uncertainties in a fresh turn; without both, unavailable."""
        return self._ask(samples, lambda i: self._second_question(samples[i], small[i], large[i]))

    @torch.inference_mode()
    def answer_and_verify(
        self, samples: list[Sample], small: list[SmallOutput], due: Due
    ) -> tuple[list[LargeOutput], list[LargeOutput]]:
        """Both stages, the second for the samples that are `due` by what the first one said; the others are not asked.

        Stage 3 goes on from what stage 2 has read, unless `verify_prefill` has it read everything anew.
        """
        large, looked = [NOT_ASKED] * len(samples), [NOT_ASKED] * len(samples)

        def both(rows: list[_Row]) -> None:
            first = self._look(rows, samples, large, keep_encoded=self.settings.verify_prefill)
            at = [row.place for row in rows]
            turns: dict[int, _Row] = {}
            for k in np.flatnonzero(due([small[i] for i in at], [large[i] for i in at])).tolist():
                i, media = at[k], rows[k].turn.media
                try:
                    prompt = self._second_question(samples[i], small[i], large[i])
                    turns[k] = _Row(i, self.inputs.encode(samples[i], media, prompt), 0.0)
                except BadInput as error:
                    looked[i] = LargeOutput(status="unavailable", error=str(error))
            if turns:
                with _Clock() as clock:
                    readings = self.reads.read(self._second_context(first, turns))
                _write(looked, samples, list(turns.values()), readings, clock.seconds)

        for rows in self._batches(samples, lambda i: self._question(samples[i]), large):
            both(rows)  # whose keys and values are gone when the next batch is read
        return large, looked

    @torch.inference_mode()
    def _ask(self, samples: list[Sample], prompt: Callable[[int], Prompt]) -> list[LargeOutput]:
        """One output a sample, in order."""
        outputs = [NOT_ASKED] * len(samples)
        for rows in self._batches(samples, prompt, outputs):
            self._look(rows, samples, outputs)
        return outputs

    def _look(
        self, rows: list[_Row], samples: list[Sample], outputs: list[LargeOutput], keep_encoded: bool = False
    ) -> _Look:
        """Read a batch and write its answers into `outputs`."""
        with _Clock() as clock, self.precision():
            batch = moved(self.inputs.collate([row.turn for row in rows]), self.model.device)
            encoded = self.family.of_towers(self.model, batch) if keep_encoded else None
            context = self._context(batch, encoded)
            del batch  # pictures and sounds, which the context has no need of any more
            readings = self.reads.read(context)
        _write(outputs, samples, rows, readings, clock.seconds)
        return _Look(rows, context, encoded)

    def _batches(
        self, samples: list[Sample], prompt: Callable[[int], Prompt], outputs: list[LargeOutput]
    ) -> Iterator[list[_Row]]:
        """Rows that are read together; a sample that makes none has its output written, which says why."""
        if self.settings.device == "cpu":
            torch.set_num_threads(self.settings.threads)  # of the thread that asks: in one of a server's it is 1 else
        if self.adapter:
            lora.use(self.model, self.adapter)
        rows: list[_Row] = []
        held, most = 0, self.settings.batch_gib * GIB
        for i, sample in enumerate(samples):
            with _Clock() as clock:
                try:
                    asked = prompt(i)
                    turn = self.inputs.encode(sample, self.inputs.media(sample), asked)
                except BadInput as error:
                    outputs[i] = LargeOutput(status="unavailable", error=str(error))
                    continue
            rows.append(_Row(i, turn, clock.seconds))
            held += sum(getattr(part, "nbytes", 0) for part in vars(turn.media).values())
            if len(rows) == BATCHES_AHEAD * self.settings.batch_size or held > most:
                yield from self._cut(rows)
                rows, held = [], 0
        yield from self._cut(rows)

    def _cut(self, rows: list[_Row]) -> Iterator[list[_Row]]:
        lengths = [row.turn.length + self.read_on for row in rows]
        for batch in batches.cut(lengths, self.settings.batch_size, self.most_positions):
            yield [rows[k] for k in batch]

    def _context(self, batch: dict, encoded: list[dict] | None = None) -> Context:
        """A batch read from its beginning."""
        return Context(self.decoder, self.vocabulary, self.family.embedded(self.model, batch, encoded))

    def _second_context(self, first: _Look, turns: dict[int, _Row]) -> Context:
        """The turns, by their places in the first look's batch, read on from where they part with it, or anew."""
        said, instead = [first.rows[k].turn.ids for k in turns], [row.turn.ids for row in turns.values()]
        # a window counts the padding between what was read and what is read on, so there it would see less
        if not (self.settings.verify_prefill or self.slides):
            first.context.read_instead(list(turns), said, instead, self.inputs.pad_id)
            return first.context
        first.context.drop()  # two at once would be more than was reckoned with
        batch = moved(self.inputs.collate([row.turn for row in turns.values()]), self.model.device)
        return self._context(batch, None if first.encoded is None else [first.encoded[k] for k in turns])

    def _question(self, sample: Sample) -> Prompt:
        return question(transcript(sample), self.score_range, self.language)

    def _second_question(self, sample: Sample, small: SmallOutput, large: LargeOutput) -> Prompt:
        if small.error is not None or large.status not in ANSWERED:
            raise BadInput(f"sample '{sample.sample_id}': stage 3 needs both models' answers")
        return second_question(
            transcript(sample),
            self.score_range,
            self.language,
            y_small=small.y,
            u_small=small.u if small.told is None else small.told,
            y_large=large.y,
            u_large=large.u,
            hints=self.settings.hints,
        )

    def _read_out(self, spec: str, known: Head | None) -> ReadOut:
        if self.readout == "head":
            states = self.decoder.config.hidden_size
            found = known or head.load(spec, states, self.score_range, self.model.device)
            return FromHead(found, self.score_range)
        if self.readout == "trie":
            if self.slides:
                raise BadInput(f"{spec}: its attention slides, and a trie would see all; read it by decode or head")
            return OverTrie(self.inputs.answer_ids, self.ends, self.score_range, self.model.device)
        return Decode(self._text, self.ends, self.settings.max_new_tokens, self.score_range)

    def _text(self, ids: list[int]) -> str:
        return self.inputs.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


class _Clock:
    """Seconds that a block took."""

    seconds = 0.0

    def __enter__(self) -> "_Clock":
        self.started = time.perf_counter()
        return self

    def __exit__(self, *_) -> None:
        self.seconds = time.perf_counter() - self.started


def _write(
    outputs: list[LargeOutput], samples: list[Sample], rows: list[_Row], readings: list[Reading], seconds: float
) -> None:
    """Put a batch's readings in their places. seconds: a row's own clip's reading, and its share of the batch's."""
    for row, answer in zip(rows, readings, strict=True):
        fault = f"sample '{samples[row.place].sample_id}': {answer.fault}" if answer.fault else None
        took = row.seconds + seconds / len(rows)
        outputs[row.place] = LargeOutput(answer.y, answer.u, answer.status, took, fault, answer.signals)


def moved(batch: dict, device: torch.device) -> dict:
    """A batch with every tensor in it, alone or one a row, on a device."""

    def there(value):
        if isinstance(value, list):
            return [there(one) for one in value]
        return value.to(device) if isinstance(value, torch.Tensor) else value

    return {name: there(value) for name, value in batch.items()}


def _turn_ends(model, inputs) -> set[int]:
    """The tokens that end a turn, by the checkpoint's generation config and its tokenizer."""
    stated = model.generation_config.eos_token_id
    listed = stated if isinstance(stated, list) else [] if stated is None else [stated]
    return {*listed, inputs.tokenizer.eos_token_id}
