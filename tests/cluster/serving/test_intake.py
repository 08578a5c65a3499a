"""From bytes to samples: what is wrong with a request is one line, whatever it is."""

import asyncio
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from uacs.cluster.serving.intake import LONG, Most, batch, single
from uacs.cluster.serving.trouble import TooLarge, Trouble, Unreadable

JSON = "application/json"
BOUNDARY = "multipart/form-data; boundary=cut"


def request(body, kind=JSON, parts=1, claimed=None):
    """A request whose body comes in so many parts, and claims a length."""
    size = max(1, -(-len(body) // parts))
    pieces = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        return messages.pop(0)

    headers = [(b"content-type", kind.encode())] + ([(b"content-length", str(claimed).encode())] if claimed else [])
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def read(body, kind=JSON, most=10_000, roots=(), **how):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.run(single(request(body, kind, **how), "r1", Most(most, most, 4), roots))


def read_batch(body, most=10_000, samples=4):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.run(batch(request(body), "r1", Most(most, most, samples), ()))


def form(*fields):
    """A multipart body: (name, value) fields, bytes for files."""
    parts = []
    for name, value in fields:
        filename = '; filename="../../x.mp4"' if isinstance(value, bytes) else ""
        content = value if isinstance(value, bytes) else value.encode()
        head = f'--cut\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    return b"".join(parts) + b"--cut--\r\n"


def test_json_is_a_sample():
    wanted = read({"sample_id": "a", "text": "words", "audio": [[1, 2.5]], "max_stage": "large", "deadline": 2})
    (sample,) = wanted.samples
    assert (sample.sample_id, sample.text, sample.vision, sample.clip) == ("a", "words", None, None)
    assert sample.audio.dtype == np.float32 and sample.audio.tolist() == [[1, 2.5]]
    assert wanted.budget.max_stage == "large" and wanted.budget.deadline == 2
    assert read({"text": "x"}).samples[0].sample_id == "r1"


def test_a_form_is_a_sample_with_its_footage():
    wanted = read(form(("text", "words"), ("clip", b"\x00bytes"), ("deadline", "1.5")), BOUNDARY, parts=7)
    assert wanted.media == {0: b"\x00bytes"} and wanted.samples[0].text == "words"
    assert wanted.samples[0].clip is None and wanted.budget.deadline == 1.5
    assert read(form(("text", "words"), ("clip", b"")), BOUNDARY).media == {}  # a browser's form without a file


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "nothing to answer"),
        ([], "expected an object"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"text": "\xff"}', "not JSON"),
        (b'{"text": "\\ud800"}', "not JSON"),
        (b'{"audio": [[NaN]]}', "not JSON"),
        (b"[" * 5000, "not JSON"),
        ({"text": 5}, "text: input should be a valid string"),
        ({"txt": "x"}, "txt: unknown; there is .*text"),
        ({"audio": [["1"]]}, "audio.0.0: "),
        ({"audio": []}, "audio: "),
        ({"audio": [[]]}, "audio: its steps differ"),
        ({"audio": [[1], [1, 2]]}, "audio: its steps differ"),
        (b'{"audio": [[1e999]]}', "audio.0.0|not JSON"),
        ({"text": "x", "deadline": 0}, "deadline: "),
        ({"text": "x", "deadline": 10**400}, "deadline: |not JSON"),
        ({"text": "x", "max_stage": "all"}, "max_stage: "),
        ({"text": "x", "sample_id": ""}, "sample_id: "),
        ({"text": "x", "sample_id": "two\nlines"}, "sample_id: "),
        ({"clip": "a/" * 1500}, "clip: "),
        ({"clip": "/etc/passwd"}, "clip: this endpoint opens no paths"),
    ],
)
def test_json_that_is_none_of_ours_is_said_in_a_line(body, said):
    with pytest.raises(Unreadable, match=said) as told:
        read(body)
    assert "\n" not in str(told.value) and len(str(told.value)) < 400


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (form(("clip", b"")), BOUNDARY, "clip: an empty file"),
        (form(("clip", "words")), BOUNDARY, "clip: expected a file"),
        (form(("text", b"file")), BOUNDARY, "text: expected a field"),
        (form(("text", "a"), ("text", "b")), BOUNDARY, "text: given twice"),
        (form(("text", "a"), ("deadline", "soon")), BOUNDARY, "deadline: "),
        (form(("texts", "a")), BOUNDARY, "texts: unknown"),
        (form(("text", "a")), f"{BOUNDARY}; charset=punycode", "leave charset away"),
        (form(("text", "a")), f'{BOUNDARY}; charset="utf-7"', "leave charset away"),
        (form(("clip", b"a"), ("clip", b"b")), BOUNDARY, "not multipart/form-data"),
        (form(*((f"f{i}", "x") for i in range(20))), BOUNDARY, "not multipart/form-data"),
        (b"--cut\r\nnonsense", BOUNDARY, "not multipart/form-data|nothing to answer"),
        (form(("text", "a")), "multipart/form-data", "not multipart/form-data"),
        (b"text=a", "application/x-www-form-urlencoded", "content-type: "),
        (b"{}", "", "content-type: "),
    ],
)
def test_a_form_that_is_none_is_said_in_a_line(body, kind, said):
    with pytest.raises(Unreadable, match=said):
        read(body, kind)


@pytest.mark.parametrize("kind", [JSON, BOUNDARY])
def test_a_body_is_counted_whatever_it_claims(kind):
    long = form(("text", "x"), ("clip", b"x" * 9_000)) if kind == BOUNDARY else {"text": "x" * 9_000}
    assert read(long, kind, parts=5).samples[0].text
    for how in ({"claimed": 3}, {}):
        with pytest.raises(TooLarge, match="larger than"):
            read(long, kind, most=5_000, parts=50, **how)
    with pytest.raises(TooLarge):
        read(b"{}", kind, claimed=10**30)


def test_a_batch_keeps_what_is_right_in_it():
    wanted = read_batch({"samples": [{"text": "a"}, {"sample_id": "b", "text": 7}, 3, {"sample_id": "d", "text": "d"}]})
    assert [s.sample_id for s in wanted.samples] == ["r1-0", "b", "r1-2", "d"]
    assert wanted.faults.keys() == {1, 2} and wanted.faults[1].startswith("text: ")
    assert wanted.budget.max_stage == "verify"


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ({"samples": []}, Unreadable, "samples: expected a list"),
        ({"text": "x"}, Unreadable, "samples: expected a list"),
        ([], Unreadable, "samples: expected a list"),
        ({"samples": [{"text": "x"}], "max": 1}, Unreadable, "max: unknown"),
        ({"samples": [{"text": "x"}], "deadline": -1}, Unreadable, "deadline: "),
        ({"samples": [{"text": "x"}] * 5}, TooLarge, "samples: 5, and 4 may come at once"),
    ],
)
def test_a_batch_that_is_none_is_said(body, kind, said):
    with pytest.raises(kind, match=said):
        read_batch(body)


def test_a_long_body_that_is_wrong_throughout_costs_little():
    odd = {"audio": [[""] * 100_000] * 4} | {f"k{i}": 0 for i in range(50_000)}
    tracemalloc.start()
    with pytest.raises(Unreadable, match="k0: unknown"):
        read(odd, most=10**7)
    with pytest.raises(Unreadable, match=r"audio\.0\.0: "):
        read({"audio": odd["audio"]}, most=10**7)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * 2**20
    assert read({"text": "x" * LONG}, most=10**6).samples[0].text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ours = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("sample_id", "text", "audio", "vision", "clip", "max_stage", "deadline"), json_values)
)


def code_of(work) -> int:
    """What HTTP would say to it."""
    try:
        work()
    except Trouble as trouble:
        return trouble.code if "\n" not in str(trouble) else 0
    return 200


@given(st.binary(max_size=300) | (ours | json_values).map(lambda v: json.dumps(v).encode()), st.booleans())
def test_whatever_comes_is_a_sample_or_a_trouble(body, many):
    assert code_of(lambda: read_batch(body) if many else read(body)) in (200, 413, 422)


@given(st.binary(max_size=300))
def test_whatever_comes_as_a_form_is_a_sample_or_a_trouble(body):
    for content in (body, b'--cut\r\nContent-Disposition: form-data; name="text"' + body + b"\r\n--cut--"):
        assert code_of(lambda content=content: read(content, BOUNDARY)) in (200, 413, 422)
