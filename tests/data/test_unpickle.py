"""Reading pickles without running them: what comes back, what is refused, and what never happens."""

import builtins
import codecs
import collections
import copyreg
import datetime
import operator
import os
import pickle
import pickletools
import posix
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uacs.data import unpickle
from uacs.data.pickled_arrays import LARGE
from uacs.data.unpickle import Array, load
from uacs.errors import BadInput

PROTOCOLS = range(6)
HEAD = b"\x80\x04"


@pytest.fixture
def written(tmp_path):
    """Bytes, laid down as a file."""

    def write(content):
        path = tmp_path / "x.pkl"
        path.write_bytes(content)
        return path

    return write


def refusal(path):
    """The one line that `load` refuses `path` with, soon."""
    start = time.monotonic()
    with pytest.raises(BadInput) as error:
        load(path)
    said = str(error.value)
    assert said.startswith(f"{path}: ") and said.isprintable() and len(said) < len(str(path)) + 200
    assert time.monotonic() - start < 5
    return said


def plain(value):
    """The same value with every `Array` read."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    return value.read() if isinstance(value, Array) else value


def dataset():
    """One split as MMSA ships it, with every kind of array that has been seen in one."""
    floats = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    return {
        "audio": floats,
        "vision": floats.astype(np.float64),
        "text_bert": floats.astype(np.int64),
        "big_endian": floats.astype(">f4"),
        "fortran": np.asfortranarray(floats),
        "turned": floats.transpose(0, 2, 1),
        "strided": floats[:, ::2],
        "single": np.array(3.5),
        "empty": np.zeros((0, 5), np.float32),
        "flags": np.array([True, False]),
        "half": np.array([1.5], np.float16),
        "texts": np.array(["schön", "好"]),
        "bytes": np.array([b"a", b"bcd"]),
        "objects": np.array([["a", None], [1, "b"]], object),
        "read_only": np.frombuffer(b"\x01\x02", np.uint8),
    }


def same(ours, theirs):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    np.testing.assert_array_equal(ours, theirs)


# What comes back


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_dataset_comes_back_as_python_reads_it(written, protocol):
    value = dataset()
    read = load(written(pickle.dumps({"train": value, "test": value}, protocol)))
    assert list(read) == ["train", "test"] and read["train"] is read["test"]
    assert list(read["train"]) == list(value)
    for name, array in value.items():
        assert isinstance(read["train"][name], Array), name
        same(read["train"][name].read(), array)
        if array.ndim:
            assert len(read["train"][name]) == len(array)
            same(read["train"][name].rows(1, 2), array[1:2])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_come_back_as_they_are(written, protocol):
    value = [
        {"id": "a$_$1", 7: "好\n\\u \ud800", None: b"\x00\xff\n", True: b""},
        ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        [0, 1, -1, 255, 256, 65536, -(2**31), 2**63, -(2**200), 2**511],
        [0.0, -1.25, 1e300, float("inf"), True, False, None, "", [], {}, "x" * 70_000],
    ]
    assert load(written(pickle.dumps(value, protocol))) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ordered_dicts_are_dicts_and_numpys_scalars_are_pythons(written, protocol):
    value = [
        collections.OrderedDict(b=1, a=2),
        np.float32(0.5),
        np.int64(-3),
        np.bool_(True),
        np.str_("ü"),
        np.bytes_(b"x"),
    ]
    read = load(written(pickle.dumps(value, protocol)))
    assert read == [{"b": 1, "a": 2}, 0.5, -3, True, "ü", b"x"]
    assert [type(item) for item in read] == [dict, float, int, bool, str, bytes]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_shared_stays_shared_and_may_contain_itself(written, protocol):
    ring: list = [np.ones(2)]
    ring += [ring, ring[0]]
    read = load(written(pickle.dumps(ring, protocol)))
    assert read[1] is read and read[2] is read[0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_object_array_may_hold_lists_and_arrays(written, protocol):
    value = np.empty(2, object)
    value[:] = [[1, 2], np.arange(3)]
    first, second = load(written(pickle.dumps(value, protocol))).read()
    assert first == [1, 2]
    same(second.read(), np.arange(3))


def test_python_2_is_read_as_latin1(written):
    # As Python 2 with numpy 1.16 writes it: STRING and SHORT_BINSTRING where Python 3 has bytes.
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(L2L\ntcnumpy\ndtype\n"
        b"(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\ntb"
    )
    read = load(written(b"(dS'audio'\n" + array + b"sU\x02\xe9tV\\xe9\\u597d\ns."))
    same(read["audio"].read(), np.array([1, 2], np.float32))
    assert read["ét"] == r"\xe9好"


def test_python_2_leaves_its_large_arrays_in_the_file_too(written):
    content = pickle.dumps(np.arange(LARGE, dtype=np.uint8), 3)
    path = written(content.replace(b"B" + struct.pack("<I", LARGE), b"T" + struct.pack("<I", LARGE)))
    assert load(path).rows(300, 302).tolist() == [44, 45]


def test_what_follows_the_end_is_passed_over(written):
    assert load(written(pickle.dumps([1], 4) + b"cos\nsystem\n")) == [1]


def test_rows_are_cut_as_slices_are(written):
    for array in (np.arange(10.0), np.arange(2.0 * LARGE).reshape(-1, 16)):
        read = load(written(pickle.dumps(array, 4)))
        for start, stop in ((0, 3), (5, 5), (7, 3), (-2, len(array)), (8, 10**9), (10**9, 10**10)):
            same(read.rows(start, stop), array[start:stop])


def test_what_is_read_belongs_to_the_reader(written):
    for size in (3, LARGE):
        read = load(written(pickle.dumps(np.zeros(size), 4)))
        read.rows(0, 2)[:] = 1
        read.read()[:] = 1
        assert not read.read().any()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_large_arrays_stay_in_the_file(tmp_path, protocol):
    array = np.arange(2**24, dtype=np.float32).reshape(-1, 64, 16)  # 64 MB
    path = tmp_path / "large.pkl"
    with path.open("wb") as file:
        pickle.dump({"audio": array, "texts": np.full(2**15, "wort")}, file, protocol)
    load(path)
    tracemalloc.start()
    read = load(path)
    rows = read["audio"].rows(16_000, 16_100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2**20
    same(rows, array[16_000:16_100])
    assert read["texts"].rows(9, 10).tolist() == ["wort"]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_large_arrays_in_another_order_come_back_too(written, protocol):
    array = np.arange(2.0 * LARGE).reshape(64, 32, -1)
    for turned in (np.asfortranarray(array), array.transpose(0, 2, 1)):
        same(load(written(pickle.dumps(turned, protocol))).rows(3, 5), turned[3:5])


def test_a_file_that_changes_afterwards_is_refused(written):
    path = written(pickle.dumps(np.zeros(LARGE), 4))
    read = load(path)
    path.write_bytes(b"short")
    with pytest.raises(BadInput, match="shorter since it was opened"):
        read.rows(0, 1)
    path.unlink()
    with pytest.raises(BadInput, match="cannot be read any more"):
        read.read()


def test_a_single_value_has_no_rows(written):
    single = load(written(pickle.dumps(np.array(1), 4)))
    with pytest.raises(BadInput, match="where rows should"):
        single.rows(0, 1)


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


# What is no dataset, or a broken one


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ends too early"),
        (b"video_id,clip_id\n", "no instruction b'v'"),
        (b"hello\n", "makes no sense"),
        (b"\x1f\x8b\x08\x00", "is a gzip file"),
        (b"PK\x03\x04\x00", "is a zip archive"),
        (b"\x80\x06N.", "pickle protocol 6"),
        (b"N", "ends too early"),
        (b".", "makes no sense"),
        (b"(N.", None),
        (b"h\x07.", "makes no sense"),
        (b"a.", "makes no sense"),
        (b"\x85.", "makes no sense"),
        (b"t.", "makes no sense"),
        (b"Na.", "makes no sense"),
        (b"NNa.", "what is no list"),
        (b"}(Nu.", "do not pair"),
        (b"](NNu.", "do not pair"),
        (b"}]Ns.", "a key"),
        (b"})Ns.", "a key"),
        (b"}G?\xf0\x00\x00\x00\x00\x00\x00Ns.", "a key"),
        (b"}\x8a\x09" + b"\x01" * 9 + b"Ns.", "a key"),
        (b"S'a\n.", "no quotes"),
        (b"S'\n.", "no quotes"),
        (b"S'\\x'\n.", "makes no sense"),
        (b"Iabc\n.", "makes no sense"),
        (b"V" + b"a" * 1000, "a line has no end"),
        (b"\x8c\x01\xff.", "makes no sense"),
        (b"I" + b"1" * 10**6 + b"\n.", "longer than 255"),
        (b"L" + b"1" * 200 + b"L\n.", "662 bits"),
        (b"L" + b"1" * 10**6 + b"L\n.", "longer than 255"),
        (b"\x8b\x00\x10\x00\x00" + b"\x01" * 4096 + b".", "claims 4096 bytes for a number"),
        (b"\x8a\x60" + b"\x01" * 96 + b".", "a number has"),
        (b"c" + b"a" * 10**6 + b"\nb\n.", "longer than 255"),
        (b"Np-1\n.", "no such place"),
        (b"Np99999999999999999999\n.", "no such place"),
        (b"B\x00\x00\x01\x00" + bytes(LARGE) + b".", "65536 bytes that are no array"),
    ],
)
def test_a_broken_file_is_refused_in_words(written, content, said):
    path = written(content)
    if said is None:  # a mark left over harms nobody, and pickle.load takes it too
        assert load(path) is None
    else:
        assert said in refusal(path)


@pytest.mark.parametrize("claim", [2**32 - 1, 2**62, 2**64 - 1])
@pytest.mark.parametrize("code", [b"\x8e", b"\x8d", b"\x96", b"\x95"])  # BINBYTES8, BINUNICODE8, BYTEARRAY8, FRAME
def test_claims_beyond_the_end_are_refused_unread(written, code, claim):
    tracemalloc.start()
    assert f"claims {claim} bytes where 8 are left" in refusal(written(code + struct.pack("<Q", claim) + b"8 bytes."))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("code", [b"B", b"X", b"T", b"\x8b"])  # BINBYTES, BINUNICODE, BINSTRING, LONG4
@pytest.mark.parametrize("claim", [2**31 - 1, 2**32 - 1])
def test_claims_of_four_bytes_are_refused_unread(written, code, claim):
    said = refusal(written(code + struct.pack("<I", claim) + b"8 bytes."))
    assert "claims" in said or (claim > 2**31 and "makes no sense" in said)  # LONG4: a size below zero


def array_of(shape, content, kind="f4", fortran=b"\x89"):
    """A protocol 4 array with a shape, bytes and type of one's own choice."""
    head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
    name = kind.encode()
    dtype = b"cnumpy\ndtype\n\x8c" + bytes([len(name)]) + name + b"\x89\x88\x87R"
    return HEAD + head + pickle.dumps(shape, 2)[2:-1] + dtype + fortran + content + b"tb."


def test_a_shape_that_fits_is_taken(written):
    same(load(written(array_of((2, 1), b"C\x08" + bytes(8)))).read(), np.zeros((2, 1), np.float32))


@pytest.mark.parametrize(
    "shape", [(2**62,), (-1,), (-2, -1), (2**62, 4), (0, 2**62), (2**32, 2**32), (1,) * 33, ("2",), (2.0,), (True, 2)]
)
def test_impossible_shapes_are_refused(written, shape):
    said = refusal(written(array_of(shape, b"C\x08" + bytes(8))))
    assert "shape is impossible" in said or "more than 32 axes" in said


@pytest.mark.parametrize(
    ("shape", "content", "kind", "said"),
    [
        ((3,), b"C\x08" + bytes(8), "f4", "claims 12 values or bytes and has 8"),
        ((1,), b"C\x08" + bytes(8), "f4", "claims 4"),
        ((), b"C\x08" + bytes(8), "f4", "claims 4"),
        ((99,) * 30, b"C\x08" + bytes(8), "f4", "claims"),
        ((1,), b"B\x00\x00\x01\x00" + bytes(LARGE), "f4", "claims 4 values or bytes and has 65536"),
        ((2,), b"]", "f4", "no such content"),
        ((2,), b"N", "f4", "no such content"),
        ((1,), b"C\x08" + bytes(8), "O8", "no such content"),  # bytes as pointers
        ((2,), b"]Na", "O8", "claims 2"),
        ((1,), b"C\x04\xff\xff\xff\xff", "U1", "no character"),
        ((1,), b"C\x04\x00\x00\x00\x00", ">>f4", "values of type >>f4"),
        ((1,), b"C\x04\x00\x00\x00\x00", "f4,f4", "values of type f4,f4"),
        ((1,), b"C\x04\x00\x00\x00\x00", "(2,)f2", "values of type"),
        ((1,), b"C\x04\x00\x00\x00\x00", "U0", "values of type"),
        ((1,), b"C\x04\x00\x00\x00\x00", "f4\n", "values of type"),
        ((1,), b"C\x04\x00\x00\x00\x00", "U\u0661", "values of type"),  # a digit one, in Arabic
    ],
)
def test_content_that_does_not_fit_its_array_is_refused(written, shape, content, kind, said):
    assert said in refusal(written(array_of(shape, content, kind)))


def test_text_in_a_large_array_is_checked_when_read(written):
    read = load(written(array_of((LARGE,), b"B" + struct.pack("<I", 4 * LARGE) + b"\xff" * 4 * LARGE, "U1")))
    with pytest.raises(BadInput, match="no character"):
        read.rows(0, 1)


def test_an_array_is_filled_once_only(written):
    content = array_of((2,), b"C\x08" + bytes(8))[:-1]
    state = content[content.index(b"(K\x01") :]
    assert "filled twice" in refusal(written(content + state + b"."))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_cut_anywhere_is_refused(written, protocol):
    whole = pickle.dumps({"train": {"audio": np.ones((2, 2), np.float32), "id": ["a", "b"]}}, protocol)
    for size in range(len(whole)):
        refusal(written(whole[:size]))


def test_what_is_no_file_is_refused(tmp_path):
    assert "is no file" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "none.pkl")
    os.mkfifo(tmp_path / "pipe")
    assert "is no file" in refusal(tmp_path / "pipe")


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


# What can never happen

SEEDS = [pickle.dumps([{"train": dataset()}, (1, -5, 2.5, None, True, b"x", "é", 2**70)], p) for p in PROTOCOLS]
SEEDS += [pickle.dumps({"id": ["a"], "x": np.ones((1, 2))}, p) for p in PROTOCOLS]
CODES = [op.code.encode("latin1") for op in pickletools.opcodes]


@st.composite
def mutated(draw):
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content) - 1))
        size = draw(st.integers(0, 3))
        content[at : at + size] = draw(st.one_of(st.sampled_from(CODES), st.binary(max_size=9)))
    return bytes(content)


instructions = st.lists(st.tuples(st.sampled_from(CODES), st.sampled_from([b"", b"\x00", b"\x01a", b"0\n", b"a\nb\n"])))
programs = instructions.map(lambda steps: b"".join(code + argument for code, argument in steps) + b".")


@settings(max_examples=400, deadline=None)
@given(content=st.one_of(mutated(), mutated(), programs, st.binary(max_size=50)))
def test_any_bytes_are_a_value_or_bad_input(fuzz_file, content):
    fuzz_file.write_bytes(content)
    try:
        todo = [load(fuzz_file)]
    except BadInput:
        refusal(fuzz_file)
        return
    seen = set()
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        assert item is None or type(item) in (dict, list, tuple, str, bytes, int, float, bool, Array)
        if isinstance(item, Array):
            try:
                values = item.read()
            except BadInput:
                continue
            assert values.shape == item.shape and values.dtype == item.dtype
            values.tolist()
        elif isinstance(item, dict | list | tuple):
            todo.extend(item.values() if isinstance(item, dict) else item)


values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**500), 2**500), st.floats(allow_nan=False), st.text(), st.binary()
    ),
    lambda inner: st.one_of(st.lists(inner), st.tuples(inner, inner), st.dictionaries(st.text(), inner)),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(value=values, protocol=st.sampled_from(PROTOCOLS))
def test_any_plain_value_comes_back(fuzz_file, value, protocol):
    fuzz_file.write_bytes(pickle.dumps(value, protocol))
    assert load(fuzz_file) == value


@pytest.fixture(scope="module")
def fuzz_file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "x.pkl"
