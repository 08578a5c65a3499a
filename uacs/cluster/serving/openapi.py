"""The OpenAPI document: requests are read by hand (`intake`), so what they may be is said here."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from uacs import wire

REASONS = {
    401: "a key is wanted",
    413: "too large",
    422: "cannot be read, or has nothing that a model reads",
    500: "our fault",
    503: "full, or a model is down; try again after Retry-After seconds",
    504: "past its deadline",
}
EXAMPLES = {
    "sentence": {"value": {"text": "I expected little, and left the cinema singing."}},
    "budget": {"value": {"text": "It was fine, I guess.", "max_stage": "small", "deadline": 2}},
    "features": {"value": {"sample_id": "a1", "text": "Never again.", "audio": [[-3.2], [-2.9]]}},
}
BATCH = {"two": {"value": {"samples": [{"text": "Loved it."}, {"sample_id": "b", "text": "Hated it."}]}}}
BEARER = {"type": "http", "scheme": "bearer", "description": "where the endpoint has keys"}


def responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    """What may come instead of an answer."""
    return {code: {"model": wire.Problem, "description": REASONS[code]} for code in codes}


def describe(api: FastAPI) -> None:
    """Let the application's document say what bodies its requests have."""

    def document() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = _document(api)
        return api.openapi_schema

    api.openapi = document  # type: ignore[method-assign]


def _document(api: FastAPI) -> dict[str, Any]:
    found = get_openapi(title=api.title, version=api.version, routes=api.routes)
    schemas = found["components"]["schemas"]
    for model in (wire.Request, wire.BatchRequest):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
    for name in ("Request", "Clip"):
        schemas[name]["anyOf"] = [{"required": [one]} for one in ("text", "audio", "vision", "clip")]
    for path, name, examples in (("/v1/predict", "Request", EXAMPLES), ("/v1/predict/batch", "BatchRequest", BATCH)):
        content: dict[str, Any] = {
            "application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}, "examples": examples}
        }
        if name == "Request":
            content["multipart/form-data"] = {"schema": _form(schemas["Request"]["properties"])}
        found["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
    found["components"]["securitySchemes"] = {"key": BEARER}
    for path in ("/v1/predict", "/v1/predict/batch", "/v1/info"):
        for operation in found["paths"][path].values():
            operation["security"] = [{}, {"key": []}]
    return found


def _form(properties: dict[str, Any]) -> dict[str, Any]:
    kept = {name: properties[name] for name in ("sample_id", "text", "max_stage", "deadline")}
    clip = {"type": "string", "format": "binary", "description": "the footage"}
    return {"type": "object", "properties": {"clip": clip, **kept}, "additionalProperties": False}
