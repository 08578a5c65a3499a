"""What is said in a clip, written down by a speech recogniser, where neither the data nor a file beside it says so.

Any checkpoint that transformers' speech recognition takes: Whisper, wav2vec 2.0 and the like, a folder or a hub id.
Each clip is heard by itself and greedily, so its transcript does not depend on the others.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from uacs import fingerprints
from uacs.errors import BadInput, reason
from uacs.records import Sample, transcript

CHUNK = 30.0  # seconds that are heard at once, of a longer clip
SHORTEST = 0.1  # seconds; less than that is no word


class Recogniser:
    """A checkpoint, ready to be listened with; language as `en` or `zh`, for those that know several.

    Raises `BadInput` naming it where there is none, it is no recogniser, or it knows other languages.
    """

    def __init__(self, spec: str, language: str, device: str = "cpu"):
        from transformers import pipeline
        from transformers.utils import logging

        logging.set_verbosity_error()
        try:
            self.pipe = pipeline("automatic-speech-recognition", model=spec, device=device)
        except Exception as error:  # of many kinds: no such folder, another kind of model, a file that is missing
            raise BadInput(f"{spec}: is no speech recogniser ({reason(error)}); name a checkpoint of one") from None
        how = getattr(self.pipe.model, "generation_config", None)
        several = getattr(how, "is_multilingual", False)
        if several and f"<|{language}|>" not in (getattr(how, "lang_to_id", None) or {}):
            raise BadInput(f"{spec}: does not know the data's language, {language}; name a recogniser that does")
        self.asked = {"generate_kwargs": {"language": language, "task": "transcribe"}} if several else {}

    def words(self, waveform: np.ndarray, sample_rate: int) -> str | None:
        """What is said, (N,) float32 at that rate; None where nothing is."""
        if len(waveform) < SHORTEST * sample_rate:
            return None
        heard = {"raw": waveform, "sampling_rate": sample_rate}
        long = {"chunk_length_s": CHUNK} if len(waveform) > CHUNK * sample_rate else {}
        return self.pipe(heard, **long, **self.asked)["text"].strip() or None

    def written_down(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples, those without a transcript with what is said in their footage."""
        return [
            replace(s, text=self.words(s.footage.waveform, s.footage.sample_rate))
            if transcript(s) is None and s.footage and s.footage.waveform is not None
            else s
            for s in samples
        ]


def identity(spec: str) -> str:
    """What tells a recogniser from another: its folder's contents, or its hub id."""
    return fingerprints.of_folder(Path(spec)) if Path(spec).is_dir() else spec


def absolute(spec: str) -> str:
    """The same for a process with another working directory."""
    return str(Path(spec).absolute()) if Path(spec).exists() else spec
