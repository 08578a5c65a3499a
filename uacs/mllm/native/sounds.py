"""Waveforms as an audio tower takes them: Whisper's log-mel picture, or Kaldi's filter banks for BEATs.

Waveforms are (n,) float32 in [-1, 1] at 16 kHz, mono.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor

from uacs.mllm.native.preprocessors import preprocessor, unfit

RATE = 16000


class WhisperSounds:
    """A waveform to the log-mel (mels, frames) of a whole window: 30 s, padded with silence or cut.

    folder has a preprocessor_config.json; without one it is what the published towers have.
    """

    def __init__(self, config: WhisperConfig, folder: Path | None):
        published = {"feature_size": config.num_mel_bins}
        self.extractor, self.from_folder = preprocessor(WhisperFeatureExtractor, folder, **published)
        try:
            made = tuple(self.mel(np.zeros(400, np.float32)).shape)
        except Exception as error:  # settings that do not go together fail when they are used
            raise unfit(folder, error) from None
        wanted = (config.num_mel_bins, 2 * config.max_source_positions)
        if made != wanted:
            raise unfit(
                folder, f"it makes {made[0]} mels by {made[1]} frames, the tower takes {wanted[0]} by {wanted[1]}"
            )

    def mel(self, waveform: np.ndarray, alone: bool = False) -> torch.Tensor:
        """(mels, frames) float32, of a film's sound as of sound alone; what is no number becomes -1.5 as originally."""
        features = self.extractor(waveform, sampling_rate=self.extractor.sampling_rate, return_tensors="pt")
        return torch.nan_to_num(features["input_features"][0].float(), nan=-1.5)


@dataclass(frozen=True)
class FilterBanks:
    """A waveform to BEATs' log-mel frames (frames, mels), as VideoLLaMA2.1-AV hears a clip.

    Of a film, `windows` stretches of `window` seconds, evenly spread, are put one after another (of a shorter one
    all of it, again and again); sound alone is heard straight through. Either is padded with silence to `seconds`,
    or cut to its middle: the original cuts at random.
    """

    windows: int = 8
    window: float = 2.0
    seconds: float = 30.0
    mels: int = 128

    @property
    def frames(self) -> int:
        """How many frames every clip has: 25 ms each, every 10 ms."""
        return 1 + (int(self.seconds * RATE) - 400) // 160

    def fbank(self, waveform: np.ndarray, alone: bool = False) -> torch.Tensor:
        """(frames, mels) float32, rounded to bfloat16 as the original hands it on; alone says that there is no film."""
        return kaldi_fbank(self.heard(waveform, alone), self.mels).to(torch.bfloat16).float()

    def heard(self, waveform: np.ndarray, alone: bool = False) -> torch.Tensor:
        """What is listened to (seconds * 16000,), in 16-bit steps as the original reads them from FFmpeg."""
        waveform = np.nan_to_num(waveform.astype(np.float32))
        steps = np.clip(np.round(waveform * 32768), -32768, 32767) / np.float32(32768)
        wave = torch.from_numpy(np.ascontiguousarray(steps if alone else self._windows(steps), np.float32))
        length = int(self.seconds * RATE)
        if (over := len(wave) - length) > 0:
            return wave[over // 2 : over // 2 + length]
        return torch.nn.functional.pad(wave, (0, -over))

    def _windows(self, steps: np.ndarray) -> np.ndarray:
        # fractions, as the original's sampler has them: rounding would move a window by a sample
        window, spare = Fraction(self.window), Fraction(max(len(steps) / RATE - self.window, 0.0))
        starts = [spare / self.windows * k for k in range(self.windows)]
        return np.concatenate([steps[int(start * RATE) : int((start + window) * RATE)] for start in starts])


def kaldi_fbank(waveform: torch.Tensor, mels: int = 128) -> torch.Tensor:
    """Kaldi's log-mel filter banks (frames, mels) as torchaudio computes them, step by step in float32.

    Frames of 25 ms every 10 ms, none beyond the end; mean removed, pre-emphasis 0.97, Povey's window, a power
    spectrum of 512 points, triangles on Kaldi's mel scale from 20 Hz to 8 kHz; natural logarithm, no dither.
    """
    frames = (waveform.float() * 2**15).unfold(0, 400, 160)
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - 0.97 * before) * torch.hann_window(400, periodic=False).pow(0.85)
    power = torch.fft.rfft(torch.nn.functional.pad(frames, (0, 112))).abs().pow(2)
    energies = power @ torch.nn.functional.pad(mel_triangles(mels), (0, 1)).T
    return energies.clamp(min=torch.finfo(torch.float32).eps).log()


def mel_triangles(mels: int, low: float = 20.0, high: float = 8000.0) -> torch.Tensor:
    """Weights (mels, 256) of the spectrum's points without its last; triangles are even on the mel scale."""
    lowest, highest = _mel(low), _mel(high)
    step = (highest - lowest) / (mels + 1)
    left, middle, right = (lowest + (torch.arange(mels) + float(k))[:, None] * step for k in range(3))
    point = 1127 * (1 + RATE / 512 * torch.arange(256) / 700).log()[None]
    return torch.minimum((point - left) / (middle - left), (right - point) / (right - middle)).clamp(min=0)


def _mel(hertz: float) -> float:
    return 1127 * math.log(1 + hertz / 700)
