"""Short names for contents: what a run's identity says of data, models and settings."""

import hashlib
import json
from pathlib import Path

WHOLE = 64 * 2**20
"""Files up to this size are read whole; of larger ones a block in every `STRIDE` (a 7B model's shards take minutes)."""
BLOCK, STRIDE = 2**16, 2**22

BESIDE = ("training.json", "out_of_fold.parquet", "uncertainty.json")
"""Files in a model's folder on which none of its answers depends: how it was trained, what others like it answer, and
what other estimators of its doubt than entropy have learned (uacs.ubm.estimating has a fingerprint for those)."""


def of_folder(folder: Path) -> str:
    """Of the names and contents of a model folder's files, by name; `BESIDE` and hidden files do not count."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and _counts(p.relative_to(folder))):
        digest.update(f"{path.relative_to(folder)} {of_file(path)}\n".encode())
    return digest.hexdigest()[:16]


def of_place(path: Path) -> str:
    """Of a file's content, or a folder's."""
    return of_folder(path) if path.is_dir() else of_file(path)


def of_file(path: Path) -> str:
    """Of a file's content."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
        else:
            for place in range(0, size, STRIDE):
                file.seek(place)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]


def whole(path: Path) -> str:
    """SHA-256 of all of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_settings(settings: object) -> str:
    """Of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _counts(path: Path) -> bool:
    if any(part.startswith(".") for part in path.parts):
        return False
    # folds/ and members/ come and go beside a UBM that is done: others are trained there (uacs.ubm.folds, ensemble)
    return path.name not in BESIDE and path.parts[0] not in ("folds", "members")
