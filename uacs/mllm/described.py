"""What a checkpoint turned out to be: the points that its documentation leaves open, read from what was loaded."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from uacs.data.media import Footage
from uacs.errors import shown
from uacs.mllm.predictor import LargePredictor
from uacs.mllm.prompts import question
from uacs.mllm.reading import spell
from uacs.records import Sample

GIB = 2**30
LABELS = (-1.4, 0.6)
TEXT = "well, I really liked it"
FILM = Footage(
    frames=np.zeros((64, 90, 120, 3), np.uint8),
    times=np.arange(64) / 16,
    waveform=np.zeros(64000, np.float32),
    sample_rate=16000,
)


def describe(model: LargePredictor) -> Iterator[str]:
    """A line for each point: weights, template, answers' tokens, positions a sample takes, memory."""
    inputs, module = model.inputs, model.model
    weights = list(module.parameters())
    size = sum(p.numel() * p.element_size() for p in weights)
    kinds = Counter(str(p.dtype).removeprefix("torch.") for p in weights).most_common(1)[0][0]
    count = sum(p.numel() for p in weights)
    yield f"{count / 1e6:,.1f} M parameters, {size / GIB:.2f} GiB, mostly {kinds}, on {module.device}"
    if report := getattr(module, "report", None):
        yield f"{report.mapped} weights mapped, none missing; {_ignored(report.ignored)}"
        yield "towers: " + "; ".join(f"{tower} from {source}" for tower, source in report.sources.items())
    yield from inputs.described()
    yield from _answers(model)
    yield from _positions(model)


def _ignored(names: list[str]) -> str:
    if not names:
        return "none left aside"
    parts = Counter(".".join(name.split(".")[:3]) for name in names)
    return f"{len(names)} left aside: " + ", ".join(f"{part} ({count})" for part, count in parts.items())


def _answers(model: LargePredictor) -> Iterator[str]:
    tokenizer = model.inputs.tokenizer
    for label in LABELS:
        *ids, end = model.inputs.answer_ids(spell(label))
        pieces = [tokenizer.decode([token]) for token in ids]
        yield f"the answer {spell(label)} is {' '.join(map(repr, pieces))}, ids {ids}, then {end}"
    named = ", ".join(f"{shown(tokenizer.decode([end]))} ({end})" for end in sorted(model.ends))
    wraps = [text for text in ("<vi_start>", "<au_start>") if text in tokenizer.get_added_vocab()]
    known = f"{' and '.join(wraps)} are tokens" if wraps else "<vi_start> and <au_start> are plain text"
    pad = model.inputs.pad_id
    yield f"a turn ends with {named}; padding is {shown(tokenizer.decode([pad]))} ({pad}); {known}"


def _positions(model: LargePredictor) -> Iterator[str]:
    inputs = model.inputs
    words = question(TEXT, model.score_range, model.language)
    kinds = {
        "text alone": Footage(None, FILM.times, None, FILM.sample_rate),
        "text and pictures": Footage(FILM.frames, FILM.times, None, FILM.sample_rate),
        "text, pictures and sound": FILM,
    }
    longest = 0
    told = []
    for kind, footage in kinds.items():
        cut = footage.frames if footage.frames is None else footage.frames[: inputs.frames]
        media = inputs.media_of(Footage(cut, footage.times[: inputs.frames], footage.waveform, footage.sample_rate))
        longest = inputs.encode(Sample("doctor", text=TEXT), media, words).length
        told.append(f"{kind} {longest}")
    yield f"positions of a sample: {', '.join(told)}"
    config = getattr(model.model.config, "text_config", None) or model.model.config.text
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_each = next(model.model.parameters()).element_size()
    position = 2 * config.num_hidden_layers * config.num_key_value_heads * width * bytes_each
    whole = position * longest / 2**20
    yield f"keys and values: {position / 1024:.0f} KiB a position, {whole:.0f} MiB for the longest of these"
