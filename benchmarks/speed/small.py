"""The UBM: the predictor over the bare forward of the same modules, and its text encoder by other means.

The bare forward has everything ideal: tokenised and collated before, texts of exactly one length together so that
nothing is padding, or in the passes that cost least, whichever is faster, features of 256 clips together, no result
looked at. What the predictor adds is reading, checking,
tokenising, batching and estimating. One thread; `--device cuda` asks bert-base on a GPU.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from benchmarks.speed.material import FEATURES, STEPS, clips, untrained
from benchmarks.speed.sides import Row, Spread, in_turns, ratio
from uacs.ubm.batches import Encoded, collate, encode
from uacs.ubm.model import TEXT, Rows, Ubm
from uacs.ubm.predictor import SmallPredictor

CASES = {"cpu": [(96, 2, 1024), (384, 6, 512), (768, 12, 128)], "cuda": [(768, 12, 8192)]}  # width, layers, clips
LADDER = {"cpu": (384, 6, 256), "cuda": (768, 12, 2048)}  # where other means are tried
TOKENS = 128  # to which fixed padding pads: the longest text that is read
ROWS = 64  # of batches that are cut as clips come


def measure(out: Path, rounds: int, device: str) -> Iterator[Row]:
    """The rows of part small."""
    torch.set_num_threads(1)
    for width, layers, count in CASES[device]:
        yield from predictor_over_bare(untrained(out, width, layers), count, rounds, device, size(width, layers))
    width, layers, count = LADDER[device]
    yield from ladder(untrained(out, width, layers), count, rounds, device, size(width, layers))


def size(width: int, layers: int) -> str:
    """A BERT in words."""
    return "bert-base" if (width, layers) == (768, 12) else f"BERT {width} x {layers}"


def predictor_over_bare(place: Path, count: int, rounds: int, device: str, of: str) -> Iterator[Row]:
    """How near the predictor comes, in samples a second."""
    predictor = SmallPredictor(place, device=device, threads=1)
    samples = clips(count)
    rows = encoded(predictor, samples)
    lengths = np.array([row.text_length for row in rows])
    packings = [np.flatnonzero(lengths == length) for length in np.unique(lengths)], TEXT[device].of(lengths)
    bare = [ideal(predictor.model, rows, packed, device) for packed in packings]
    taken = in_turns(
        {"predictor": lambda: predictor.predict(samples), "by length": bare[0], "in passes": bare[1]}, rounds
    )
    ideally = [min(both) for both in zip(taken["by length"], taken["in passes"], strict=True)]
    yield Row("predictor over ideally packed forward", of, ratio(ideally, taken["predictor"]), at_least=0.9)
    yield Row("predictor", of, Spread.of([1000 * s / count for s in taken["predictor"]]), "ms a clip")


def encoded(predictor: SmallPredictor, samples: list) -> list[Encoded]:
    """The samples as the model reads them."""
    return encode(samples, predictor.tokenizer, FEATURES, TOKENS)


def ideal(model: Ubm, rows: list[Encoded], packed: list[np.ndarray], device: str) -> Callable[[], None]:
    """The model's modules over all rows, texts in batches as `packed`; it waits for the device."""
    read = [collate([Encoded({"text": rows[i].values["text"]}) for i in at])["text"].to(device) for at in packed]
    sequences = {
        name: [
            collate([Encoded({name: row.values[name]}) for row in rows[at : at + 256]])[name].to(device)
            for at in range(0, len(rows), 256)
        ]
        for name in STEPS
    }
    text = model.encoders["text"]

    @torch.inference_mode()
    def forward() -> None:
        of_text = [text._read(batch.values, batch.lengths) for batch in read]
        others = [torch.cat([model.encoders[name](batch) for batch in sequences[name]]) for name in STEPS]
        fused = model.fusion(torch.cat([torch.cat(of_text), *others], dim=1))
        for head in (model.regressor, model.classifier, model.deviation):
            if head is not None:
                head(fused)
        settled(device)

    return forward


def settled(device: str) -> None:
    """All that a device was told is done."""
    if device == "cuda":
        torch.cuda.synchronize()


def ladder(place: Path, count: int, rounds: int, device: str, of: str) -> Iterator[Row]:
    """The text encoder by other batches, compilers and precisions."""
    predictor = SmallPredictor(place, device=device, threads=1)
    tokens = [torch.from_numpy(row.values["text"]) for row in encoded(predictor, clips(count))]
    text = predictor.model.encoders["text"]
    ours = padded(tokens, max(map(len, tokens)), device)
    faster, halved = compiled(text), lower(text)
    works: dict[str, Callable[[], object]] = {
        "ours: rows of like length together": lambda: text(ours),
        f"{ROWS} clips as they come, padded to the longest": over_chunks(text._read, tokens, None, device),
        f"{ROWS} clips as they come, padded to {TOKENS} tokens": over_chunks(text._read, tokens, TOKENS, device),
        "torch.compile": lambda: faster(ours),
        "bfloat16": lambda: halved(ours),
    }
    if device == "cpu":
        eighth = quantised(text)
        works["int8 weights and activations of every linear layer"] = lambda: eighth(ours)
        works |= openvino_of(text, tokens)
    taken = in_turns({name: waited(work, device) for name, work in works.items()}, rounds)
    first, *others = works
    for name in others:
        yield Row(f"{name}: how many times as fast as ours", of, ratio(taken[first], taken[name]))


def waited(work: Callable[[], object], device: str) -> Callable[[], None]:
    """Without gradients, until the device is done."""

    @torch.inference_mode()
    def whole() -> None:
        work()
        settled(device)

    return whole


def padded(tokens: list[Tensor], longest: int, device: str) -> Rows:
    """Texts as one batch, padded to so many tokens."""
    ids = pad_sequence(tokens, batch_first=True)
    ids = nn.functional.pad(ids, (0, longest - ids.shape[1]))
    return Rows(torch.arange(len(tokens)), ids, torch.tensor(list(map(len, tokens)))).to(device)


def over_chunks(read: Callable, tokens: list[Tensor], longest: int | None, device: str) -> Callable[[], None]:
    """Batches cut as clips come."""
    chunks = [tokens[at : at + ROWS] for at in range(0, len(tokens), ROWS)]
    batches = [padded(chunk, longest or max(map(len, chunk)), device) for chunk in chunks]

    def forward() -> None:
        for batch in batches:
            read(batch.values, batch.lengths)

    return forward


def compiled(text: nn.Module) -> nn.Module:
    """By torch.compile, for any shape; it compiles in the round that warms up."""
    other = deepcopy(text)
    other.bert = torch.compile(other.bert, dynamic=True)
    return other


def lower(text: nn.Module) -> nn.Module:
    """Weights and activations in bfloat16."""
    return deepcopy(text).bfloat16()


def quantised(text: nn.Module) -> nn.Module:
    """PyTorch's dynamic quantisation."""
    from torch.ao.quantization import quantize_dynamic

    return quantize_dynamic(deepcopy(text), {nn.Linear}, dtype=torch.qint8)


def openvino_of(text: nn.Module, tokens: list[Tensor]) -> dict[str, Callable[[], None]]:
    """By OpenVINO where it is installed, on rows of one length together and one thread."""
    openvino = _openvino()
    if openvino is None:
        return {}
    by_length = defaultdict(list)
    for ids in tokens:
        by_length[len(ids)].append(ids)
    batches = [torch.stack(rows).numpy() for rows in by_length.values()]
    masks = [np.ones_like(batch) for batch in batches]
    example = {
        name: torch.from_numpy(values[0]) for name, values in (("input_ids", batches), ("attention_mask", masks))
    }
    with torch.inference_mode():
        converted = openvino.convert_model(text.bert, example_input=example)
    made = openvino.compile_model(converted, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})

    def forward() -> None:
        for ids, mask in zip(batches, masks, strict=True):
            made({"input_ids": ids, "attention_mask": mask})

    return {"OpenVINO, float32, nothing padded": forward}


def _openvino() -> ModuleType | None:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it would tell its makers of each model
    try:
        import openvino
    except ImportError:
        return None
    return openvino
