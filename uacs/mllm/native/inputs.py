"""From samples and prompts to a spliced model's tensors: what HumanOmni's and VideoLLaMA2's inputs share."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from uacs.data.media import of_sample
from uacs.errors import BadInput, shown
from uacs.mllm.native.pictures import Pictures
from uacs.mllm.native.sounds import RATE
from uacs.mllm.native.spliced import MARKERS
from uacs.mllm.native.turns import USER_TEXT, Turns
from uacs.mllm.prompts import Prompt
from uacs.records import Footage, Sample


@dataclass(frozen=True)
class Media:
    """A clip as the towers read it; what the clip lacks is None.

    frames (T, 3, side, side) and sound (Whisper: mels, frames; BEATs: frames, mels), float32; markers is the text
    that stands for them in the turn, tokens how many positions each marker takes, by its id.
    """

    frames: torch.Tensor | None = None
    sound: torch.Tensor | None = None
    markers: str = ""
    tokens: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Encoded:
    """One turn as marked ids, with the media that its markers stand for and, for HumanOmni, its gate's question."""

    ids: list[int]
    media: Media
    gate_ids: list[int] | None = None

    @property
    def length(self) -> int:
        """Positions that the turn takes in the decoder."""
        return sum(self.media.tokens.get(i, 1) for i in self.ids)

    @property
    def words(self) -> int:
        """Where the ids begin that have no marker among them or after them."""
        return max((k + 1 for k, i in enumerate(self.ids) if i < 0), default=0)


class NativeInputs:
    """A checkpoint's tokenizer, template and preprocessors, at work.

    Raises `BadInput` naming folder and mend where something is missing.
    """

    sound_name: str
    """What the model's forward calls a sound."""
    place: Callable[[torch.Tensor | None, torch.Tensor | None], Media]
    """Of frames and sound, the markers that stand for them and the positions that they take."""

    def __init__(
        self,
        spec: str,
        turns: Turns,
        pictures: Pictures,
        sound: Callable[[np.ndarray, bool], torch.Tensor] | None,
        limit: int,
    ):
        self.spec, self.turns, self.tokenizer = spec, turns, turns.tokenizer
        self.pictures, self.frames, self.sound, self.limit = pictures, pictures.frames, sound, limit
        turns.shell("<video>")  # a template that does not do is found here, not by every sample

    def media(self, sample: Sample) -> Media:
        """The sample's clip as model inputs; raises `BadInput` naming the sample where it does not decode."""
        if sample.clip is None and sample.footage is None:
            return self.place(None, None)
        return self.media_of(of_sample(sample, self.frames, RATE))

    def media_of(self, footage: Footage) -> Media:
        """Decoded footage as model inputs."""
        frames, sound = None, None
        if footage.frames is not None:
            frames = self.pictures.pixels(footage.frames)
        if footage.waveform is not None and self.sound is not None:
            sound = self.sound(footage.waveform, frames is None)
        return self.place(frames, sound)

    def encode(self, sample: Sample, media: Media, prompt: Prompt) -> Encoded:
        """The user's turn up to where the answer begins; raises `BadInput` if there is nothing to read or too much.

        Of a transcript no more is read than fills half of the context: the question must follow, and a clip precede.
        """
        if not media.markers and not prompt.transcript:
            raise BadInput(
                f"sample '{sample.sample_id}': neither clip nor text for the large model; give it one of them"
            )
        row = Encoded(self.turns.ids(media.markers, prompt, self.limit // 2), media, self.gate_ids(prompt))
        if row.length > self.limit:
            raise BadInput(
                f"sample '{sample.sample_id}': {row.length} positions, the model takes {self.limit}; "
                "show fewer frames, or shorten the text"
            )
        return row

    def gate_ids(self, prompt: Prompt) -> list[int] | None:
        """What a gate reads of the prompt, where the family has one."""
        return None

    def answer_ids(self, answer: str) -> list[int]:
        """An answer and the end of its turn, as training wants them."""
        return [*self.turns.tokens(answer), self.tokenizer.eos_token_id]

    def collate(self, rows: list[Encoded], padding: str = "left") -> dict:
        """A batch as the model's arguments; raises `ValueError` where markers and media disagree."""
        length = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), length), self.pad_id)
        mask = torch.zeros_like(ids)
        for k, row in enumerate(rows):
            if sorted(i for i in row.ids if i < 0) != sorted(row.media.tokens):
                raise ValueError(f"markers {[i for i in row.ids if i < 0]} for media of {sorted(row.media.tokens)}")
            ids[k, : len(row.ids)], mask[k, : len(row.ids)] = torch.tensor(row.ids), 1
        media = {
            "frames": [row.media.frames for row in rows],
            self.sound_name: [row.media.sound for row in rows],
        }
        present = {name: those for name, those in media.items() if any(one is not None for one in those)}
        return {"input_ids": ids, "attention_mask": mask, "padding": padding} | present

    def save(self, folder: Path) -> None:
        """Write tokenizer, template and preprocessors as the family's `Inputs` read them, beside a config.json."""
        self.tokenizer.save_pretrained(folder)
        config = folder / "config.json"
        values = json.loads(config.read_text()) | {"num_frames": self.frames}
        config.write_text(json.dumps(values, indent=2) + "\n")

    @property
    def pad_id(self) -> int:
        """A token for the room beside shorter rows; nothing attends to it."""
        return self.tokenizer.eos_token_id if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    def described(self, media: Media) -> list[str]:
        """What the checkpoint's own files left open, as `uacs doctor` prints it, with a turn around such media."""
        names = {number: name for name, number in MARKERS.items()}
        pieces = self.turns.shell(media.markers)
        turn = "".join(piece if isinstance(piece, str) else names[piece] for piece in pieces)
        source = "its preprocessor_config.json" if self.pictures.from_folder else "the published tower"
        fitted = {"resize": "stretched to a square", "pad": "put on a square"}[self.pictures.aspect]
        return [
            f"frames: {self.frames}, {fitted}, by the settings of {source}",
            f"a turn, by {self.turns.source}: {shown(turn.replace(USER_TEXT, 'INSTRUCTION'), 2000)}",
        ]
