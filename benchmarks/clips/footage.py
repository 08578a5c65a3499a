"""Clips to measure with: a moving scene and a voice, as large and as long as people's are."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FRAME_RATE, SAMPLE_RATE = 25, 16000


def shoot(path: Path, seed: int, size: tuple[int, int] = (360, 640), seconds: float = 4.0) -> Path:
    """Write an MP4 of H.264 and AAC: a smooth scene that drifts, with some noise, and a gliding tone."""
    draw = np.random.default_rng(seed)
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [rows * draw.uniform(0.01, 0.05) + columns * draw.uniform(0.01, 0.05) for _ in range(3)]
    noise = draw.normal(0, 4, (height, width, 3)).astype(np.float32)
    count = round(seconds * FRAME_RATE)
    with av.open(str(path), "w") as out:
        film = out.add_stream("libx264", rate=FRAME_RATE, options={"preset": "veryfast"})
        film.width, film.height, film.pix_fmt = width, height, "yuv420p"
        sound = out.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for k in range(count):
            scene = np.stack([128 + 90 * np.sin(wave + k / 6) for wave in waves], axis=2) + np.roll(noise, k, axis=0)
            picture = np.clip(scene, 0, 255).astype(np.uint8)
            out.mux(film.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(film.encode())
        at = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        tone = (0.3 * np.sin(2 * np.pi * (140 + 40 * at / seconds) * at)).astype(np.float32)
        for start in range(0, len(tone) - 1023, 1024):
            block = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="fltp", layout="mono")
            block.sample_rate, block.time_base, block.pts = SAMPLE_RATE, Fraction(1, SAMPLE_RATE), start
            out.mux(sound.encode(block))
        out.mux(sound.encode())
    return path
