"""What the tests of pickles share: a dataset like MMSA's, and how a refusal reads."""

import pickle

import numpy as np
import pytest

from uacs.data.unpickle import Array, load
from uacs.errors import BadInput

PROTOCOLS = range(6)
HEAD = b"\x80\x04"


def refusal(path):
    """The one line that `load` refuses `path` with."""
    with pytest.raises(BadInput) as error:
        load(path)
    said = str(error.value)
    assert said.startswith(f"{path}: ") and said.isprintable() and len(said) < len(str(path)) + 200
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


def assert_same(ours, theirs):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    np.testing.assert_array_equal(ours, theirs)


def array_of(shape, content, kind="f4", fortran=b"\x89"):
    """A protocol 4 array with a shape, bytes and type of one's own choice."""
    head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
    name = kind.encode()
    dtype = b"cnumpy\ndtype\n\x8c" + bytes([len(name)]) + name + b"\x89\x88\x87R"
    return HEAD + head + pickle.dumps(shape, 2)[2:-1] + dtype + fortran + content + b"tb."
