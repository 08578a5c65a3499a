"""Adapters over a large model: peft's folders, with a manifest of ours that says what they belong to.

    adapter_model.safetensors, adapter_config.json      as peft writes and reads them
    readout_head.safetensors                            a head that was trained with it, if one was
    uacs_adapter.json                                   base, prompts, read-out, data; written last

A model may carry several; the one for the dataset answers.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from uacs import fingerprints, mllm
from uacs.errors import BadInput
from uacs.mllm.prompts import Hints

WEIGHTS, CONFIG, MANIFEST = "adapter_model.safetensors", "adapter_config.json", "uacs_adapter.json"

T = TypeVar("T")


class Manifest(BaseModel):
    """uacs_adapter.json: what an adapter was trained over, to answer what, and on which data."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    base: str
    base_fingerprint: str
    dataset: str
    like: str
    language: str
    score_range: tuple[float, float]
    readout: str
    prompts: str
    hints: Hints
    aspect: str
    verify_prefill: bool
    second_looks: bool
    frames: int
    data: dict[str, str]


def is_adapter(spec: str | Path) -> bool:
    """Whether a folder is one of an adapter."""
    return (Path(spec) / CONFIG).is_file()


def manifest(folder: str | Path) -> Manifest:
    """The manifest of an adapter; raises `BadInput` naming the folder and the mend."""
    path = Path(folder) / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_text())
    except OSError:
        mend = "name one that `uacs train mllm` finished; of another, merge it into its base with peft"
        raise BadInput(f"{folder}: no {MANIFEST}, so no adapter that U-ACS knows; {mend}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: not an adapter's ({'.'.join(map(str, first['loc']))}: {first['msg']})") from None


def over(spec: str, adapters: Iterable[str]) -> tuple[str, list[str]]:
    """The base's SPEC and the adapters over it: those named, and the SPEC itself where it is one.

    Raises `BadInput` for an adapter that was trained over another base.
    """
    folders = list(adapters)
    if is_adapter(spec):
        folders.insert(0, spec)
        spec = _base(spec)
    known = mllm.fingerprint(spec) if folders else ""
    for folder in folders:
        found = manifest(folder)
        if found.base_fingerprint != known:
            told = f"{folder}: an adapter over {found.base} ({found.base_fingerprint})"
            raise BadInput(f"{told}, not over {spec} ({known}); name its base, or train one over this")
    return spec, folders


def _base(folder: str) -> str:
    base = manifest(folder).base
    if (Path(base).is_absolute() or base.startswith(".")) and not Path(base).is_dir():
        mend = f"name where it is now: --mllm BASE --adapter {folder}"
        raise BadInput(f"{folder}: its base {base} is not there; {mend}")
    return base


def by_dataset(folders: Iterable[str]) -> dict[str, str]:
    """Adapters' folders by the dataset that each was trained for; raises `BadInput` where two are for one."""
    found: dict[str, str] = {}
    for folder in folders:
        dataset = manifest(folder).dataset
        if dataset in found:
            raise BadInput(f"{folder}: for {dataset}, as {found[dataset]} is; leave one of them away")
        found[dataset] = folder
    return found


def chosen(of: Mapping[Any, T], dataset: str | None) -> T:
    """What is there for a dataset: its own, or the only one; raises `BadInput` where there is neither."""
    if dataset in of:
        return of[dataset]
    if len(of) == 1:
        return next(iter(of.values()))
    raise BadInput(
        f"no adapter for the dataset '{dataset}' among those for {', '.join(map(str, of))}; name one with --adapter"
    )


def fit(folder: str, score_range: tuple[float, float], language: str) -> None:
    """Raise `BadInput` for an adapter that answers in another range, or was asked in another language."""
    found = manifest(folder)
    if (found.score_range, found.language) != (tuple(score_range), language):
        theirs = f"in {list(found.score_range)} and '{found.language}'"
        raise BadInput(
            f"{folder}: answers {theirs}, the dataset is in {list(score_range)} and '{language}'; "
            "train one on a dataset like this"
        )


def fingerprint(folder: str | Path) -> str:
    """What tells this adapter from another: its weights, its config, its head."""
    there = [*sorted(Path(folder).glob("*.safetensors")), Path(folder) / CONFIG, Path(folder) / MANIFEST]
    return fingerprints.of_settings([fingerprints.of_file(path) for path in there])


def name_of(folder: str) -> str:
    """What a model calls an adapter that was loaded from a folder."""
    return f"adapter_{fingerprint(folder)}"
