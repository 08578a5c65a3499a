"""What a checkpoint turned out to be: the points that its documentation leaves open, read from what was loaded."""

import json
from collections import Counter
from collections.abc import Iterator

import numpy as np

from uacs.errors import BadInput, shown
from uacs.mllm import head
from uacs.mllm.adapters import is_adapter, manifest
from uacs.mllm.batches import position_bytes
from uacs.mllm.native.hub import local
from uacs.mllm.predictor import LargePredictor
from uacs.mllm.prompts import question, version
from uacs.mllm.reading import spell
from uacs.mllm.readouts import OverTrie
from uacs.records import Footage, Sample

GIB = 2**30
LABELS = (-1.4, 0.6)
TEXT = "well, I really liked it"
RATE = 16000


def describe(model: LargePredictor) -> Iterator[str]:
    """A line for each point: weights, template, answers' tokens, positions a sample takes, memory."""
    inputs, module = model.inputs, model.model
    sizes: Counter[str] = Counter()
    for weight in module.parameters():
        sizes[str(weight.dtype).removeprefix("torch.")] += weight.numel() * weight.element_size()
    count, size = sum(map(_numbers, module.parameters())), sum(sizes.values())
    kind = sizes.most_common(1)[0][0]
    yield f"{count / 1e6:,.1f} M parameters, {size / GIB:.2f} GiB, mostly {kind}, on {module.device}"
    if report := getattr(module, "report", None):
        yield f"{report.mapped} weights mapped, none missing; {_ignored(report.ignored)}"
        yield "towers: " + "; ".join(f"{tower} from {source}" for tower, source in report.sources.items())
    if is_adapter(model.folder):
        yield from _adapter(model)
    yield from inputs.described(inputs.media_of(_film(inputs.frames, seen=True, heard=True)))
    yield from _answers(model)
    yield from _read_outs(model)
    yield from _positions(model)


def _adapter(model: LargePredictor) -> Iterator[str]:
    """What an adapter was trained on, and whether it is asked as it was then."""
    of, size = manifest(model.folder), sum(w.numel() for n, w in model.model.named_parameters() if ".lora_" in n)
    looks = "with second looks" if of.second_looks else "without second looks"
    yield f"an adapter of {size / 1e6:,.1f} M parameters over {of.base}, trained on {of.dataset} {looks}"
    asked = model.settings
    now = {"frames": model.inputs.frames, "prompts": version(model.language, asked.hints), "aspect": asked.aspect}
    now |= {"hints": asked.hints, "verify_prefill": asked.verify_prefill}
    for what, here in now.items():
        if getattr(of, what) != here:
            yield f"it was trained with {what} {getattr(of, what)}, and would now be asked with {here}"


def _numbers(weight) -> int:
    """How many numbers a parameter stands for: four-bit weights are packed."""
    state = getattr(weight, "quant_state", None)
    return weight.numel() if state is None else state.shape.numel()


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
    kinds = {"text alone": (False, False), "text and pictures": (True, False), "text, pictures and sound": (True, True)}
    lengths = {}
    for kind, (seen, heard) in kinds.items():
        media = inputs.media_of(_film(inputs.frames, seen, heard))
        lengths[kind] = inputs.encode(Sample("doctor", text=TEXT), media, words).length
    yield "positions of a sample: " + ", ".join(f"{kind} {length}" for kind, length in lengths.items())
    held, read = position_bytes(model.decoder.config, model.vocabulary.weight.element_size())
    longest = max(lengths.values())
    whole = held * longest / 2**20
    yield f"keys and values: {held / 1024:.0f} KiB a position, {whole:.0f} MiB for the longest of these"
    rows = max(1, min(model.most_positions // (longest + model.read_on), model.settings.batch_size))
    yield (
        f"a batch: {rows} of the longest in {model.settings.batch_gib:g} GiB beside the weights (mllm.batch_gib), "
        f"with {read / 1024:.0f} KiB a position while it is read"
    )


def _read_outs(model: LargePredictor) -> Iterator[str]:
    folder = local(model.folder)
    try:
        if model.slides:
            raise BadInput("its attention slides")
        trie = OverTrie(model.inputs.answer_ids, model.ends, model.score_range, model.model.device)
        scored = f"trie ({len(trie.values)} scores over {len(trie.trie)} tokens)"
    except BadInput as error:
        scored = f"no trie ({error})"
    read = "head" if (folder / head.FILE).is_file() else f"no head (no {head.FILE})"
    yield f"read-outs: decode, {scored}, {read}; this is {model.readout}"
    if is_adapter(folder):
        return  # whose manifest has told it
    if (record := folder / "training.json").is_file():
        hints = json.loads(record.read_text()).get("settings", {}).get("hints", "numbers")
        other = "" if hints == model.settings.hints else f", and would now be asked with {model.settings.hints}"
        yield f"the second look was trained with hints in {hints}{other}"


def _film(frames: int, seen: bool, heard: bool) -> Footage:
    """Four black and silent seconds, as far as they are seen and heard."""
    pictures = np.zeros((frames, 90, 120, 3), np.uint8) if seen else None
    times = np.arange(frames) * 4 / frames if seen else np.empty(0)
    return Footage(pictures, times, np.zeros(4 * RATE, np.float32) if heard else None, RATE)
