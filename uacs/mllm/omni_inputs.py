"""From a sample and a prompt to what a Qwen2.5-Omni thinker takes: token ids, video patches, mel frames.

A folder's own tokenizer, chat template and preprocessor settings decide everything; no token is written
down here. Each clip is read by itself, so its inputs do not depend on the batch around it. The published
processor is not used: its video half needs torchvision, it tokenises transcripts as if they were ours,
and it does not notice a placeholder that is missing. What it makes of a clip is made here too: the same
mel frames exactly, and the same patches up to two grey levels of a resize.
"""

import json
import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, Qwen2_5OmniThinkerConfig, WhisperFeatureExtractor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.utils import cached_file

from uacs.data.media import of_sample
from uacs.errors import BadInput, shown
from uacs.mllm.prompts import Prompt
from uacs.records import Footage, Sample

VIDEO_SETTINGS = "video_preprocessor_config.json"
PUBLISHED_FRAME_AREA = {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}
"""Pixels of a frame in the published models, whose folders do not say it."""
DEFAULT_FRAMES = 8
SHORTEST_MEL = 4  # fewer mel frames would leave the audio tower no token
USER_TEXT = "\ue000"  # a private character that stands for our turn's text while the template is filled in


@dataclass(frozen=True)
class Media:
    """A clip as the towers read it; what the clip lacks is None.

    patches (t h w, channels 2 14 14) float32 in the order t, h/2, w/2, 2, 2; grid (t, h, w);
    seconds_per_grid between its pictures' times; mel (mels, frames) float32.
    """

    patches: np.ndarray | None = None
    grid: tuple[int, int, int] | None = None
    seconds_per_grid: float = 1.0
    mel: np.ndarray | None = None


@dataclass(frozen=True)
class Encoded:
    """One turn as token ids, with the media that its placeholders stand for, none of them after `words`."""

    ids: list[int]
    media: Media
    words: int = 0

    @property
    def length(self) -> int:
        """Positions that the turn takes: media have theirs among the ids already."""
        return len(self.ids)


class OmniInputs:
    """A checkpoint's tokenizer, chat template and preprocessor settings, at work.

    Raises `BadInput` naming folder and mend where they are missing or do not fit the model's config.
    """

    def __init__(self, spec: str, config: Qwen2_5OmniThinkerConfig, frames: int | None = None):
        self.spec, self.config = spec, config
        self.tokenizer = _tokenizer(spec)
        self.extractor = _extractor(spec, config)
        video = _video_settings(spec)
        self.frame_area = video.get("size") or PUBLISHED_FRAME_AREA
        self.mean = np.array(video.get("image_mean") or OPENAI_CLIP_MEAN, np.float32)
        self.std = np.array(video.get("image_std") or OPENAI_CLIP_STD, np.float32)
        per_grid = config.vision_config.temporal_patch_size
        self.frames = math.ceil((frames or video.get("num_frames") or DEFAULT_FRAMES) / per_grid) * per_grid
        # one turn around each combination of media; also checks here that the template has their places
        self.turns = {(seen, heard): self._turn(seen, heard) for seen in (True, False) for heard in (True, False)}

    def media(self, sample: Sample) -> Media:
        """The sample's clip as model inputs; raises `BadInput` naming the sample where it does not decode."""
        if sample.clip is None and sample.footage is None:
            return Media()
        return self.media_of(of_sample(sample, self.frames, self.extractor.sampling_rate))

    def media_of(self, footage: Footage) -> Media:
        """Decoded footage as model inputs."""
        patches, grid = (None, None) if footage.frames is None else self._patches(footage.frames)
        times = footage.times
        step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
        return Media(
            patches=patches,
            grid=grid,
            seconds_per_grid=float(step * self.config.vision_config.temporal_patch_size),
            mel=None if footage.waveform is None else self._mel(footage.waveform),
        )

    def encode(self, sample: Sample, media: Media, prompt: Prompt) -> Encoded:
        """The user's turn up to where the answer begins; raises `BadInput` if there is nothing to read or too much.

        Of a transcript no more is read than fills half of the context: the question must follow, and a clip precede.
        """
        if media.patches is None and media.mel is None and not prompt.transcript:
            raise BadInput(
                f"sample '{sample.sample_id}': neither clip nor text for the large model; give it one of them"
            )
        before, after = self.turns[media.patches is not None, media.mel is not None]
        wanted = self._placeholders(media)
        ids = [token for start in before for token in [start] * wanted.get(start, 1)]
        limit = self.config.text_config.max_position_embeddings
        said = self.data_ids(prompt.transcript)[: limit // 2]
        words = len(ids)
        ids += self._ours(prompt.before) + said + self._ours(prompt.after + prompt.hints) + after
        if len(ids) > limit:
            raise BadInput(f"sample '{sample.sample_id}': {len(ids)} tokens, the model takes {limit}; shorten the clip")
        return Encoded(ids, media, words)

    def answer_ids(self, answer: str) -> list[int]:
        """An answer and the end of its turn, as training wants them."""
        return [*self._ours(answer), self.tokenizer.eos_token_id]

    def data_ids(self, text: str) -> list[int]:
        """Tokens of text that is not ours: what looks like a special or added token is cut so that it is none.

        Tokenizers promise this with `split_special_tokens`, but for special tokens only, and not in
        every version; nothing merges across a cut.
        """
        ids: list[int] = []
        while found := self._markers.search(text):
            cut = found.start() + 1
            ids += self._ours(text[:cut])
            text = text[cut:]
        return ids + self._ours(text)

    def collate(self, rows: list[Encoded], padding: str = "left") -> dict[str, torch.Tensor]:
        """A batch as the thinker's arguments; raises `ValueError` where placeholders and media disagree.

        The model itself would pass over a missing audio placeholder and shift later rows' sound.
        """
        for row in rows:
            for token, wanted in self._placeholders(row.media).items():
                if (there := row.ids.count(token)) != wanted:
                    raise ValueError(f"{there} placeholders of token {token} for {wanted} media tokens")
        length = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), length), self.pad_id)
        mask = torch.zeros_like(ids)
        for k, row in enumerate(rows):
            place = slice(length - len(row.ids), None) if padding == "left" else slice(len(row.ids))
            ids[k, place], mask[k, place] = torch.tensor(row.ids), 1
        return {"input_ids": ids, "attention_mask": mask} | _video(rows) | _audio(rows)

    def save(self, folder: Path) -> None:
        """Write tokenizer, template and settings, `frames` among them, as `OmniInputs` and transformers read them."""
        self.tokenizer.save_pretrained(folder)
        self.extractor.save_pretrained(folder)
        video = {
            "size": self.frame_area,
            "num_frames": self.frames,
            "image_mean": self.mean.tolist(),
            "image_std": self.std.tolist(),
        }
        (folder / VIDEO_SETTINGS).write_text(json.dumps(video, indent=2) + "\n")

    def described(self, media: Media) -> list[str]:
        """What the checkpoint's own files left open, as `uacs doctor` prints it, with a turn around such media."""
        before, after = self.turns[media.patches is not None, media.mel is not None]
        area = self.frame_area
        turn = shown(self.tokenizer.decode(before) + "INSTRUCTION" + self.tokenizer.decode(after), 2000)
        return [
            f"frames: {self.frames}, of {area['shortest_edge']} to {area['longest_edge']} pixels",
            f"a turn, by its own template: {turn}",
        ]

    @property
    def pad_id(self) -> int:
        """A token for the room beside shorter rows; nothing attends to it."""
        return self.tokenizer.eos_token_id if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    @cached_property
    def _markers(self) -> re.Pattern:
        added = sorted((token for token in self.tokenizer.get_added_vocab() if len(token) > 1), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, added)) or r"(?!)")

    def _ours(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _turn(self, seen: bool, heard: bool) -> tuple[list[int], list[int]]:
        """What the chat template puts before our text, media placeholders included, and after it."""
        parts = [{"type": kind, kind: "clip"} for kind, there in (("video", seen), ("audio", heard)) if there]
        turn = [{"role": "user", "content": [*parts, {"type": "text", "text": USER_TEXT}]}]
        try:
            chat = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program, and may fail as it likes
            raise BadInput(f"{self.spec}: its chat template does not run ({error}); copy the original's") from None
        before, text, after = chat.partition(USER_TEXT)
        ids = self._ours(before)
        config = self.config
        places = {
            "video": ([config.vision_start_token_id, config.video_token_id], seen),
            "audio": ([config.audio_start_token_id, config.audio_token_id], heard),
        }
        for kind, ((start, place), there) in places.items():
            if ids.count(place) != there or (there and ids[ids.index(place) - 1] != start):
                raise BadInput(
                    f"{self.spec}: its chat template has no place for {kind}; copy the original's, with the tokenizer"
                )
        if not text:
            raise BadInput(f"{self.spec}: its chat template leaves out the user's text; copy the original's")
        return ids, self._ours(after)

    def _placeholders(self, media: Media) -> dict[int, int]:
        """How many tokens each kind of media takes."""
        merged = self.config.vision_config.spatial_merge_size**2
        video = 0 if media.grid is None else math.prod(media.grid) // merged
        # the tower halves twice: a convolution of stride 2, then an average of pairs
        audio = 0 if media.mel is None else ((media.mel.shape[1] - 1) // 2 + 1 - 2) // 2 + 1
        return {self.config.video_token_id: video, self.config.audio_token_id: audio}

    def _patches(self, frames: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Frames (T, H, W, 3) uint8, resized to whole patches, normalised, and cut in the towers' order."""
        vision = self.config.vision_config
        size, merge, per_grid = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        if short := -len(frames) % per_grid:
            frames = np.concatenate([frames, np.repeat(frames[-1:], short, axis=0)])
        height, width = frames.shape[1:3]
        if max(height, width) > 200 * min(height, width):
            raise BadInput(f"clip of {width} x {height} pixels; the model takes sides of 200 to 1 at most")
        area = self.frame_area
        wanted = smart_resize(height, width, size * merge, area["shortest_edge"], area["longest_edge"])
        pixels = (_resized(frames, *wanted) / np.float32(255) - self.mean) / self.std
        t, h, w = len(frames) // per_grid, wanted[0] // size, wanted[1] // size
        cut = pixels.reshape(t, per_grid, h // merge, merge, size, w // merge, merge, size, -1)
        patches = cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(t * h * w, -1)
        return np.ascontiguousarray(patches, np.float32), (t, h, w)

    def _mel(self, waveform: np.ndarray) -> np.ndarray:
        """Log-mel frames (mels, T), the same as the published processor's, which pads every clip with silence.

        Its last frame sees that silence; padding by one window does the same at a hundredth of the work.
        """
        extractor = self.extractor
        hop = extractor.hop_length
        waveform = waveform[: extractor.n_samples]
        frames = max(math.ceil(len(waveform) / hop), SHORTEST_MEL)
        padded = min((frames + math.ceil(extractor.n_fft / hop)) * hop, extractor.n_samples)
        features = extractor(waveform, sampling_rate=extractor.sampling_rate, max_length=padded, return_tensors="np")[
            "input_features"
        ][0]
        return np.ascontiguousarray(features[:, :frames], np.float32)


def _resized(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames at another size, bicubic with antialiasing on whole grey levels, as torchvision does it."""
    if frames.shape[1:3] == (height, width):
        return frames
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    pixels = torch.nn.functional.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
    return pixels.permute(0, 2, 3, 1).numpy()


def _video(rows: list[Encoded]) -> dict[str, torch.Tensor]:
    seen = [row.media for row in rows if row.media.patches is not None]
    if not seen:
        return {}
    return {
        "pixel_values_videos": torch.from_numpy(np.concatenate([m.patches for m in seen if m.patches is not None])),
        "video_grid_thw": torch.tensor([m.grid for m in seen]),
        "video_second_per_grid": torch.tensor([m.seconds_per_grid for m in seen]),
    }


def _audio(rows: list[Encoded]) -> dict[str, torch.Tensor]:
    heard = [torch.from_numpy(row.media.mel) for row in rows if row.media.mel is not None]
    if not heard:
        return {}
    longest = max(mel.shape[1] for mel in heard)
    features = torch.zeros(len(heard), heard[0].shape[0], longest)
    mask = torch.zeros(len(heard), longest, dtype=torch.long)
    for k, mel in enumerate(heard):
        features[k, :, : mel.shape[1]], mask[k, : mel.shape[1]] = mel, 1
    return {"input_features": features, "feature_attention_mask": mask}


def _tokenizer(spec: str):
    try:
        tokenizer = AutoTokenizer.from_pretrained(spec, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{spec}: no tokenizer ({first_line(error)}); copy the checkpoint's tokenizer files") from None
    if tokenizer.eos_token_id is None:
        raise BadInput(f"{spec}: its tokenizer names no end-of-turn token; copy the checkpoint's tokenizer_config.json")
    if not tokenizer.chat_template:
        # published folders hold it in a file of the processor's
        tokenizer.chat_template = _json(spec, "chat_template.json").get("chat_template")
    if not tokenizer.chat_template:
        raise BadInput(f"{spec}: no chat template; copy the checkpoint's chat_template.json or .jinja")
    return tokenizer


def _extractor(spec: str, config: Qwen2_5OmniThinkerConfig) -> WhisperFeatureExtractor:
    try:
        extractor = WhisperFeatureExtractor.from_pretrained(spec)
    except (OSError, ValueError) as error:
        raise BadInput(f"{spec}: no audio settings ({first_line(error)}); copy preprocessor_config.json") from None
    mels = config.audio_config.num_mel_bins
    if extractor.feature_size != mels:
        raise BadInput(
            f"{spec}: preprocessor_config.json has {extractor.feature_size} mels, the model {mels}; copy its own"
        )
    return extractor


def _video_settings(spec: str) -> dict:
    """The folder's video settings, from wherever its age of transformers wrote them."""
    combined = _json(spec, "processor_config.json").get("video_processor", {})
    # in preprocessor_config.json the pixel limits are those of single images
    shared = {k: v for k, v in _json(spec, "preprocessor_config.json").items() if k in ("image_mean", "image_std")}
    return shared | combined | _json(spec, VIDEO_SETTINGS)


def _json(spec: str, name: str) -> dict:
    path = cached_file(
        spec, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    if path is None:
        return {}
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{spec}: {name} is not JSON ({error}); copy the checkpoint's own") from None


def first_line(error: Exception) -> str:
    """What an error says, as far as one line goes."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
