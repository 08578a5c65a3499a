"""API keys: who may ask. The file holds a line a key, `NAME SHA256`, never a key itself.

A key is 32 random bytes, so that its plain SHA-256 tells nobody which it is.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from pathlib import Path

from uacs.errors import BadInput, Refused

LINE = re.compile(r"(?P<name>\S+) (?P<hash>[0-9a-f]{64})")
NAME = re.compile(r"[\w.@-]{1,64}")
MISSING = 10.0  # seconds

log = logging.getLogger("ray.serve")


class Keys:
    """The keys in a file, read again when it changes: a key that was added or removed needs no restart.

    Raises `BadInput` for a file that is wrong at first. Later a wrong line opens to nobody, and a file that is gone
    for longer than it takes to write another opens to nobody at all.
    """

    def __init__(self, file: str | Path):
        self.file, self._stamp = Path(file), -1
        self._hashes = read(self.file)
        self._seen = time.monotonic()

    def owner(self, key: str) -> str | None:
        """Whose key this is; None if it is nobody's. Takes as long for a wrong key as for a right one."""
        self._refresh()
        digest, found = _hash(key), None
        for name, known in self._hashes.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def _refresh(self) -> None:
        try:
            stamp = os.stat(self.file).st_mtime_ns
            if stamp != self._stamp:
                self._hashes, faults = _parsed(self.file.read_text(encoding="utf-8"))
                self._stamp = stamp
                for number, fault in faults:
                    log.error("%s, line %d: %s; it opens to nobody", self.file, number, fault)
            self._seen = time.monotonic()
        except (OSError, UnicodeDecodeError):
            if time.monotonic() - self._seen > MISSING:
                self._hashes = {}


def read(file: Path) -> dict[str, str]:
    """Hashes by owner; raises `BadInput` that names the file and the line."""
    try:
        hashes, faults = _parsed(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise BadInput(f"{file}: no keys there ({reason}); make one with `uacs key NAME --file {file}`") from None
    if faults:
        number, fault = faults[0]
        raise BadInput(f"{file}, line {number}: {fault}")
    if not hashes:
        raise BadInput(f"{file}: holds no key, so nobody could ask; make one with `uacs key NAME --file {file}`")
    return hashes


def _parsed(text: str) -> tuple[dict[str, str], list[tuple[int, str]]]:
    """Hashes by owner, and what is wrong with some lines."""
    hashes: dict[str, str] = {}
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = LINE.fullmatch(line.strip())
        if not found:
            faults.append((number, "not NAME and SHA-256 of a key; make keys with `uacs key`"))
        elif found["name"] in hashes:
            faults.append((number, f"a second key of '{found['name']}'; remove one of them"))
        else:
            hashes[found["name"]] = found["hash"]
    return hashes, faults


def add(file: Path, name: str) -> str:
    """Make a key for an owner and note its hash; returns the key, which is nowhere else."""
    if not NAME.fullmatch(name):
        raise BadInput(f"'{name}': a name of letters, digits, and . _ @ - is wanted, of 64 at most")
    there = file.read_text(encoding="utf-8") if file.exists() else ""
    if name in _parsed(there)[0]:
        raise Refused(f"{file}: '{name}' has a key already; remove that line first, and the old key is worth nothing")
    key = f"uacs_{secrets.token_urlsafe(32)}"
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as out:
        out.write(("" if there.endswith("\n") or not there else "\n") + f"{name} {_hash(key)}\n")
    return key


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
