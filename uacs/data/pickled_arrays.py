"""What lies in a pickle besides plain values: the file itself as `PickleFile`, numpy arrays as `Array`.

`unpickle` is the reader; here is what it may call in place of numpy (`CALLS`), done by hand. What numpy
writes is in its `array_reduce`, `arraydescr_reduce` (numpy/_core/src/multiarray) and `_frombuffer`
(numpy/_core/numeric.py).
"""

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from uacs.errors import BadInput

LARGE = 2**16  # bytes; an array from here on stays in the file
SHORT = 255  # bytes; the longest argument that is neither text nor an array
LONGEST_TEXT = 2**29  # bytes
MOST_HELD = 2**31  # bytes read, copied or looked through while loading
DTYPES = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[US][1-9][0-9]{0,7}|O[48]?)", re.ASCII)
OTHER_FILES = {
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip archive, perhaps of torch.save",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "an .npy file",
}


class Array:
    """A numpy array in a pickle, read when asked for; large ones from the file, which must stay as it is.

    `shape` and `dtype` are numpy's. Reading gives arrays of the caller's own, and raises `BadInput` where
    the file has changed. In an array of objects the elements are plain values, arrays among them `Array`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: np.ndarray | None = None
        self._offset: int | None = None  # of the first byte, where nothing is held

    def __len__(self) -> int:
        if not self.shape:
            raise bad(self._path, "a single value stands where rows should", "give one row for each sample")
        return self.shape[0]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The rows [start, stop) of the first axis, (stop - start, *shape[1:]); bounds as in a slice."""
        start, stop, _ = slice(start, stop).indices(len(self))
        stop = max(start, stop)
        if self._held is not None:
            return self._held[start:stop].copy()
        return self._stored((stop - start, *self.shape[1:]), start)

    def read(self) -> np.ndarray:
        """The whole array."""
        return self._stored(self.shape, 0) if self._held is None else self._held.copy()

    def _stored(self, shape: tuple[int, ...], start: int) -> np.ndarray:
        size = math.prod(shape)
        before = start * math.prod(self.shape[1:]) * self.dtype.itemsize
        try:
            flat = np.fromfile(self._path, self.dtype, size, offset=(self._offset or 0) + before)
        except OSError as error:
            raise bad(self._path, f"cannot be read any more ({error.strerror})", "leave it in place") from None
        if len(flat) != size:
            raise bad(self._path, "has become shorter since it was opened", "leave it as it is")
        return _sound(flat, self._path).reshape(shape)


def bad(path: Path, fault: str, mend: str) -> BadInput:
    """A fault of the file and its mend, in one line."""
    return BadInput(f"{path}: {fault}; {mend}")


def _sound(flat: np.ndarray, path: Path) -> np.ndarray:
    """`flat` (N,) itself, once its text is text: numpy takes any four bytes for a character, and fails later."""
    if flat.dtype.kind == "U":
        codes = flat.view(np.dtype(np.uint32).newbyteorder(flat.dtype.byteorder))
        if codes.max(initial=0) > 0x10FFFF:
            raise bad(path, "an array of text holds what is no character", "fetch the file again")
    return flat


@dataclass(frozen=True)
class Span:
    """Bytes that were passed over."""

    offset: int
    length: int

    def __len__(self) -> int:
        return self.length


class PickleFile:
    """The file, as pickletools' readers want it: never beyond its end, and never more than is due."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = file.seek(0, 2)
        file.seek(0)
        self.held = 0
        head = file.read(8)
        file.seek(0)
        for magic, kind in OTHER_FILES.items():
            if head.startswith(magic):
                raise bad(path, f"is {kind} and no pickle", "unpack it, or name the dataset's .pkl")

    def read(self, size: int) -> bytes:
        """The next `size` bytes, for a short argument."""
        if size > SHORT:
            raise self.broken(f"claims {size} bytes for a number or a name")
        content = self.file.read(size)
        if len(content) < size:
            raise self.broken(f"claims {size} bytes where {len(content)} are left")
        return content

    def readline(self, most: int = SHORT) -> bytes:
        line = self.file.readline(min(most, MOST_HELD - self.held) + 1)
        if len(line) > most:
            raise self.broken(f"a line is longer than {most} bytes")
        self.hold(len(line))
        if not line.endswith(b"\n"):
            raise self.broken("a line has no end")
        return line

    def take(self, size: int) -> bytes:
        """The next `size` bytes, for a text or a small array."""
        self.within(size)
        if size > LONGEST_TEXT:
            raise self.broken(f"a text is longer than {LONGEST_TEXT} bytes")
        self.hold(size)
        return self.file.read(size)

    def decoded(self, content: bytes, encoding: str, errors: str = "strict") -> str:
        text = content.decode(encoding, errors)
        self.hold(sys.getsizeof(text))  # a single wide character makes all others four times as large
        return text

    def skip(self, size: int) -> Span:
        self.within(size)
        span = Span(self.file.tell(), size)
        self.file.seek(size, 1)
        return span

    def at(self, span: Span) -> bytes:
        """The bytes of a span after all, for the arrays that must be turned round."""
        self.hold(len(span))
        here = self.file.tell()
        self.file.seek(span.offset)
        content = self.file.read(len(span))
        self.file.seek(here)
        return content

    def hold(self, size: int) -> None:
        """Count what is read or copied: a shared text may be copied a million times, at a few bytes each."""
        self.held += size
        if self.held > MOST_HELD:
            raise bad(self.path, f"needs more than {MOST_HELD >> 30} GiB in memory", "take a file of protocol 4")

    def within(self, size: int) -> None:
        left = self.size - self.file.tell()
        if not 0 <= size <= left:
            raise self.broken(f"claims {size} bytes where {left} are left")

    def broken(self, fault: str) -> BadInput:
        return bad(self.path, f"not a whole pickle, {fault} (byte {self.file.tell()})", "fetch the file again")

    def hostile(self, fault: str) -> BadInput:
        mend = "and a dataset holds only arrays and plain containers; do not open it elsewhere"
        return BadInput(f"{self.path}: {fault}, {mend}")


@dataclass
class DType:
    """A dtype that a pickle makes first and gives its byte order afterwards."""

    dtype: np.dtype


def fill(
    array: Array, source: PickleFile, shape: tuple, dtype: np.dtype, order: str, content: Any, axes: Any = None
) -> None:
    """Give an array its content: a list for objects, else bytes, the str of Python 2, or a span."""
    if hasattr(array, "shape") or len(shape) > 32:
        raise source.broken("an array is filled twice, or has more than 32 axes")
    # An element takes at least a byte, so no true axis is longer than the file.
    if not all(type(length) is int and 0 <= length <= source.size for length in shape):
        raise source.broken("an array's shape is impossible")
    if isinstance(content, str):
        content = _encode(source, content, "latin1")
    if not isinstance(content, list if dtype.hasobject else bytes | Span):
        raise source.broken(f"an array of {dtype} has no such content")
    claimed = math.prod(shape) * (1 if dtype.hasobject else dtype.itemsize)
    if claimed != len(content):
        raise source.broken(f"an array claims {claimed} values or bytes and has {len(content)}")
    if isinstance(content, Span) and order == "C":
        array._offset = content.offset
    else:
        content = source.at(content) if isinstance(content, Span) else content
        source.hold(len(content) * (8 if dtype.hasobject else 1))
        if dtype.hasobject:
            held = np.fromiter(content, object, len(content)).reshape(shape)  # a list is in C order always
        else:
            held = _sound(np.frombuffer(content, dtype), source.path).reshape(shape, order="F" if order == "F" else "C")
        array._held = held if axes is None else held.transpose(axes)
        shape = array._held.shape
    array.shape, array.dtype = shape, dtype


def quoted(text: str) -> str:
    """Words of the file, fit for one line."""
    return ascii(text[:60])[1:-1][:60]


# What a pickle may call: the functions that numpy and Python's own pickler write, done by hand.


def _ndarray(source: PickleFile, *_: Any) -> None:
    """Only ever an argument of `_reconstruct`."""
    raise source.hostile("wants to call numpy.ndarray")


def _reconstruct(source: PickleFile, *arguments: Any) -> Array:
    match arguments:
        case (call, (0,), b"b" | "b") if call is _ndarray:
            return Array(source.path)
    raise source.hostile("wants an array of a kind of its own")


def _frombuffer(source: PickleFile, *arguments: Any) -> Array:
    array = Array(source.path)
    match arguments:
        case (content, DType() as kind, tuple(shape), ("C" | "F") as order):
            fill(array, source, shape, kind.dtype, order, content)
        case (content, DType() as kind, tuple(shape), "K", tuple(axes)):  # numpy 2.4: axes in another order
            fill(array, source, shape, kind.dtype, "K", content, axes)
        case _:
            raise source.broken("an array is made of the wrong things")
    return array


def _dtype(source: PickleFile, *arguments: Any) -> DType:
    match arguments:
        case (str(text), int(), int()) if DTYPES.fullmatch(text):
            return DType(np.dtype(text))
        case (str(text), *_):
            raise source.hostile(f"holds values of type {quoted(text)}")
    raise source.broken("a type has no name")


def _scalar(source: PickleFile, *arguments: Any) -> object:
    match arguments:
        case (DType() as kind, bytes() | str() as content):
            array = Array(source.path)
            fill(array, source, (), kind.dtype, "C", content)
            return array.read().item()
    raise source.broken("a number is made of the wrong things")


def _encode(source: PickleFile, *arguments: Any) -> bytes:
    match arguments:
        case (str(text), "latin1"):
            source.hold(len(text))
            return text.encode("latin1")
    raise source.hostile("wants to call _codecs.encode otherwise than for latin1")


def _nothing(kind: type) -> Callable[..., Any]:
    def empty(source: PickleFile, *arguments: Any) -> Any:
        if arguments:
            raise source.hostile(f"wants to make a {kind.__name__} of something")
        return kind()

    return empty


CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _nothing(bytes),  # protocols 0-2 write b"" so
    ("__builtin__", "bytes"): _nothing(bytes),
    ("collections", "OrderedDict"): _nothing(dict),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}
