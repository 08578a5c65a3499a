"""A checkpoint of any family as a `LargeModel`.

Rows of a batch are padded on the left and answered greedily together; a row's answer does not depend on its
neighbours. What a row is, and how it reaches the model, is the family's.
"""

import time
from collections.abc import Callable
from typing import Protocol

import torch
from transformers import GenerationConfig

from uacs.errors import BadInput
from uacs.mllm import MllmSettings, family, load, reading
from uacs.mllm.prompts import Prompt, question, second_question
from uacs.records import ANSWERED, NOT_ASKED, LargeOutput, Sample, SmallOutput, transcript

BATCHES_AHEAD = 4  # as many batches' clips are in memory at a time, sorted by length among themselves


class Turn(Protocol):
    """A row as a family's inputs make it: its ids, and how many positions they take with what they stand for."""

    ids: list[int]

    @property
    def length(self) -> int:
        """Positions in the decoder."""


class LargePredictor:
    """Answers samples by text and clip, whatever of them there is (stage 2), and a second time with hints (stage 3)."""

    def __init__(self, spec: str, settings: MllmSettings, score_range: tuple[float, float], language: str = "en"):
        if settings.device == "cpu":
            torch.set_num_threads(settings.threads)
        self.settings, self.score_range, self.language = settings, score_range, language
        self.readout: str = settings.readout
        self.model = load(spec, settings.dtype, settings.device, settings.towers, settings.load_in_4bit)
        self.inputs = family(spec).Inputs(spec, self.model, settings)
        self.ends = _turn_ends(self.model, self.inputs)
        # nothing but greedy: a checkpoint's own sampling or repetition penalty would change the answers
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=sorted(self.ends),
            pad_token_id=self.inputs.pad_id,
            return_dict_in_generate=True,
            output_logits=True,
        )

    def answer(self, samples: list[Sample]) -> list[LargeOutput]:
        """Stage 2 (Eq. 10-12)."""
        return self._ask(samples, lambda i: question(transcript(samples[i]), self.score_range, self.language))

    def verify(self, samples: list[Sample], small: list[SmallOutput], large: list[LargeOutput]) -> list[LargeOutput]:
        """Stage 3 (Eq. 16): both answers and uncertainties in a fresh turn; without both, unavailable."""

        def prompt(i: int) -> Prompt:
            if small[i].error is not None or large[i].status not in ANSWERED:
                raise BadInput(f"sample '{samples[i].sample_id}': stage 3 needs both models' answers")
            return second_question(
                transcript(samples[i]),
                self.score_range,
                self.language,
                y_small=small[i].y,
                u_small=small[i].u,
                y_large=large[i].y,
                u_large=large[i].u,
            )

        return self._ask(samples, prompt)

    def _ask(self, samples: list[Sample], prompt: Callable[[int], Prompt]) -> list[LargeOutput]:
        """One output a sample, in order. seconds: its own clip's reading, and its share of the batch's answering."""
        outputs = [NOT_ASKED] * len(samples)
        size = self.settings.batch_size
        for ahead in _cut(range(len(samples)), BATCHES_AHEAD * size):
            rows: list[tuple[int, Turn, float]] = []
            for i in ahead:
                started = time.perf_counter()
                try:
                    encoded = self.inputs.encode(samples[i], self.inputs.media(samples[i]), prompt(i))
                except BadInput as error:
                    outputs[i] = LargeOutput(status="unavailable", error=str(error))
                else:
                    rows.append((i, encoded, time.perf_counter() - started))
            rows.sort(key=lambda row: row[1].length)
            for batch in _cut(rows, size):
                started = time.perf_counter()
                readings = self._read([encoded for _, encoded, _ in batch])
                share = (time.perf_counter() - started) / len(batch)
                for (i, _, own), (said, answer) in zip(batch, readings, strict=True):
                    fault = None if answer.status in ANSWERED else f"sample '{samples[i].sample_id}': {said}"
                    outputs[i] = LargeOutput(answer.y, answer.u, answer.status, own + share, fault)
        return outputs

    @torch.inference_mode()
    def _read(self, rows: list[Turn]) -> list[tuple[str, reading.Reading]]:
        """Generate for a batch and read each answer; with it, what was said instead of a number."""
        generated = self.model.generate(**moved(self.inputs.collate(rows), self.model.device))
        tokens = generated.sequences[:, -len(generated.logits) :].tolist()
        entropies = torch.stack([reading.token_entropies(step) for step in generated.logits], dim=1).tolist()
        return [self._reading(ids, u) for ids, u in zip(tokens, entropies, strict=True)]

    def _reading(self, ids: list[int], entropies: list[float]) -> tuple[str, reading.Reading]:
        end = next((k for k, token in enumerate(ids) if token in self.ends), None)
        pieces = reading.pieces_of(ids[:end], self._text)
        answer = reading.read(pieces, entropies, self.score_range, finished=end is not None)
        cut = "" if end is not None else f", cut at {self.settings.max_new_tokens} tokens"
        return f"answered {''.join(pieces)[:40]!r}{cut}, which is not one number", answer

    def _text(self, ids: list[int]) -> str:
        return self.inputs.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


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


def _cut(rows, size: int):
    return (rows[start : start + size] for start in range(0, len(rows), size))
