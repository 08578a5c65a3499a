"""Feature files: an .npz with `ids` and one array, a row (or a sequence of steps) for each sample."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from uacs.errors import BadInput


@dataclass(frozen=True)
class FeatureFile:
    """Features by sample id, each (T, size) float32, and the name of what computed them."""

    path: Path
    extractor: str
    size: int
    by_id: dict[str, np.ndarray]


def read_features(path: Path, modality: str) -> FeatureFile:
    """Read `ids` (N,) and `modality` (N, size) or (N, T, size), optionally `MODALITY_lengths` (N,).

    A two-dimensional array is one step a sample. The extractor is the file's `extractor` entry where
    it has one, else the file's own name. Raises `BadInput` naming file and sample.
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
    features = features.astype(np.float32).reshape(len(ids), -1, features.shape[-1])
    lengths = arrays.get(f"{modality}_lengths", np.full(len(ids), features.shape[1]))
    by_id: dict[str, np.ndarray] = {}
    for sample_id, steps, length in zip(ids, features, lengths, strict=True):
        where = f"{path}, sample '{sample_id}'"
        if sample_id in by_id:
            raise BadInput(f"{where}: stands there twice; keep one row for each sample")
        steps = steps[: int(length)]
        if bad := int((~np.isfinite(steps)).sum()):
            raise BadInput(f"{where}: {bad} of {steps.size} numbers are NaN or infinite; mend or leave out the sample")
        if not len(steps):
            raise BadInput(f"{where}: {modality} has 0 steps; leave the sample out to run it without {modality}")
        by_id[sample_id] = steps
    extractor = str(arrays["extractor"]) if "extractor" in arrays else path.stem
    return FeatureFile(path, extractor, features.shape[-1], by_id)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; features are an .npz with the arrays ids and audio or vision") from None
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise BadInput(f"{path}: not a plain .npz file ({error})") from None
