"""From a folder of weights into a model, strictly: no weight of the model missing, none of the folder unexplained.

Names and shapes are compared before a byte of a weight is read; then weights are read one at a time, so that a
model is never in memory twice. What a family leaves aside of a published checkpoint is a list in its file.
"""

import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.overrides import TorchFunctionMode

from uacs.errors import BadInput, reason
from uacs.mllm.native.hub import local

INDEX = {"model.safetensors": "model.safetensors.index.json", "pytorch_model.bin": "pytorch_model.bin.index.json"}
FLOATING = ("F64", "F32", "F16", "BF16", "torch.float64", "torch.float32", "torch.float16", "torch.bfloat16")
TORCH = (".bin", ".pt")
AT_ONCE = 64 * 2**20
"""Bytes that are read before a file is opened anew: pages of an open one count as this process's memory."""


@dataclass(frozen=True)
class Names:
    """Published names and ours: a weight belongs to the first of `prefixes` (published: ours) that it begins with.

    `ignored` are patterns of published names that the model does without; `suffixes` are endings of old names.
    """

    prefixes: Mapping[str, str]
    ignored: tuple[str, ...] = ()
    suffixes: Mapping[str, str] = field(default_factory=dict)

    def ours(self, published: str) -> str | None:
        """Our name for a weight; None if no prefix fits."""
        for old, new in self.suffixes.items():
            if published.endswith(old):
                published = published.removesuffix(old) + new
        for theirs, ours in self.prefixes.items():
            if published.startswith(theirs):
                return ours + published.removeprefix(theirs)
        return None

    def published(self, ours: str) -> str:
        """The name that a published checkpoint has for a weight of ours: the longest prefix of ours decides."""
        theirs, prefix = max(
            ((t, o) for t, o in self.prefixes.items() if ours.startswith(o)), key=lambda pair: len(pair[1])
        )
        return theirs + ours.removeprefix(prefix)

    def ignores(self, published: str) -> bool:
        """Whether the model does without it."""
        return any(re.match(pattern, published) for pattern in self.ignored)


@dataclass(frozen=True)
class Tower:
    """A part that may come from a folder of its own where the checkpoint leaves it out.

    prefix is ours; folder is None where none is known, and then hint, if it is a hub id, is one; names are those
    of the folder; mend says how to name one.
    """

    prefix: str
    folder: Path | None
    hint: str | None
    names: Names
    mend: str


@dataclass(frozen=True)
class LoadReport:
    """What came from where: weights taken, published names left aside, and each tower's source."""

    mapped: int
    ignored: list[str]
    sources: dict[str, str] = field(default_factory=dict)


class Checkpoint:
    """A folder's weights by name: safetensors or PyTorch's .bin, in one file or in shards.

    Raises `BadInput` where files are missing or cut short, and, unless `either`, where they are of two checkpoints:
    hubs keep towers in several formats, of which safetensors is taken.
    """

    def __init__(self, folder: Path, either: bool = False):
        self.folder = folder
        self.files = _weight_files(folder, either)
        self.shapes: dict[str, torch.Size] = {}
        self.odd: dict[str, str] = {}  # what is no floating-point number, by its type
        self._where: dict[str, Path] = {}
        for file in self.files:
            for name, (shape, kind) in self._contents(file).items():
                if name in self.shapes:
                    raise BadInput(f"{folder}: {name} stands in {self._where[name].name} and in {file.name}; keep one")
                self.shapes[name], self._where[name] = shape, file
                if kind not in FLOATING:
                    self.odd[name] = kind

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights of these names, each read when its turn comes; files in turn."""
        wanted = set(names)
        for file in self.files:
            here = [name for name in self.shapes if name in wanted and self._where[name] == file]
            yield from self._read_bin(file, here) if file.suffix in TORCH else self._read_safetensors(file, here)

    def _contents(self, file: Path) -> dict[str, tuple[torch.Size, str]]:
        """Shape and type of every weight in a file."""
        if file.suffix in TORCH:
            return {name: (weight.shape, str(weight.dtype)) for name, weight in self._bin(file).items()}
        try:
            with safe_open(file, "pt") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
                return {name: (torch.Size(one.get_shape()), one.get_dtype()) for name, one in slices.items()}
        except (SafetensorError, OSError) as error:
            raise BadInput(f"{file}: not a whole safetensors file ({error}); copy it again") from None

    def _read_safetensors(self, file: Path, names: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
        names = list(names)
        while names:
            read = 0
            with safe_open(file, "pt") as opened:
                while names and read < AT_ONCE:
                    tensor = opened.get_tensor(names[0]).clone()
                    read += tensor.nbytes
                    yield names.pop(0), tensor

    def _read_bin(self, file: Path, names: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
        tensors = self._bin(file)
        for name in names:
            yield name, tensors.pop(name).clone()

    def _bin(self, file: Path) -> dict[str, torch.Tensor]:
        try:
            mapped = zipfile.is_zipfile(file)  # what older versions of torch wrote is no archive
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
            weights = loaded.get("model", loaded)  # BEATs' own file has a config beside them
            if not all(isinstance(n, str) and isinstance(w, torch.Tensor) for n, w in weights.items()):
                raise ValueError("it holds other things than weights by name")
        except Exception as error:  # pickle, zip and torch each have errors of their own
            raise BadInput(f"{file}: not a whole file of weights ({reason(error)}); copy it again") from None
        return weights


class without_weights(TorchFunctionMode):
    """Modules that this thread builds inside take no memory for parameters; buffers, which are computed, are real.

    PyTorch's layers allocate parameters by `torch.empty` alone, and nothing else by it.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Every call of torch's; `torch.empty` goes to the meta device."""
        kwargs = dict(kwargs or {})
        if function is torch.empty:
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


def fill(
    model: nn.Module,
    checkpoint: Checkpoint,
    names: Names,
    towers: Mapping[str, Tower],
    dtype: torch.dtype,
    device: str,
    tied: Iterable[str] = (),
) -> LoadReport:
    """Load a model that was built `without_weights`; raises `BadInput` where names or shapes do not fit.

    tied are weights of ours that the model shares with others. A tower is taken whole from the checkpoint, else
    whole from its folder.
    """
    wanted = {name: parameter.shape for name, parameter in model.named_parameters() if name not in tied}
    found, ignored = _sorted_out(checkpoint, names, set(wanted) | set(tied))
    ignored += [found.pop(name) for name in tied if name in found]
    takes: list[tuple[Checkpoint, dict[str, str]]] = [(checkpoint, found)]
    sources = {}
    for title, tower in towers.items():
        its = {name for name in wanted if name.startswith(tower.prefix)}
        sources[title] = "the checkpoint"
        if its.isdisjoint(found):
            other = _tower_checkpoint(checkpoint.folder, title, tower)
            its_found, _ = _sorted_out(other, tower.names, its)
            takes.append((other, its_found))
            sources[title] = str(other.folder)
    there = {name for _, one in takes for name in one}
    if missing := sorted(set(wanted) - there):
        told = f"{len(missing)} weights are missing, first {names.published(missing[0])}"
        raise BadInput(f"{checkpoint.folder}: {told}; {_mend(missing[0], towers, 'copy the whole checkpoint')}")
    for source, one in takes:
        _check_shapes(source, one, wanted, towers)
    for source, one in takes:
        ours = {theirs: name for name, theirs in one.items()}
        for theirs, tensor in source.read(ours):
            _assign(model, ours[theirs], tensor.to(device=device, dtype=dtype))
    for name, buffer in model.named_buffers():
        owner, _, last = name.rpartition(".")
        model.get_submodule(owner)._buffers[last] = buffer.to(device)
    return LoadReport(len(there), sorted(ignored), sources)


def save(model: nn.Module, folder: Path, names: Names, tied: Iterable[str] = ()) -> None:
    """Write a model's weights by their published names, in shards of at most 5 GB."""
    weights = {
        names.published(name): weight.detach().contiguous()
        for name, weight in model.named_parameters(remove_duplicate=False)
        if name not in tied
    }
    save_torch_state_dict(weights, folder)


def _sorted_out(checkpoint: Checkpoint, names: Names, known: set[str]) -> tuple[dict[str, str], list[str]]:
    """Published names by ours, and what is left aside; raises for a weight that is neither."""
    found, ignored, foreign = {}, [], []
    for theirs in checkpoint.shapes:
        ours = names.ours(theirs)
        if names.ignores(theirs):
            ignored.append(theirs)
        elif ours in known:
            found[ours] = theirs
        else:
            foreign.append(theirs)
    if foreign:
        raise BadInput(
            f"{checkpoint.folder}: {len(foreign)} weights that the model of its config.json has not, first "
            f"{sorted(foreign)[0]}; copy config.json and weights of one checkpoint"
        )
    return found, ignored


def _tower_checkpoint(folder: Path, title: str, tower: Tower) -> Checkpoint:
    lacking = f"{folder}: no weights of its {title} tower"
    if tower.folder is None and not re.fullmatch(r"[\w.-]+/[\w.-]+", tower.hint or ""):
        raise BadInput(f"{lacking}; name a folder that has them: {tower.mend}")
    try:
        return Checkpoint(tower.folder or local(str(tower.hint)), either=True)
    except BadInput as error:
        raise BadInput(f"{lacking} ({error}); name a folder that has them: {tower.mend}") from None


def _mend(name: str, towers: Mapping[str, Tower], else_: str) -> str:
    """What helps a weight of ours that does not fit: a tower whose sizes nobody stated may have others."""
    for title, tower in towers.items():
        if name.startswith(tower.prefix) and tower.folder is None:
            return f"if its {title} tower is not the published one, name a folder with its config: {tower.mend}"
    return else_


def _check_shapes(
    checkpoint: Checkpoint, found: dict[str, str], wanted: dict[str, torch.Size], towers: Mapping[str, Tower]
) -> None:
    for ours, theirs in found.items():
        if theirs in checkpoint.odd:
            kind = checkpoint.odd[theirs]
            raise BadInput(f"{checkpoint.folder}: {theirs} is of type {kind}; take weights that are not quantised")
        has, expected = checkpoint.shapes[theirs], wanted[ours]
        if has != expected:
            told = f"{theirs} is {_by(has)}, its config makes it {_by(expected)}"
            mend = _mend(ours, towers, "copy the checkpoint's own config.json")
            raise BadInput(f"{checkpoint.folder}: {told}; {mend}")


def _by(shape: torch.Size) -> str:
    return " x ".join(map(str, shape))


def _assign(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    owner, _, last = name.rpartition(".")
    module = model.get_submodule(owner)
    before = module._parameters[last]
    assert before is not None
    if type(before) is nn.Parameter:
        module._parameters[last] = nn.Parameter(tensor, requires_grad=before.requires_grad)
    else:  # bitsandbytes quantises what is moved to its device
        module._parameters[last] = type(before)(tensor, requires_grad=False, **before.__dict__).to(tensor.device)


def _weight_files(folder: Path, either: bool) -> list[Path]:
    """The files of the one checkpoint in a folder, or of the first of several if either will do."""
    lying = sorted([*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if either and not lying and len(alone := list(folder.glob("*.pt"))) == 1:
        return alone
    if not lying:
        raise BadInput(f"{folder}: no model.safetensors or pytorch_model.bin; copy the whole checkpoint")
    sets = [files for single, index in INDEX.items() for files in _claimed(folder, single, index)]
    if not sets:
        raise BadInput(f"{folder}: shards of weights, as {lying[0].name}, without their index; copy the index.json too")
    strays = [path.name for path in lying if path not in sets[0]]
    if strays and not either:
        raise BadInput(f"{folder}: more than one checkpoint ({sets[0][0].name}, {strays[0]}); keep the files of one")
    if lost := [path.name for path in sets[0] if not path.is_file()]:
        raise BadInput(f"{folder}: {lost[0]} is missing; copy the whole checkpoint")
    return sets[0]


def _claimed(folder: Path, single: str, index: str) -> list[list[Path]]:
    """Each set of files that one format's names make up: a single file, and the shards of an index."""
    sets = [[folder / single]] if (folder / single).is_file() else []
    if (folder / index).is_file():
        try:
            shards = sorted(set(json.loads((folder / index).read_text())["weight_map"].values()))
            if not shards or any(Path(shard).name != shard for shard in shards):
                raise ValueError("it names no files of this folder")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{folder / index}: not an index of shards ({reason(error)}); copy it again") from None
        sets.append([folder / shard for shard in shards])
    return sets
