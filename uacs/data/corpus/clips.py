"""How the generated corpus looks and sounds: a cartoon face in front of a backdrop, and a voice of five harmonics.

Each cue has an exact side and a coarse one. The mouth's curve and the voice's glide show the sentiment
exactly, to whoever sees the picture or hears the pitch; light and loudness show it with much noise
added, and are all that `uacs-basic-2` gets of face and voice. A nod or a shake lies between the two
quarters of a clip, where every frame is looked at but where two midpoint frames miss it.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIZE = 56  # pixels, square
FRAME_RATE = 6
FRAMES = (6, 12)  # 1 to 2 s
SAMPLE_RATE = 16000

CURVE = 8.0  # pixels between the middle of the mouth and its corners at full sentiment
MOVEMENT = 5.0  # pixels of a nod or shake at full sentiment
LIGHT = 0.1  # share of brightness a unit of sentiment
GLIDE = 0.7  # octaves to either side of the speaker's pitch at full sentiment
LOUDNESS = 2.0  # dB a unit of sentiment, about a level of...
LEVEL = -26.0  # ...dB of full scale
COARSE_NOISE = 2.0  # sd, in units of sentiment, of what light and loudness show

FULL = 3.0  # the sentiment that is shown in full


@dataclass(frozen=True)
class Speaker:
    """What all clips of a video share: a pitch in Hz and colours, RGB in [0, 255]."""

    pitch: float
    skin: np.ndarray
    hair: np.ndarray
    backdrop: np.ndarray


def draw_speaker(rng: np.random.Generator) -> Speaker:
    """A speaker at random; colours differ in hue, hardly in brightness, since brightness is a cue."""
    return Speaker(
        pitch=float(rng.uniform(140, 280)),
        skin=_colour(rng, (1.25, 0.95, 0.75), brightness=150),
        hair=_colour(rng, (1.2, 1.0, 0.9), brightness=45),
        backdrop=_colour(rng, (1.0, 1.0, 1.0), brightness=70),
    )


def picture(
    face: float | None, head: float | None, frames: int, speaker: Speaker, rng: np.random.Generator
) -> np.ndarray:
    """(frames, 56, 56, 3) uint8 RGB: a face that smiles or frowns, its head nodding or shaking.

    face and head are sentiments in [-3, 3]; without a face there is the backdrop alone, without a
    head the face keeps still.
    """
    light = 1 + LIGHT * _coarse(face, rng)
    at = 27.5 + rng.uniform(-2, 2, size=2)  # where the head rests: down, right
    canvas = np.broadcast_to(speaker.backdrop, (frames, SIZE, SIZE, 3)).astype(np.float32)
    if face is not None:
        down, right = _movement(head, frames).T + at[:, None]
        grid = np.arange(SIZE, dtype=np.float32)
        y = (grid[:, None] - down[:, None, None]).astype(np.float32)  # (T, 56, 1), of the head's middle
        x = (grid[None, :] - right[:, None, None]).astype(np.float32)  # (T, 1, 56)
        canvas = _paint_head(canvas, y, x, face, speaker)
    return np.clip(canvas * light, 0, 255).round().astype(np.uint8)


def sound(voice: float, frames: int, speaker: Speaker, rng: np.random.Generator) -> np.ndarray:
    """(samples,) float32: as long as the frames, a voice whose pitch glides up when pleased, down when not."""
    seconds = frames / FRAME_RATE
    place = np.linspace(-1, 1, round(seconds * SAMPLE_RATE))
    octaves = GLIDE * voice / FULL * place
    phase = 2 * np.pi * np.cumsum(speaker.pitch * 2**octaves) / SAMPLE_RATE
    wave = sum(np.sin(k * phase + rng.uniform(0, 2 * np.pi)) / k for k in range(1, 6))
    syllables = 1 + 0.3 * np.sin(2 * np.pi * rng.uniform(3, 5) * seconds * (place + 1) / 2 + rng.uniform(0, 2 * np.pi))
    wave = wave * syllables
    decibels = LEVEL + LOUDNESS * _coarse(voice, rng)
    wave *= 10 ** (decibels / 20) / np.sqrt(np.mean(np.square(wave)))
    return np.clip(wave, -1, 1).astype(np.float32)


def write_clip(path: Path, frames: np.ndarray, waveform: np.ndarray | None) -> None:
    """Encode as H.264 and, where there is a waveform, AAC; the same arrays give the same bytes."""
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "ultrafast", "crf": "18"})
        video.width = video.height = SIZE
        video.pix_fmt = "yuv420p"
        video.thread_count = 1  # x264 cuts frames by threads, and so would the bytes differ by machine
        audio = None
        if waveform is not None:
            audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options={"aac_coder": "fast"})
            audio.bit_rate = 64000
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        if audio is not None and waveform is not None:
            block = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
            block.sample_rate = SAMPLE_RATE
            block.time_base, block.pts = Fraction(1, SAMPLE_RATE), 0  # else players hear the encoder's 64 ms run-up
            container.mux(audio.encode(block))
            container.mux(audio.encode())


def _coarse(sentiment: float | None, rng: np.random.Generator) -> float:
    """What light or loudness shows of a sentiment, in its units."""
    return float(np.clip((sentiment or 0.0) + rng.normal(0, COARSE_NOISE), -6, 6))


def _movement(head: float | None, frames: int) -> np.ndarray:
    """(frames, 2): where the head is, down and right of its rest, in pixels.

    A nod is vertical and means yes, a shake is horizontal and means no. It moves to and fro in every
    frame between the clip's quarters, and in no other.
    """
    moved = np.zeros((frames, 2))
    if head is not None:
        first, last = round((frames - 1) / 4 + 1e-6), round(3 * (frames - 1) / 4 + 1e-6)  # two midpoint frames
        swing = np.where(np.arange(last - first - 1) % 2, -1, 1)
        moved[first + 1 : last, 0 if head > 0 else 1] = MOVEMENT * abs(head) / FULL * swing
    return moved


def _paint_head(canvas: np.ndarray, y: np.ndarray, x: np.ndarray, face: float, speaker: Speaker) -> np.ndarray:
    """Head, hair, eyes and mouth over the canvas; y (T, H, 1) and x (T, 1, W) count from the head's middle."""
    mouth = 8 + CURVE * face / FULL * (0.5 - np.square(x / 9))
    inside = _ellipse(y, x, 19, 16)
    layers = [
        (inside, speaker.skin),
        (inside * np.clip(-y - 10.5, 0, 1), speaker.hair),
        (_ellipse(y + 4, x + 6, 2.2, 2.2), speaker.hair * 0.5),
        (_ellipse(y + 4, x - 6, 2.2, 2.2), speaker.hair * 0.5),
        (np.clip(2 - np.abs(y - mouth), 0, 1) * np.clip(9.5 - np.abs(x), 0, 1), MOUTH),
    ]
    for opacity, colour in layers:
        canvas = canvas + opacity[..., None] * (colour.astype(np.float32) - canvas)
    return canvas


MOUTH = np.array([120, 20, 30])


def _ellipse(y: np.ndarray, x: np.ndarray, height: float, width: float) -> np.ndarray:
    """Opacity of an ellipse with these radii about the origin, its edge one pixel soft."""
    distance = (np.sqrt(np.square(y / height) + np.square(x / width)) - 1) * min(height, width)
    return np.clip(0.5 - distance, 0, 1)


def _colour(rng: np.random.Generator, tint: tuple[float, float, float], brightness: float) -> np.ndarray:
    """A colour near a tint whose three channels average to `brightness`, as the extractor sees it."""
    colour = np.array(tint) * rng.uniform(0.8, 1.2, size=3)
    return brightness * colour / colour.mean()
