"""The HumanOmni family (arXiv 2501.15111): HumanOmni-7B, its 0.5B sibling, and models trained from them.

A Qwen2 decoder sees through SigLIP and hears through Whisper. Its frames go through three branches (scene,
body, face) that a BERT mixes by the question, so that what it sees depends on what it is asked; then every
frame is read coarsely and every fourth in full. Published folders are loaded as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import avg_pool1d
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertModel, PreTrainedConfig, Qwen2Config, Qwen2ForCausalLM, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from uacs.errors import BadInput
from uacs.mllm import MllmSettings, Towers
from uacs.mllm.native import decoder, published, towers
from uacs.mllm.native.checkpoint import Checkpoint, Names
from uacs.mllm.native.connectors import gated_connector, mlp
from uacs.mllm.native.hub import local
from uacs.mllm.native.inputs import Media, NativeInputs
from uacs.mllm.native.pictures import Pictures
from uacs.mllm.native.published import Published
from uacs.mllm.native.sounds import WhisperSounds
from uacs.mllm.native.spliced import (
    AUDIO,
    MARKERS,
    SOUNDS_AT_ONCE,
    VIDEO,
    Rows,
    SplicedModel,
    clips_at_once,
    each,
    rows_of,
    stacked,
)
from uacs.mllm.native.spliced import decoder_of as decoder_of
from uacs.mllm.native.spliced import embedded as embedded
from uacs.mllm.native.spliced import of_towers as of_towers
from uacs.mllm.native.tokenizers import decoder_tokenizer, gate_tokenizer
from uacs.mllm.native.turns import QWEN2_TEMPLATE, Turns, cut
from uacs.mllm.prompts import Prompt

CONNECTORS = ("projector", "audio_projector")
"""The modules that lead from towers to decoder."""

GATE = "bert-base-uncased"  # configs do not name it; the original's code does
GATE_WIDTH = 3584  # likewise, whatever the decoder's width

NAMES = Names(
    {
        "model.vision_tower.vision_tower.vision_model.": "vision.",
        "model.mm_projector.": "projector.",
        "model.bert_model.": "gate_bert.",
        "model.bert_gate.": "gate.",
        "model.audio_tower.audio_tower.encoder.": "audio.",
        "model.audio_projector.": "audio_projector.",
        "model.": "llm.model.",
        "lm_head.": "llm.lm_head.",
    },
    ignored=(
        r"model\.feature_compressor\.",  # the original makes it and never asks it
        r"model\.audio_tower\.audio_tower\.(projector|classifier)\.",  # Whisper's head for classes
        r"model\.bert_model\.pooler\.",
        r".*\.position_ids$",  # counted, not learnt
        r".*rotary_emb\.inv_freq$",
    ),
)


@dataclass(frozen=True)
class HumanOmniConfig:
    """Every size of a HumanOmni; `raw` is the config.json that it was read from."""

    raw: Mapping
    media: Published
    text: Qwen2Config
    vision: PreTrainedConfig
    gate: BertConfig
    gate_width: int
    audio: WhisperConfig | None
    places: Mapping[str, Path | None]

    @classmethod
    def of(cls, raw: Mapping, folder: Path, named: Towers, shapes: Mapping[str, torch.Size]) -> "HumanOmniConfig":
        """What config.json, towers and, where there are any, weights say; raises `BadInput` where they do not."""
        media = published.checked(raw, folder)
        vision, vision_place = towers.tower(folder, media.mm_vision_tower, named.vision, towers.VISION)
        gate, gate_place = towers.tower(folder, GATE, named.gate, towers.GATE)
        audio, audio_place = None, None
        if media.mm_audio_tower:
            audio, audio_place = towers.tower(folder, media.mm_audio_tower, named.audio, towers.AUDIO)
        elif named.audio:
            raise BadInput(f"{folder}: a model without ears; leave mllm.towers.audio away")
        width = (*shapes.get("model.bert_gate.0.weight", ()), GATE_WIDTH)[0]
        places = {"vision": vision_place, "gate": gate_place, "audio": audio_place}
        text = published.decoder(Qwen2Config, raw, folder)
        return cls(raw, media, text, vision, gate, width, audio, places)


class HumanOmni(SplicedModel):
    """The model; `forward` takes the tensors below and returns logits (B, L, V).

    input_ids (B, l) with -201 where the video stands and -202 where the sound does; frames (B, T, 3, side, side)
    as the vision tower takes them; audio_mel (B, mels, frames) as Whisper does; gate_input_ids and
    gate_attention_mask (B, g) of the question as BERT reads it, needed where there are frames. Where rows differ
    in what they have, a medium is a list with None for a row without it. Texts of mixed lengths come with an
    attention_mask (B, l), 0 where ids are padding.
    """

    media = ("frames", "audio_mel")
    questions = ("gate_input_ids", "gate_attention_mask")

    def __init__(self, config: HumanOmniConfig):
        super().__init__()
        self.config, media, width = config, config.media, config.text.hidden_size
        self.layers = towers.layers_used(config.vision, media.mm_vision_select_layer)
        self.llm = Qwen2ForCausalLM(config.text)
        self.vision = towers.vision_model(config.vision)
        side = towers.side(config.vision)
        self.projector = gated_connector(media.mm_projector_type, media.mm_hidden_size, width, side)
        self.gate_bert = BertModel(config.gate, add_pooling_layer=False)
        mixed = config.gate_width
        self.gate = nn.Sequential(nn.Linear(config.gate.hidden_size, mixed), nn.GELU(), nn.Linear(mixed, 3))
        if config.audio is not None:
            self.audio = WhisperEncoder(config.audio)
            kind = media.mm_audio_projector_type or media.mm_projector_type
            self.audio_projector = mlp(kind, config.audio.d_model, width)

    def encoded(
        self, ids: list[torch.Tensor], frames: Rows = None, audio_mel: Rows = None
    ) -> list[dict[int, torch.Tensor]]:
        """For each row its frames' patches (T, n, D), which the gate has not mixed yet, and its sound's tokens."""
        seen, heard = rows_of(frames, ids, VIDEO), rows_of(audio_mel, ids, AUDIO)
        patches = each(seen, lambda group: self.patches(stacked(seen, group)), clips_at_once(seen))
        sound = each(heard, lambda group: self.audio_tokens(stacked(heard, group)), SOUNDS_AT_ONCE)
        by_marker = {VIDEO: patches, AUDIO: sound}
        return [
            {marker: tokens for marker, rows in by_marker.items() if (tokens := rows[k]) is not None}
            for k in range(len(ids))
        ]

    def features(
        self,
        ids: list[torch.Tensor],
        encoded: list[dict],
        gate_input_ids: Rows = None,
        gate_attention_mask: Rows = None,
    ) -> list[dict[int, torch.Tensor]]:
        """What stands in the markers' places: patches mixed by each row's question, and sound."""
        seen = [row.get(VIDEO) for row in encoded]
        questions, masks = rows_of(gate_input_ids, ids, VIDEO), rows_of(gate_attention_mask, ids, VIDEO)
        if lacking := [k for k, clip in enumerate(seen) if clip is not None and questions[k] is None]:
            raise ValueError(f"row {lacking[0]}: frames need gate_input_ids; what is seen depends on the question")

        def video(group: list[int]) -> torch.Tensor:
            mask = None if gate_attention_mask is None else stacked(masks, group)
            return self.projector(stacked(seen, group), self.gate_shares(stacked(questions, group), mask))

        mixed = each(seen, video, clips_at_once(seen))
        return [row if tokens is None else row | {VIDEO: tokens} for row, tokens in zip(encoded, mixed, strict=True)]

    def gate_shares(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The shares (B, 3) of scene, body and face for questions (B, g)."""
        states = self.gate_bert(
            input_ids=ids.to(self.device), attention_mask=None if mask is None else mask.to(self.device)
        )
        return self.gate(states.last_hidden_state[:, 0]).softmax(dim=1)

    def video_tokens(self, frames: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """(B, T, 3, side, side) to (B, n, H): fast tokens of every frame, then slow ones."""
        return self.projector(self.patches(frames), shares)

    def patches(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, T, 3, side, side) to (B, T, n, D)."""
        patches = towers.patches(self.vision, frames.flatten(0, 1).to(self.device), self.layers)
        return patches.unflatten(0, frames.shape[:2])

    def audio_tokens(self, mel: torch.Tensor) -> torch.Tensor:
        """(B, mels, frames) to (B, frames // 6, H): threes of Whisper's states, averaged."""
        states = self.audio(mel.to(self.device, self.audio.dtype)).last_hidden_state
        return self.audio_projector(avg_pool1d(states.transpose(1, 2), 3, 3).transpose(1, 2))


class Inputs(NativeInputs):
    """HumanOmni's way from samples to tensors.

    What is seen depends on what the gate reads, so it reads the same in both stages: stage 2's instruction. With
    `verify_prefill` it reads stage 3's hints too, as the original does with any instruction.
    """

    sound_name = "audio_mel"

    def __init__(self, spec: str, model: HumanOmni, settings: MllmSettings):
        config, places = model.config, model.config.places
        tokenizer = decoder_tokenizer(spec)
        turns = Turns(spec, tokenizer, wrapped=config.media.mm_use_x_start_end, fallback=QWEN2_TEMPLATE)
        frames = settings.frames or config.media.num_frames
        pictures = Pictures(config.vision, places["vision"], settings.aspect, frames)
        self.whisper = WhisperSounds(config.audio, places["audio"]) if config.audio else None
        sound = self.whisper.mel if self.whisper else None
        super().__init__(spec, turns, pictures, sound, config.text.max_position_embeddings)
        self.config, self.projector, self.gate_reads_hints = config, model.projector, settings.verify_prefill
        self.gate_tokenizer = gate_tokenizer(spec, places["gate"], GATE, config.gate)

    def place(self, frames: torch.Tensor | None, sound: torch.Tensor | None) -> Media:
        """`<video>\\n<audio>`, or the one of them that there is."""
        tokens = {}
        if frames is not None:
            tokens["<video>"] = self.projector.tokens(len(frames), towers.side(self.config.vision))
        if sound is not None and self.config.audio is not None:
            tokens["<audio>"] = self.config.audio.max_source_positions // 3
        return Media(frames, sound, "\n".join(tokens), {MARKERS[name]: count for name, count in tokens.items()})

    def gate_ids(self, prompt: Prompt) -> list[int]:
        """The instruction as BERT reads it, without markers; a transcript's `[SEP]` is three characters and a word."""
        said = " ".join(cut(prompt.transcript, list(self.gate_tokenizer.get_added_vocab())))
        question = prompt.before + said + prompt.after + (prompt.hints if self.gate_reads_hints else "")
        return self.gate_tokenizer(question, truncation=True, max_length=self.config.gate.max_position_embeddings)[
            "input_ids"
        ]

    def collate(self, rows, padding: str = "left") -> dict:
        """As `NativeInputs.collate`, with the gate's questions beside frames."""
        batch = super().collate(rows, padding)
        if "frames" in batch:
            questions = [torch.tensor(row.gate_ids) for row in rows]
            # on the right, whatever the tokenizer would do: the gate reads the first place
            batch["gate_input_ids"] = pad_sequence(questions, batch_first=True)
            ones = [torch.ones_like(question) for question in questions]
            batch["gate_attention_mask"] = pad_sequence(ones, batch_first=True)
        return batch

    def save(self, folder: Path) -> None:
        """Write tokenizers, template and preprocessors beside the towers' configs."""
        super().save(folder)
        self.pictures.processor.save_pretrained(decoder.tower_folder(folder, "vision"))
        self.gate_tokenizer.save_pretrained(decoder.tower_folder(folder, "gate"))
        if self.whisper:
            self.whisper.extractor.save_pretrained(decoder.tower_folder(folder, "audio"))


def load(spec: str, dtype: torch.dtype, device: str, named: Towers, load_in_4bit: bool = False) -> HumanOmni:
    """The model of a folder or hub id, in eval mode; raises `BadInput` naming the folder and the mend."""
    folder = local(spec)
    raw, media = published.read(folder)
    checkpoint = Checkpoint(folder)
    config = HumanOmniConfig.of(raw, folder, named, checkpoint.shapes)
    model = decoder.without_weights(HumanOmni, config, folder)
    hints = {"vision": media.mm_vision_tower, "gate": f"google-bert/{GATE}", "audio": media.mm_audio_tower}
    parts = {kind: towers.part(kind, config.places[kind], hint) for kind, hint in hints.items()}
    return decoder.filled(model, checkpoint, NAMES, parts, dtype, device, load_in_4bit)


def save(model: HumanOmni, folder: Path) -> None:
    """Write a folder as the published ones are, that `load` reads; `Inputs.save` adds what it needs."""
    config = model.config
    configs = {"vision": config.vision, "gate": config.gate, "audio": config.audio}
    there = {kind: one for kind, one in configs.items() if one is not None}
    decoder.save(model, folder, NAMES, config.raw, there)
