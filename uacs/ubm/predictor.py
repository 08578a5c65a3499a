"""A trained UBM as a plain object: built once, then asked with lists of samples."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from uacs.cascade.uncertainty import entropy
from uacs.errors import BadInput
from uacs.records import Sample, SmallOutput
from uacs.ubm import folder as ubm_folder
from uacs.ubm.batches import Encoded, check, collate, encode

NAN = float("nan")
UNREAD = SmallOutput(NAN, NAN, (NAN, NAN, NAN), error="not read")


class SmallPredictor:
    """Answers every sample with a score, three probabilities and their entropy in nats (Eq. 8).

    Features of a modality that the UBM was not trained with are passed over. `batch_size`, `device` and
    `threads` change speed, not answers (within 1e-5).
    """

    def __init__(self, folder: str | Path, batch_size: int = 64, device: str = "cpu", threads: int = 1):
        if device == "cpu":
            torch.set_num_threads(threads)
        self.batch_size, self.device = batch_size, device
        model, self.tokenizer, self.config = ubm_folder.load(Path(folder))
        self.model = model.to(device)

    def predict(self, samples: list[Sample]) -> list[SmallOutput]:
        """One output a sample, in order, whatever the batch around it; one that cannot be read says why."""
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
        order = sorted(range(len(readable)), key=lambda k: encoded[k].text_length)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            for k, output in zip(chosen, self._answer([encoded[k] for k in chosen]), strict=True):
                outputs[readable[k]] = _sure(output, samples[readable[k]])
        return outputs

    def _answer(self, samples: list[Encoded]) -> list[SmallOutput]:
        started = time.perf_counter()
        batch = {name: rows.to(self.device) for name, rows in collate(samples).items()}
        with torch.inference_mode():
            score, logits = self.model(batch, len(samples))
        p = torch.softmax(logits.double(), dim=-1).cpu().numpy()
        score, u = score.double().cpu().numpy(), entropy(p)
        seconds = (time.perf_counter() - started) / len(samples)
        return [
            SmallOutput(float(score[i]), float(u[i]), tuple(np.asarray(p[i], float).tolist()), seconds)
            for i in range(len(samples))
        ]


def _sure(output: SmallOutput, sample: Sample) -> SmallOutput:
    """The output, if it is one: finite features may still be so large that the model overflows."""
    if np.isfinite([output.y, output.u]).all():
        return output
    fault = "the UBM's answer is no number; are its features on the scale of the training data?"
    return replace(UNREAD, error=f"sample '{sample.sample_id}': {fault}")
