"""Reading pickles: what comes back, what is said of broken ones, and what never happens."""

import collections
import os
import pickle
import pickletools
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.pickles import PROTOCOLS, array_of, assert_same, dataset, refusal
from uacs.data.pickled_arrays import LARGE
from uacs.data.unpickle import Array, load
from uacs.errors import BadInput

# What comes back


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_dataset_comes_back_as_python_reads_it(written, protocol):
    value = dataset()
    read = load(written(pickle.dumps({"train": value, "test": value}, protocol)))
    assert list(read) == ["train", "test"] and read["train"] is read["test"]
    assert list(read["train"]) == list(value)
    for name, array in value.items():
        assert isinstance(read["train"][name], Array), name
        assert_same(read["train"][name].read(), array)
        if array.ndim:
            assert len(read["train"][name]) == len(array)
            assert_same(read["train"][name].rows(1, 2), array[1:2])


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
    assert_same(second.read(), np.arange(3))


def test_python_2_is_read_as_latin1(written):
    # As Python 2 with numpy 1.16 writes it: STRING and SHORT_BINSTRING where Python 3 has bytes.
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(L2L\ntcnumpy\ndtype\n"
        b"(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\ntb"
    )
    read = load(written(b"(dS'audio'\n" + array + b"sU\x02\xe9tV\\xe9\\u597d\ns."))
    assert_same(read["audio"].read(), np.array([1, 2], np.float32))
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
            assert_same(read.rows(start, stop), array[start:stop])


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
    assert_same(rows, array[16_000:16_100])
    assert read["texts"].rows(9, 10).tolist() == ["wort"]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_large_arrays_in_another_order_come_back_too(written, protocol):
    array = np.arange(2.0 * LARGE).reshape(64, 32, -1)
    for turned in (np.asfortranarray(array), array.transpose(0, 2, 1)):
        assert_same(load(written(pickle.dumps(turned, protocol))).rows(3, 5), turned[3:5])


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


def test_a_shape_that_fits_is_taken(written):
    assert_same(load(written(array_of((2, 1), b"C\x08" + bytes(8)))).read(), np.zeros((2, 1), np.float32))


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
        assert refusal(written(whole[:size]))


def test_what_is_no_file_is_refused(tmp_path):
    assert "is no file" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "none.pkl")
    os.mkfifo(tmp_path / "pipe")
    assert "is no file" in refusal(tmp_path / "pipe")


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
