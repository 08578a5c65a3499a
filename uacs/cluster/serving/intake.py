"""From a request's bytes to samples: counted while they come in, checked once; what is wrong is said in one line.

Nothing of a request is opened or decoded here but JSON and multipart/form-data; a clip stays the bytes that it is.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import from_json
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from uacs.cluster.serving import roots
from uacs.cluster.serving.calls import Media
from uacs.cluster.serving.trouble import TooLarge, Unreadable
from uacs.errors import shown
from uacs.records import Sample, readable
from uacs.wire import BatchRequest, Budget, Clip, Name, Request

Model = TypeVar("Model", bound=BaseModel)
JSON, FORM = "application/json", "multipart/form-data"
FIELDS = 8
LONG = 2**16  # bytes of JSON
LONGEST_FIELD = 2**20  # bytes of a form's field that is no file


class Form(Budget):
    """POST /v1/predict as multipart/form-data: a file, and what may be said about it."""

    sample_id: Name | None = None
    text: str | None = None
    clip: Any = Field(None, description="the footage: a whole MP4, WAV or anything else that FFmpeg reads")


@dataclass(frozen=True)
class Wanted:
    """What a request asks for. Of its samples some may be at fault, by place; the others are to be answered."""

    samples: list[Sample]
    media: Media
    budget: Budget
    faults: dict[int, str]


@dataclass(frozen=True)
class Most:
    """What a request may bring: bytes as a form and as JSON, and samples in a batch."""

    form: int
    json: int
    samples: int


async def single(request: HttpRequest, request_id: str, most: Most, allowed: Sequence[str]) -> Wanted:
    """The one sample of POST /v1/predict; raises `Unreadable`, or `TooLarge` for a longer body than may be."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM:
        _refuse_charset(request)
        form = await _form(request, most.form)
        footage = form.pop("clip", None)
        said = _valid(Form, form, strict=False)
        clip = Clip(sample_id=said.sample_id, text=said.text)
        media = {0: footage} if footage else {}
        return Wanted([_sample(clip, request_id, allowed, bool(media))], media, said, {})
    if kind == JSON:
        body = await _body(request, most.json)
        return await _aside(body, lambda: _single(body, request_id, allowed))
    raise Unreadable(f"content-type: '{shown(kind)}'; send {JSON} or {FORM}")


async def batch(request: HttpRequest, request_id: str, most: Most, allowed: Sequence[str]) -> Wanted:
    """The samples of POST /v1/predict/batch, of which some may be at fault; raises as `single` does."""
    body = await _body(request, most.json)
    return await _aside(body, lambda: _batch(body, request_id, most.samples, allowed))


async def _aside(body: bytes, work: Callable[[], Wanted]) -> Wanted:
    """A long body is read in a thread, beside other requests."""
    return await asyncio.to_thread(work) if len(body) > LONG else work()


def _single(body: bytes, request_id: str, allowed: Sequence[str]) -> Wanted:
    asked = _valid(Request, _json(body))
    return Wanted([_sample(asked, request_id, allowed, False)], {}, asked, {})


def _batch(body: bytes, request_id: str, samples: int, allowed: Sequence[str]) -> Wanted:
    content = _json(body)
    listed = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed:
        raise Unreadable('samples: expected a list of one sample or more, as {"samples": [{"text": "..."}]}')
    if len(listed) > samples:
        raise TooLarge(f"samples: {len(listed)}, and {samples} may come at once; send them in parts")
    budget = _valid(BatchRequest, content | {"samples": [{}]})
    wanted, faults = list[Sample](), dict[int, str]()
    for i, one in enumerate(listed):
        name = f"{request_id}-{i}"
        try:
            wanted.append(_sample(_valid(Clip, one), name, allowed, media=False))
        except Unreadable as fault:
            given = one.get("sample_id") if isinstance(one, dict) else None
            wanted.append(Sample(readable(given[:200]) if isinstance(given, str) and given else name))
            faults[i] = str(fault)
    return Wanted(wanted, {}, Budget(max_stage=budget.max_stage, deadline=budget.deadline), faults)


def _refuse_charset(request: HttpRequest) -> None:
    """Refuse fields in another encoding than UTF-8: there are some that take minutes to decode."""
    _, parameters = parse_options_header(request.headers.get("content-type", ""))
    if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise Unreadable("content-type: fields are read as UTF-8; leave charset away")


def _sample(clip: Clip, name: str, allowed: Sequence[str], media: bool) -> Sample:
    if not media and all(value is None for value in (clip.text, clip.audio, clip.vision, clip.clip)):
        raise Unreadable("nothing to answer; give text, audio, vision or a clip")
    return Sample(
        clip.sample_id or name,
        text=clip.text,
        audio=_array("audio", clip.audio),
        vision=_array("vision", clip.vision),
        clip=None if clip.clip is None else roots.allowed(clip.clip, allowed),
    )


def _array(modality: str, steps: list[list[float]] | None) -> np.ndarray | None:
    if steps is None:
        return None
    if len({len(step) for step in steps}) != 1 or not steps[0]:
        raise Unreadable(f"{modality}: its steps differ in length; give (steps, size) numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, which the UBM says
        return np.array(steps, np.float32)


async def _body(request: HttpRequest, most: int) -> bytes:
    return b"".join([part async for part in _counted(request, most)])


async def _counted(request: HttpRequest, most: int) -> AsyncGenerator[bytes, None]:
    """A body's parts as they come, stopped where they are more than may be sent, whatever its header claims."""
    over = TooLarge(f"the request is larger than {most / 2**20:g} MiB; send less at once")
    if (claimed := request.headers.get("content-length", "")).isdigit() and int(claimed[:20]) > most:
        raise over
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise over
            yield part
    except ClientDisconnect:
        raise Unreadable("the request ended before its body did") from None


async def _form(request: HttpRequest, most: int) -> dict[str, Any]:
    """A form's fields by name, a file as its bytes."""
    parser = MultiPartParser(
        request.headers, _counted(request, most), max_files=1, max_fields=FIELDS, max_part_size=LONGEST_FIELD
    )
    try:
        parts = await parser.parse()
    except MultiPartException as error:
        raise Unreadable(f"not {FORM} as it should be ({shown(error.message, 100)}); mend it") from None
    except (KeyError, ValueError, UnicodeError, AssertionError) as error:
        raise Unreadable(f"not {FORM} as it should be ({type(error).__name__}); mend it") from None
    try:
        fields: dict[str, Any] = {}
        for name, value in parts.multi_items():
            if name in fields:
                raise Unreadable(f"{shown(name)}: given twice")
            if isinstance(value, UploadFile) != (name == "clip"):
                raise Unreadable(f"{shown(name)}: expected a {'file' if name == 'clip' else 'field, not a file'}")
            fields[name] = await value.read() if isinstance(value, UploadFile) else value
        if "clip" in fields and not fields["clip"] and not fields.get("text"):
            raise Unreadable("clip: an empty file; send the footage")
        return {name: value for name, value in fields.items() if value not in ("", b"")}
    finally:
        await parts.close()


def _json(body: bytes) -> Any:
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Unreadable(f"not JSON ({shown(str(error), 100)})") from None


def _valid(model: type[Model], content: object, strict: bool = True) -> Model:
    try:
        if not isinstance(content, dict):
            raise Unreadable(f"expected an object, as {json.dumps({'text': 'I loved it.'})}")
        if unknown := content.keys() - model.model_fields.keys():
            name = shown(min(unknown, key=str))
            raise Unreadable(f"{name}: unknown; there is {', '.join(model.model_fields)}")
        return model.model_validate(content, strict=strict)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(shown(str(part)) for part in first["loc"][:4])
        raise Unreadable(f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
