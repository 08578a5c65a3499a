"""Pickles that would do harm: nothing in them is run, and none of them fills the memory."""

import builtins
import codecs
import collections
import copyreg
import datetime
import operator
import os
import pickle
import posix
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.data.pickles import HEAD, PROTOCOLS, array_of, refusal
from uacs.data import unpickle
from uacs.data.unpickle import load

# What is never run


class Calls:
    """Pickled as the call that pickle.load makes of it."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


class Stateful:
    """Pickled by NEWOBJ and BUILD."""

    def __init__(self):
        self.x = 1


class Keyworded:
    """Pickled by NEWOBJ_EX."""

    def __getnewargs_ex__(self):
        return (), {"x": 1}

    def __new__(cls, **_):
        return super().__new__(cls)


def hostile(canary):
    """Payloads by name; those that do something make a file `canary`."""
    touch, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Calls(os.system, touch),
        "posix.system": Calls(posix.system, touch),
        "builtins.eval": Calls(builtins.eval, code),
        "builtins.exec": Calls(builtins.exec, code),
        "builtins.open": Calls(builtins.open, str(canary), "w"),
        "builtins.__import__": Calls(builtins.__import__, "os"),
        "subprocess.Popen": Calls(subprocess.Popen, ["touch", str(canary)]),
        "builtins.getattr": Calls(getattr, Calls(builtins.__import__, "os"), "system"),
        "a chain": Calls(Calls(getattr, Calls(builtins.__import__, "os"), "system"), touch),
        "operator.attrgetter": Calls(operator.attrgetter("system"), Calls(builtins.__import__, "os")),
        "numpy.load": Calls(np.load, str(canary)),
        "numpy.memmap": Calls(np.memmap, str(canary), "u1", "w+", 0, (1,)),
        "_codecs.encode": Calls(codecs.encode, "b", "rot13"),
        "_codecs.decode": Calls(codecs.decode, b"b", "zip"),
        "copyreg._reconstructor": Calls(copyreg._reconstructor, Stateful, object, None),
        "set": {1, 2},
        "frozenset": frozenset([1]),
        "complex": 1j,
        "bytearray of n": Calls(bytearray, 2**40),
        "bytes of n": Calls(bytes, 2**40),
        "OrderedDict of": Calls(collections.OrderedDict, [("a", 1)]),
        "defaultdict": collections.defaultdict(list),
        "numpy.ndarray": Calls(np.ndarray, (2**40,)),
        "dtype": np.dtype("f4"),
        "ndarray itself": np.ndarray,
        "date": datetime.date(2020, 1, 1),
        "path": Path("x"),
        "NEWOBJ": Stateful(),
        "NEWOBJ_EX": Keyworded(),
        "structured": np.zeros(2, [("a", "f4")]),
        "dates": np.array(["2020-01-01"], "M8[D]"),
        "void": np.zeros(2, "V4"),
        "complexes": np.zeros(2, complex),
        "matrix": np.ones((2, 2)).view(np.matrix),
        "masked": np.ma.masked_array([1.0], [True]),
        "state of a dict": Calls(collections.OrderedDict, state={"x": 1}),
    }


NAMES = sorted(hostile(Path("canary")))


def test_the_payloads_would_sing(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(hostile(canary)["builtins.eval"]))
    assert canary.exists()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_pickle_is_run(written, tmp_path, name):
    canary = tmp_path / "canary"
    for protocol in PROTOCOLS:
        payload = hostile(canary)[name]
        objects = np.empty(2, object)
        objects[0] = payload
        for value in (payload, [{"a": (payload,)}], objects, {"train": {"audio": [objects, objects]}}):
            try:
                content = pickle.dumps(value, protocol)
            except (pickle.PicklingError, TypeError, ValueError):  # not to be written by this protocol
                continue
            refusal(written(content))
            assert not canary.exists()


def test_a_name_that_would_be_called_is_named(written):
    said = refusal(written(pickle.dumps(Calls(os.system, "true"), 2)))
    assert said.endswith(
        "x.pkl: wants to call posix.system, and a dataset holds only arrays and plain containers; "
        "do not open it elsewhere"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "call os.system"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n.", "call torch._utils._rebuild_tensor_v2"),
        (b"cnumpy.f2py\ncompile\n.", "call numpy.f2py.compile"),
        (b"c__main__\nnumpy dtype\n.", "call __main__ numpy.dtype"),
        (HEAD + b"\x8c\x05numpy\x8c\x0bf2py.system\x93.", "call numpy.f2py.system"),
        (HEAD + b"\x8c\x02o\n\x8c\x02\x1b[\x93.", r"call o\n.\x1b["),
        (b"(S'true'\nios\nsystem\n.", "call os.system"),
        (b"(inumpy\ndtype\n.", "call numpy.dtype"),
        (b"(cnumpy\ndtype\nS'f4'\no.", "uses OBJ"),
        (b"cnumpy\ndtype\n)\x81.", "uses NEWOBJ"),
        (b"cnumpy\ndtype\n)}\x92.", "uses NEWOBJ_EX"),
        (b"\x82\x01.", "uses EXT1"),
        (b"\x83\x01\x00.", "uses EXT2"),
        (b"\x84\x01\x00\x00\x00.", "uses EXT4"),
        (b"Pelsewhere\n.", "uses PERSID"),
        (b"Nq\x00Q.", "uses BINPERSID"),
        (b"\x80\x05\x97.", "uses NEXT_BUFFER"),
        (b"\x80\x05N\x98.", "uses READONLY_BUFFER"),
        (b"\x8f.", "uses EMPTY_SET"),
        (b"}}b.", "set the state"),
        (b"cnumpy\ndtype\n}b.", "set the state"),
        (b"N)R.", "call what is not a name"),
        (b"cnumpy\ndtype\nNR.", "call what is not a name"),
        (b"cnumpy\nndarray\n(K\x01tR.", "call numpy.ndarray"),
        (b"cnumpy\nndarray\n.", "unfinished"),
        (b"]cnumpy\ndtype\n(Vf4\nI00\nI01\ntRa.", "unfinished"),
        (b"c_codecs\nencode\n(Vb\nVutf-8\ntR.", "otherwise than for latin1"),
        (b"c_codecs\nencode\n(Vb\ntR.", "otherwise than for latin1"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(c_codecs\nencode\n(I0\ntC\x01btR.", "a kind of its own"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I9\ntC\x01btR.", "a kind of its own"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR.", "unfinished"),
    ],
)
def test_what_could_call_or_refer_elsewhere_is_refused(written, content, said):
    assert said in refusal(written(content))


# What must stay small


def test_depth_costs_no_recursion(written):
    depth = 100_000
    read = load(written(b"]" * depth + b"a" * (depth - 1) + b"."))
    for _ in range(depth - 1):
        (read,) = read
    assert read == []
    load(written(b")" + b"\x85" * depth + b"."))  # tuples
    assert "a key" in refusal(written(b"})" + b"\x85" * depth + b"Ns."))  # whose hash would recurse in C


def test_laughs_by_the_billion_are_shared(written):
    # Each list holds the one before ten times: 10^1000 leaves in all, ten thousand references.
    assert len(load(written(b"]" + (b"q\x000](" + b"h\x00" * 10 + b"e") * 1000 + b"."))) == 10


def test_copies_of_shared_text_are_counted(written, monkeypatch):
    monkeypatch.setattr("uacs.data.pickled_arrays.MOST_HELD", 2**24)
    text = (
        b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\x000X\x06\x00\x00\x00latin1q\x010c_codecs\nencode\nq\x020"
    )
    assert "in memory" in refusal(written(text + b"]" + b"h\x02h\x00h\x01\x86Ra" * 1000 + b"."))


def test_a_line_without_end_is_not_read_to_the_end(written, monkeypatch):
    monkeypatch.setattr(unpickle, "LONGEST_TEXT", 1000)
    path = written(b"V" + b"a" * 2**24)
    tracemalloc.start()
    assert "longer than 1000 bytes" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_cheap_instructions_are_counted(written, monkeypatch):
    monkeypatch.setattr(unpickle, "MOST_STEPS", 10_000)
    for step in (b"]", b"}", b"(", b"N", b"]\x94", b"((0"):
        assert "more than 10000 instructions" in refusal(written(step * 10_001))


CHILD = """
import resource, sys
from uacs.data.unpickle import load
from uacs.errors import BadInput
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
for path in sys.argv[1:]:
    try:
        load(path)
        print("read")
    except BadInput as error:
        print(error)
"""


def test_memory_stays_bounded(tmp_path):
    """Under 1 GB in all: sparse files of 3 GB, a million nested lists, a million marks."""
    huge = 3 * 2**30
    content = b"B" + struct.pack("<I", huge)
    files = {  # what stands before and after a hole, its size, and what is said
        "text": (b"X" + struct.pack("<I", huge), huge, b".", ("longer than",)),
        "wide": (b"X" + struct.pack("<I", 2**28) + b"\xf0\x9f\x98\x80", 2**28, b".", ("more memory",)),
        "array": (array_of((huge // 4,), content)[:-3], huge, b"tb.", ("read",)),
        "fortran": (
            array_of((2, huge // 8), content, fortran=b"\x88")[:-3],
            huge,
            b"tb.",
            ("in memory", "more memory"),
        ),
        "lists": (b"]" * 10**6 + b"a" * (10**6 - 1) + b".", 0, b"", ("read",)),
        "marks": (b"(" * 10**6, 0, b"", ("ends too early",)),
    }
    for name, (before, hole, after, _) in files.items():
        with (tmp_path / name).open("wb") as file:
            file.write(before)
            file.seek(hole, os.SEEK_CUR)
            file.write(after)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *(str(tmp_path / name) for name in files)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    lines = child.stdout.splitlines()
    assert len(lines) == len(files), child.stderr
    for line, (*_, said) in zip(lines, files.values(), strict=True):
        assert any(words in line for words in said), line
