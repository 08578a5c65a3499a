"""Files here or wherever pyarrow reaches: a path, or a URI such as s3://bucket/mosi/label.csv."""

import posixpath
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from uacs.errors import BadInput, shown

Place = str | Path
ASIDE = ".aside-"


def is_uri(place: Place) -> bool:
    """Whether a place is named by a URI rather than a path."""
    return "://" in str(place)


def resolve(place: Place) -> tuple[FileSystem, str]:
    """The filesystem of a place and its path there; raises `BadInput` for a URI that pyarrow does not know."""
    if not is_uri(place):
        return LocalFileSystem(), str(place)
    try:
        return FileSystem.from_uri(str(place))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, ValueError) as error:
        place = shown(place, most=500)
        raise BadInput(f"{place}: pyarrow cannot reach it ({reason(error)}); name a path or URI") from None


def open_file(place: Place) -> pa.NativeFile:
    """A file, opened for reading at any position; the OSError of one that is not there is the caller's."""
    filesystem, path = resolve(place)
    return filesystem.open_input_file(path)


def open_stream(place: Place) -> pa.NativeFile:
    """A file, opened for reading from front to end; one that is named .gz or .bz2 is unpacked on the way."""
    filesystem, path = resolve(place)
    return filesystem.open_input_stream(path)


def read(place: Place) -> bytes:
    """All of a file; the OSError of one that is not there is the caller's."""
    with open_file(place) as file:
        return file.read()


def write(place: Place, content: bytes) -> None:
    """Write a file whole or not at all, whoever else writes it: aside, then renamed. Its folder is made."""
    filesystem, path = resolve(place)
    folder, name = posixpath.split(path)
    filesystem.create_dir(folder or ".", recursive=True)
    aside = posixpath.join(folder, f"{ASIDE}{name}.{uuid4().hex}")
    with filesystem.open_output_stream(aside) as file:
        file.write(content)
    filesystem.move(aside, path)


def clear_asides(folder: Place, older: float = 3600.0) -> None:
    """Remove what `write` left in a folder when it was killed, so many seconds ago or more."""
    filesystem, path = resolve(folder)
    for info in filesystem.get_file_info(FileSelector(path, allow_not_found=True)):
        if info.base_name.startswith(ASIDE) and (info.mtime_ns or 0) / 1e9 < time.time() - older:
            filesystem.delete_file(info.path)


def is_file(place: Place) -> bool:
    """Whether a file lies there."""
    return _type(place) == FileType.File


def is_folder(place: Place) -> bool:
    """Whether a folder lies there."""
    return _type(place) == FileType.Directory


def beside(place: Place, name: str) -> str:
    """What a relative `name` means in the folder that holds `place`; an absolute name or a URI is itself."""
    if is_uri(name) or posixpath.isabs(name):
        return name
    path, options = _cut(place)
    return posixpath.join(posixpath.dirname(path), name) + options


def within(folder: Place, name: str) -> str:
    """`name` in a folder."""
    path, options = _cut(folder)
    return posixpath.join(path, name) + options


def absolute(place: Place) -> Place:
    """The same for a process with another working directory."""
    return place if is_uri(place) else Path(place).absolute()


def normal(place: Place) -> str:
    """The same without `..` on the way."""
    path, options = _cut(place)
    scheme, mark, rest = path.rpartition("://")
    return scheme + mark + posixpath.normpath(rest) + options


def instead(place: Place, ending: str) -> str:
    """What lies beside a file under its name with another ending."""
    path, options = _cut(place)
    folder, name = posixpath.split(path)
    return posixpath.join(folder, (name.rpartition(".")[0] or name) + ending) + options


def ends(place: Place, *suffixes: str) -> bool:
    """Whether a place's name has one of those endings."""
    return _cut(place)[0].endswith(suffixes)


def stem(place: Place) -> str:
    """The last part of a place's name, without its endings."""
    return posixpath.basename(_cut(place)[0].rstrip("/")).split(".")[0]


def files_under(folder: Place, *suffixes: str) -> set[str]:
    """The files below a folder whose names end so, each relative to it; none if there is no such folder."""
    filesystem, path = resolve(folder)
    try:
        found = filesystem.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    except OSError as error:
        raise BadInput(f"{folder}: cannot be listed ({reason(error)}); name a folder that you may read") from None
    names = (info.path for info in found if info.type == FileType.File and info.path.endswith(suffixes))
    return {posixpath.relpath(name, path) for name in names}


def walk(folder: Place) -> Iterator[str]:
    """The files below a folder, each relative to it, a folder at a time; none if it is not there."""
    filesystem, path = resolve(folder)
    waiting = [path]
    while waiting:
        for info in filesystem.get_file_info(FileSelector(waiting.pop(), allow_not_found=True)):
            if info.type == FileType.Directory:
                waiting.append(info.path)
            else:
                yield posixpath.relpath(info.path, path)


def stamp(place: Place) -> str | None:
    """A file's size and time of change, as text; None where there is none, or it cannot be reached."""
    try:
        filesystem, path = resolve(place)
        info = filesystem.get_file_info(path)
    except (BadInput, OSError, ValueError):
        return None
    return f"{info.size}-{info.mtime_ns}" if info.type == FileType.File else None


def names_in(folder: Place) -> set[str]:
    """The names of what lies in a folder; none if there is no such folder."""
    filesystem, path = resolve(folder)
    return {info.base_name for info in filesystem.get_file_info(FileSelector(path, allow_not_found=True))}


def reason(error: Exception) -> str:
    """The first line of what an error says, fit to stand in one of ours."""
    return shown((str(error).splitlines() or [type(error).__name__])[0], most=200)


def _cut(place: Place) -> tuple[str, str]:
    """A URI apart from its options: s3://bucket/a.csv and ?endpoint_override=127.0.0.1:9000."""
    path, mark, options = str(place).partition("?") if is_uri(place) else (str(place), "", "")
    return path, mark + options


def _type(place: Place) -> FileType:
    filesystem, path = resolve(place)
    try:
        return filesystem.get_file_info(path.rstrip("/") or "/").type
    except OSError as error:
        raise BadInput(f"{place}: cannot be reached ({reason(error)}); name a path or URI that can") from None
