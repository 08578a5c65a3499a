"""Pickled datasets, read without running them.

A pickle is a program for a small stack machine, and Python's own reader calls whatever that program
names. The machine here knows the same instructions but the dangerous ones: a name is only looked up in
`CALLS`, a handful of functions of ours, and nothing is imported. Large arrays are not read either: an
`Array` remembers where they lie. Instructions and their arguments are those of the standard library's
`pickletools`.
"""

import codecs
import pickletools
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

from uacs.data.pickled_arrays import CALLS, LARGE, LONGEST_TEXT, Array, DType, PickleFile, Span, bad, fill, quoted
from uacs.errors import BadInput

MOST_STEPS = 10_000_000  # instructions, some 100 bytes of memory each at most; MOSEI takes less than a million
WIDEST_INT = 512  # bits


def load(path: str | Path) -> object:
    """The plain content of a pickle, protocols 0-5: nothing in it is run.

    Returns dict, list, tuple, str, bytes, numbers, None and, for every numpy array, an `Array`; numpy's
    scalars are Python's. The str of Python 2 is read as latin1. What the file shares stays shared, and may
    contain itself. Raises `BadInput` naming the file for everything else, whatever its bytes.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise bad(path, "is no file", "name a dataset's .pkl")
        with path.open("rb") as file:
            source = PickleFile(path, file)
            try:
                value = _Machine(source).run()
                _demand_plain(value, source)
                return value
            except (BadInput, OSError, MemoryError):
                raise
            except Exception:
                # An empty stack, an unknown memo, text that is not UTF-8: Python's words would quote the file.
                raise source.broken("makes no sense") from None
    except FileNotFoundError:
        raise bad(path, "no such file", "name a dataset's .pkl") from None
    except MemoryError:
        raise bad(path, "needs more memory than there is", "take a file with fewer objects") from None
    except OSError as error:
        raise bad(path, f"cannot be read ({error.strerror})", "name a dataset's .pkl") from None


class _Machine:
    """The stack machine: an instruction is a function of the machine and of its argument."""

    def __init__(self, source: PickleFile) -> None:
        self.source = source
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> object:
        source = self.source
        for _ in range(MOST_STEPS):
            code = source.file.read(1)
            if not code:
                raise source.broken("it ends too early")
            name, argument, step = INSTRUCTIONS.get(code, (None, None, None))
            if name is None:
                raise source.broken(f"there is no instruction {code!r}")
            if name == "STOP":
                return self.stack.pop()
            if step is None:
                raise source.hostile(f"uses {name}")
            step(self, argument(source) if argument else None)
        raise bad(source.path, f"has more than {MOST_STEPS} instructions", "take a file that holds arrays, not lists")

    def push(self, value: Any) -> None:
        if type(value) is int and value.bit_length() > WIDEST_INT:
            raise self.source.broken(f"a number has {value.bit_length()} bits")
        self.stack.append(value)

    def popped(self, count: int) -> tuple[Any, ...]:
        """The topmost `count` values, the deepest first."""
        return tuple([self.stack.pop() for _ in range(count)][::-1])

    def mark(self, _: None) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """All values above the last mark, which goes with them."""
        values, self.stack = self.stack, self.outer.pop()
        return values

    def drop(self, _: None) -> None:
        self.marked()

    def pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.marked()

    def extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise self.source.broken("something is appended to what is no list")
        self.stack[-1].extend(values)

    def update(self, pairs: list[Any]) -> None:
        """Set the keys and values that stand in turn in `pairs` in the dict on top."""
        if type(self.stack[-1]) is not dict or len(pairs) % 2:
            raise self.source.broken("keys and values do not pair, or not in a dict")
        for key in pairs[::2]:
            # Tuples hash by recursion in C, and chosen numbers collide: a deep or a sly key would hang or crash.
            short = isinstance(key, str | bytes) and len(key) <= 1000
            if not (short or key is None or (isinstance(key, int) and abs(key) < 2**32)):
                raise self.source.broken("a key is neither a short text nor a small whole number")
        self.stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))

    def make_dict(self, _: None) -> None:
        pairs = self.marked()
        self.push({})
        self.update(pairs)

    def put(self, index: int) -> None:
        if not 0 <= index < 2**32:
            raise self.source.broken("a memo has no such place")
        self.memo[index] = self.stack[-1]

    def memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def protocol(self, version: int) -> None:
        if version > 5:
            raise bad(self.source.path, f"is of pickle protocol {version}", "only 0 to 5 are known: take one of those")

    def frame(self, size: int) -> None:
        self.source.within(size)

    def name(self, words: str) -> None:
        """GLOBAL: module and name, which pickletools joins by a blank."""
        self.named(*words.rsplit(" ", 1))

    def instance(self, words: str) -> None:
        """INST: a name and its call in one, which no dataset needs."""
        raise self.source.hostile(f"wants to call {quoted(words.replace(' ', '.'))}")

    def stack_name(self, _: None) -> None:
        module, name = self.popped(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise self.source.broken("a name is no text")
        self.named(module, name)

    def named(self, module: str, name: str) -> None:
        call = CALLS.get((module, name))
        if call is None:
            raise self.source.hostile(f"wants to call {quoted(module)}.{quoted(name)}")
        self.push(call)

    def reduce(self, _: None) -> None:
        call, arguments = self.popped(2)
        # Only `named` puts functions on the stack, and only those of CALLS.
        if not isinstance(call, FunctionType) or type(arguments) is not tuple:
            raise self.source.hostile("wants to call what is not a name")
        self.push(call(self.source, *arguments))

    def build(self, _: None) -> None:
        target, state = self.popped(2)
        match target, state:
            case Array(), (int(), tuple(shape), DType() as kind, int(fortran), content):
                fill(target, self.source, shape, kind.dtype, "F" if fortran else "C", content)
            case DType(), (int(), ("<" | ">" | "|" | "=") as order, None, None, None, int(size), *_):
                if size not in (-1, target.dtype.itemsize):
                    raise self.source.broken("an array's type contradicts its size")
                target.dtype = target.dtype.newbyteorder(order)
            case _:
                raise self.source.hostile("wants to set the state of an object")
        self.push(target)


def _demand_plain(value: object, source: PickleFile) -> None:
    """Refuse what the machine holds besides plain values: names, types, spans and arrays never filled."""
    todo, seen = [value], set()
    while todo:
        item = todo.pop()
        if item is None or isinstance(item, str | bytes | int | float) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, list | tuple):
            todo.extend(item)
        elif isinstance(item, Span):
            raise bad(source.path, f"holds {len(item)} bytes that are no array", "take a file with arrays and text")
        elif not isinstance(item, Array) or not hasattr(item, "shape"):
            raise source.broken("a value is left unfinished")
        elif item.dtype.hasobject:
            todo.extend(item.read().flat)


# The instructions. Arguments that take memory are read here, all others by pickletools.


def _text(size: Callable) -> Callable[[PickleFile], str]:
    return lambda source: source.decoded(source.take(size(source)), "utf-8", "surrogatepass")


def _blob(size: Callable) -> Callable[[PickleFile], bytes | Span]:
    def blob(source: PickleFile) -> bytes | Span:
        length = size(source)
        return source.take(length) if length < LARGE else source.skip(length)

    return blob


def _old_blob(source: PickleFile) -> str | Span:
    content = _blob(pickletools.read_int4)(source)
    return content.decode("latin1") if isinstance(content, bytes) else content


def _line(source: PickleFile) -> str:
    return source.decoded(source.readline(LONGEST_TEXT).removesuffix(b"\n"), "raw-unicode-escape")


def _old_line(source: PickleFile) -> str:
    line = source.readline(LONGEST_TEXT).removesuffix(b"\n")
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
        raise source.broken("a text has no quotes")
    return source.decoded(codecs.escape_decode(line[1:-1])[0], "latin1")


ARGUMENTS: dict[str, Callable[[PickleFile], Any]] = {
    "STRING": _old_line,
    "UNICODE": _line,
    "BINSTRING": _old_blob,
    "SHORT_BINUNICODE": _text(pickletools.read_uint1),
    "BINUNICODE": _text(pickletools.read_uint4),
    "BINUNICODE8": _text(pickletools.read_uint8),
    "BINBYTES": _blob(pickletools.read_uint4),
    "BINBYTES8": _blob(pickletools.read_uint8),
    "BYTEARRAY8": _blob(pickletools.read_uint8),
}
NUMBERS = ["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"]
SHORT_TEXTS = ["SHORT_BINSTRING", "SHORT_BINBYTES"]
STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys([*NUMBERS, *SHORT_TEXTS, *ARGUMENTS], _Machine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "LIST": lambda machine, _: machine.push(machine.marked()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.marked())),
    "TUPLE1": lambda machine, _: machine.push(machine.popped(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.popped(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.popped(3)),
    "DICT": _Machine.make_dict,
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.marked()),
    "SETITEM": lambda machine, _: machine.update([*machine.popped(2)]),
    "SETITEMS": lambda machine, _: machine.update(machine.marked()),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.drop,
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    **dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT"], _Machine.put),
    **dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], _Machine.get),
    "MEMOIZE": _Machine.memoize,
    "GLOBAL": _Machine.name,
    "INST": _Machine.instance,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "PROTO": _Machine.protocol,
    "FRAME": _Machine.frame,
}
INSTRUCTIONS: dict[bytes, tuple[Any, ...]] = {
    op.code.encode("latin1"): (op.name, ARGUMENTS.get(op.name, op.arg and op.arg.reader), STEPS.get(op.name))
    for op in pickletools.opcodes
}
