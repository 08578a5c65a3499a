"""A trained UBM as a plain object: built once, then asked with lists of samples."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from uacs.cascade.estimators import SmallAnswers, estimates
from uacs.errors import BadInput
from uacs.records import Sample, SmallOutput
from uacs.ubm import folder as ubm_folder
from uacs.ubm.batches import Encoded, check, collate, encode
from uacs.ubm.estimating import estimator_of, load_fitted, members
from uacs.ubm.model import Heads, Rows, Ubm

MOST_NUMBERS = 2**26  # of a batch's longest modality, padding among them: 256 MiB
NAN = float("nan")
UNREAD = SmallOutput(NAN, NAN, (NAN, NAN, NAN), error="not read")


class SmallPredictor:
    """Answers every sample with a score, three probabilities, and how unsure it is by an estimator of its doubts.

    The estimator is the UBM's own unless another is named (`uacs.cascade.estimators`); all those that cost nothing are
    among the signals. Features of a modality that the UBM was not trained with are passed over. `batch_size`, `device`
    and `threads` change speed, not answers (within 1e-5). Raises `BadInput` for an estimator that there is not,
    or that this UBM lacks what it needs for.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int = 256,
        device: str = "cpu",
        threads: int = 1,
        estimator: str | None = None,
    ):
        self.batch_size, self.device, self.threads = batch_size, device, threads
        folder = Path(folder)
        model, self.tokenizer, self.config = ubm_folder.load(folder)
        self.model, self.fitted = model.to(device), load_fitted(folder)
        self.estimator = estimator_of(folder, self.config, estimator)
        ensemble = members(folder) if self.estimator == "ev" else []
        self.members: list[Ubm] = [ubm_folder.load(place)[0].to(device) for place in ensemble]

    def predict(self, samples: list[Sample]) -> list[SmallOutput]:
        """One output a sample, in order, whatever the batch around it; one that cannot be read says why."""
        if self.device == "cpu":
            torch.set_num_threads(self.threads)  # of the thread that asks: in one of a server's it is 1 else
        outputs = [UNREAD] * len(samples)
        readable = []
        for i, sample in enumerate(samples):
            try:
                check(sample, self.config.features)
                readable.append(i)
            except BadInput as error:
                outputs[i] = replace(UNREAD, error=str(error))
        limit = self.config.training.max_text_tokens
        encoded = encode([samples[i] for i in readable], self.tokenizer, self.config.features, limit)
        for chosen in self._batches(encoded):
            for k, output in zip(chosen, self._answer([encoded[k] for k in chosen]), strict=True):
                outputs[readable[k]] = _sure(output, samples[readable[k]])
        return outputs

    def _batches(self, encoded: list[Encoded]) -> Iterator[list[int]]:
        """Places of samples that are answered together, of like texts; a very long clip has fewer beside it."""
        chosen, longest = list[int](), 0
        for k in sorted(range(len(encoded)), key=lambda k: encoded[k].text_length):
            longest = max(longest, encoded[k].size)
            if chosen and (len(chosen) == self.batch_size or (len(chosen) + 1) * longest > MOST_NUMBERS):
                yield chosen
                chosen, longest = [], encoded[k].size
            chosen.append(k)
        if chosen:
            yield chosen

    def _answer(self, samples: list[Encoded]) -> list[SmallOutput]:
        started = time.perf_counter()
        batch = {name: rows.to(self.device) for name, rows in collate(samples).items()}
        said, ev = self._said(batch, len(samples))
        ptd = None if said.deviation is None else said.deviation.double().cpu().numpy()
        y, p = said.score.double().cpu().numpy(), torch.softmax(said.logits.double(), dim=-1).cpu().numpy()
        signals = estimates(SmallAnswers(y, p, self.config.top, ptd, ev), self.fitted)
        u = signals[self.estimator]
        told = self.fitted.in_nats(self.estimator, u) if self.fitted else signals["cbe"]
        seconds = (time.perf_counter() - started) / len(samples)
        return [
            SmallOutput(
                y=float(y[i]),
                u=float(u[i]),
                p=tuple(p[i].tolist()),
                seconds=seconds,
                signals={name: float(values[i]) for name, values in signals.items()},
                told=None if self.estimator == "cbe" else float(told[i]),
            )
            for i in range(len(samples))
        ]

    def _said(self, batch: dict[str, Rows], size: int) -> tuple[Heads, np.ndarray | None]:
        """What the UBM says, and the variance of its ensemble's scores (size,), where it has to do with one."""
        with torch.inference_mode():
            scores = [member(batch, size).score.double().cpu().numpy() for member in self.members]
            return self.model(batch, size), np.var(scores, axis=0) if scores else None


def _sure(output: SmallOutput, sample: Sample) -> SmallOutput:
    """The output, if it is one: finite features may still be so large that the model overflows."""
    if np.isfinite([output.y, output.u]).all():
        return output
    fault = "the UBM's answer is no number; are its features on the scale of the training data?"
    return replace(UNREAD, error=f"sample '{sample.sample_id}': {fault}")
