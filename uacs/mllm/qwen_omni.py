"""The Qwen2.5-Omni family: the thinker of any of its checkpoints as a `LargeModel`.

A hub id or a folder, of the whole model or of its thinker alone; the tiny one of `tiny_omni` is loaded
by the same lines as Qwen/Qwen2.5-Omni-7B. Rows of a batch are padded on the left and answered greedily
together; a row's answer does not depend on its neighbours.
"""

import time
from collections.abc import Callable

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    GenerationConfig,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
)
from transformers.utils import logging

from uacs.errors import BadInput
from uacs.mllm import MllmSettings, reading
from uacs.mllm.omni_inputs import Encoded, OmniInputs, first_line
from uacs.mllm.prompts import Prompt, question, second_question
from uacs.records import ANSWERED, NOT_ASKED, LargeOutput, Sample, SmallOutput, transcript

BATCHES_AHEAD = 4  # as many batches' clips are in memory at a time, sorted by length among themselves


class QwenOmni:
    """Answers samples by text and clip, whatever of them there is (stage 2), and a second time with hints (stage 3)."""

    def __init__(self, spec: str, settings: MllmSettings, score_range: tuple[float, float], language: str = "en"):
        if settings.device == "cpu":
            torch.set_num_threads(settings.threads)
        self.settings, self.score_range, self.language = settings, score_range, language
        self.readout = settings.readout
        self.model = load_thinker(spec, getattr(torch, settings.dtype)).to(settings.device).eval()
        self.inputs = OmniInputs(spec, self.model.config, settings.frames)
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
            rows: list[tuple[int, Encoded, float]] = []
            for i in ahead:
                started = time.perf_counter()
                try:
                    encoded = self.inputs.encode(samples[i], self.inputs.media(samples[i]), prompt(i))
                except BadInput as error:
                    outputs[i] = LargeOutput(status="unavailable", error=str(error))
                else:
                    rows.append((i, encoded, time.perf_counter() - started))
            rows.sort(key=lambda row: len(row[1].ids))
            for batch in _cut(rows, size):
                started = time.perf_counter()
                readings = self._read([encoded for _, encoded, _ in batch])
                share = (time.perf_counter() - started) / len(batch)
                for (i, _, own), (said, answer) in zip(batch, readings, strict=True):
                    fault = None if answer.status in ANSWERED else f"sample '{samples[i].sample_id}': {said}"
                    outputs[i] = LargeOutput(answer.y, answer.u, answer.status, own + share, fault)
        return outputs

    @torch.inference_mode()
    def _read(self, rows: list[Encoded]) -> list[tuple[str, reading.Reading]]:
        """Generate for a batch and read each answer; with it, what was said instead of a number."""
        batch = {name: tensor.to(self.model.device) for name, tensor in self.inputs.collate(rows).items()}
        generated = self.model.generate(**batch)
        tokens = generated.sequences[:, batch["input_ids"].shape[1] :].tolist()
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


def load_thinker(spec: str, dtype: torch.dtype = torch.float32) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """The thinker of a folder or hub id, of the whole model or alone; raises `BadInput` naming it and the mend."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = _thinker_config(spec)
    try:
        model, report = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            spec, config=config, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadInput(
            f"{spec}: no weights that fit its config ({first_line(error)}); copy the whole checkpoint"
        ) from None
    if missing := sorted(report["missing_keys"]):
        # transformers would go on with random numbers in their place
        raise BadInput(f"{spec}: {len(missing)} weights are missing, first {missing[0]}; copy the whole checkpoint")
    return model


def _thinker_config(spec: str) -> Qwen2_5OmniThinkerConfig:
    try:
        config = AutoConfig.from_pretrained(spec)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{spec}: no readable config.json ({first_line(error)}); name a checkpoint folder or a hub id"
        ) from None
    config = getattr(config, "thinker_config", config)
    if not isinstance(config, Qwen2_5OmniThinkerConfig):
        raise BadInput(f"{spec}: a {config.model_type}, not a Qwen2.5-Omni thinker; name a checkpoint of that family")
    needed = ("vision_start_token_id", "audio_start_token_id", "video_token_id", "audio_token_id")
    if missing := [name for name in needed if getattr(config, name, None) is None]:
        raise BadInput(f"{spec}: config.json lacks {missing[0]}; copy the checkpoint's own")
    return config


def _turn_ends(model: Qwen2_5OmniThinkerForConditionalGeneration, inputs: OmniInputs) -> set[int]:
    """The tokens that end a turn, by the checkpoint's generation config and its tokenizer."""
    stated = model.generation_config.eos_token_id
    listed = stated if isinstance(stated, list) else [] if stated is None else [stated]
    return {*listed, inputs.tokenizer.eos_token_id}


def _cut(rows, size: int):
    return (rows[start : start + size] for start in range(0, len(rows), size))
