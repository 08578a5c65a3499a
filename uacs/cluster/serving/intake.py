"""From a request's bytes to samples: counted while they come in, checked once; what is wrong is said in one line.

Nothing of a request is opened or decoded here but JSON and multipart/form-data; a clip stays the bytes that it is.
"""

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import from_json
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
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


async def single(request: HttpRequest, request_id: str, most: int, allowed: Sequence[str]) -> Wanted:
    """The one sample of POST /v1/predict; raises `Unreadable`, or `TooLarge` for a body of more than `most` bytes."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM:
        form = await _form(request, most)
        footage = form.pop("clip", None)
        said = _valid(Form, form, strict=False)
        clip = Clip(sample_id=said.sample_id, text=said.text)
        media = {0: footage} if footage else {}
        return Wanted([_sample(clip, request_id, allowed, bool(media))], media, said, {})
    if kind == JSON:
        asked = _valid(Request, _json(await _body(request, most)))
        return Wanted([_sample(asked, request_id, allowed, False)], {}, asked, {})
    raise Unreadable(f"content-type: '{shown(kind)}'; send {JSON} or {FORM}")


async def batch(request: HttpRequest, request_id: str, most: int, samples: int, allowed: Sequence[str]) -> Wanted:
    """The samples of POST /v1/predict/batch, of which some may be at fault; raises as `single` does."""
    content = _json(await _body(request, most))
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
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise over
        yield part


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
        return model.model_validate(content, strict=strict)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(shown(str(part)) for part in first["loc"][:4])
        known = f"; there is {', '.join(model.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise Unreadable(f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}{known}") from None
