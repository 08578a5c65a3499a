"""Feature files: an .npz with `ids` and one array, a row (or a sequence of steps) for each sample."""

import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from uacs.data import places
from uacs.data.faults import Unusable
from uacs.data.places import Place
from uacs.data.source import finite
from uacs.errors import BadInput, shown


@dataclass(frozen=True)
class FeatureFile:
    """Features by sample id, each (T, size) float32, and the name of what computed them.

    `faults` says by sample id why there are none that can be used.
    """

    path: Path
    extractor: str
    size: int
    by_id: dict[str, np.ndarray]
    faults: dict[str, str] = field(default_factory=dict)


def read_features(path: Path, modality: str) -> FeatureFile:
    """Read `ids` (N,) and `modality` (N, size) or (N, T, size), optionally `MODALITY_lengths` (N,).

    A two-dimensional array is one step a sample. The extractor is the file's `extractor` entry where
    it has one, else the file's own name. Raises `BadInput` naming file and sample, if no sample's can be used.
    """
    arrays = _load(path)
    missing = [name for name in ("ids", modality) if name not in arrays]
    if missing:
        raise BadInput(f"{path}: no array {', '.join(missing)}; it has {', '.join(arrays) or 'none'}")
    ids, features = arrays["ids"].astype(str), arrays[modality]
    if features.ndim not in (2, 3) or len(features) != len(ids) or not np.issubdtype(features.dtype, np.number):
        raise BadInput(
            f"{path}: {modality} is {features.dtype} {features.shape}; expected numbers ({len(ids)}, T, size)"
        )
    with np.errstate(over="ignore"):  # what overflows is found with the other infinities
        features = features.astype(np.float32).reshape(len(ids), -1, features.shape[-1])
    lengths = arrays.get(f"{modality}_lengths", np.full(len(ids), features.shape[1]))
    if lengths.shape != ids.shape or lengths.dtype.kind not in "fiu":
        raise BadInput(f"{path}: {modality}_lengths is {lengths.dtype} {lengths.shape}; expected one number an id")
    by_id: dict[str, np.ndarray] = {}
    faults: dict[str, str] = {}
    refusal = ""
    for sample_id, steps, length in zip(ids.tolist(), features, lengths, strict=True):
        where = f"{path}, sample '{shown(sample_id)}'"
        if sample_id in by_id or sample_id in faults:
            raise BadInput(f"{where}: stands there twice; keep one row for each sample")
        try:
            by_id[sample_id] = finite(_cut(steps, length, modality), modality)
        except Unusable as error:
            faults[sample_id] = f"{error.fault} in {path}"
            refusal = refusal or f"{where}: {error.fault}; {error.mend}"
    if refusal and not by_id:
        raise BadInput(refusal)
    extractor = str(arrays["extractor"]) if "extractor" in arrays else path.stem
    return FeatureFile(path, extractor, features.shape[-1], by_id, faults)


def _cut(steps: np.ndarray, length: float, modality: str) -> np.ndarray:
    if not 0 <= length <= len(steps) or length % 1:
        raise Unusable(f"{modality} has a length of {length}, of {len(steps)} steps", "give the steps it has")
    return steps[: int(length)]


def read_npy(place: Place, most: int) -> np.ndarray:
    """The array of a .npy file, one row or a table of up to `most` numbers; raises `ValueError` for any other.

    The header is believed only so far as the file is as long as it says.
    """
    with places.open_file(place) as file:
        try:
            headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = headers[np.lib.format.read_magic(file)](file)
        except Exception as error:  # numpy has Python parse the header, which fails in many ways
            raise ValueError(places.reason(error)) from None
        if dtype.kind not in "fiu" or not 1 <= len(shape) <= 2 or min(shape) < 0:
            raise ValueError(f"it has shape {shape} and type {dtype}, not numbers in one or two dimensions")
        if max(math.prod(shape), *shape) > most:
            raise ValueError(f"it has shape {shape}, and a sample at most {most} numbers")
        if math.prod(shape) * dtype.itemsize > file.size() - file.tell():
            raise ValueError(f"it ends before its shape {shape} does")
        file.seek(0)
        return np.load(file, allow_pickle=False)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; features are an .npz with the arrays ids and audio or vision") from None
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise BadInput(f"{path}: not a plain .npz file ({error})") from None
