"""The HTTP application itself: its document, its page, and how anything is said over it.

Apart from `Endpoint`, since Serve copies the application when that class is made: what it uses has to be there then.
"""

import importlib.metadata
import importlib.resources
import uuid

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from uacs import wire
from uacs.cluster.serving.openapi import describe
from uacs.cluster.serving.trouble import NoKey
from uacs.errors import shown

PAGE = importlib.resources.files("uacs.cluster.serving") / "page.html"
SAFE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; media-src blob:; img-src data: blob:; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

api = FastAPI(title="U-ACS", version=importlib.metadata.version("uacs"), docs_url=None, redoc_url=None)
describe(api)


def problem(request_id: str, why: str, code: int, retry_after: int | None = None) -> Response:
    """Why there is no answer."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    if code == NoKey.code:
        headers["WWW-Authenticate"] = "Bearer"
    return respond(wire.Problem(request_id=request_id, error=why), code, headers)


@api.exception_handler(HTTPException)
async def _not_ours(request: Request, error: HTTPException) -> Response:
    """A path or method that there is not."""
    return respond(
        wire.Problem(request_id=id_of(request), error=f"{shown(request.url.path)}: {error.detail}"),
        error.status_code,
        dict(error.headers or {}),
    )


def respond(content: BaseModel, code: int, headers: dict[str, str] | None = None) -> Response:
    """A model as JSON."""
    return Response(content.model_dump_json(), code, headers, media_type="application/json")


def id_of(request: Request) -> str:
    """The id that Serve, or the client, gave the request."""
    return shown(request.headers.get("x-request-id") or uuid.uuid4().hex, 128)
