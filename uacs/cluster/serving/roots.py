"""Which footage a request may name: what lies under a root that the operator gave, and nothing else."""

import posixpath
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from uacs.cluster.serving.trouble import Unreadable
from uacs.data import places
from uacs.errors import shown


def allowed(clip: str, roots: Sequence[str]) -> str:
    """The clip's path or URI as it is to be opened; raises `Unreadable` unless it lies under one of the roots.

    A path is followed through links first. A URI is taken as it stands: one that would mean another thing
    after decoding or climbing is refused.
    """
    if not roots:
        raise Unreadable("clip: this endpoint opens no paths or URIs; send the file itself as multipart/form-data")
    found = _uri(clip, roots) if places.is_uri(clip) else _path(clip, roots)
    if found is None:
        raise Unreadable(f"clip: {shown(clip, most=200)} is under none of the roots that this endpoint opens")
    return found


def _path(clip: str, roots: Sequence[str]) -> str | None:
    if "\0" in clip:
        return None
    for root in roots:
        if not places.is_uri(root):
            top = Path(root).resolve()
            path = (top / clip).resolve()  # a relative one is meant from the root
            if path.is_relative_to(top):
                return str(path)
    return None


def _uri(clip: str, roots: Sequence[str]) -> str | None:
    parts = urlsplit(clip)
    odd = parts.query or parts.fragment or "@" in parts.netloc or any(mark in clip for mark in "%\\\0")
    if odd or parts.scheme == "file" or posixpath.normpath(parts.path) != parts.path:
        return None
    return clip if any(places.is_uri(root) and clip.startswith(root.rstrip("/") + "/") for root in roots) else None
