"""The OpenAPI document: routes, what they take and what they answer, from the tables of fields."""

from functools import cache
from typing import Any

from pydantic.json_schema import models_json_schema

from jeito import __version__
from jeito.serve.endpoints import ENDPOINTS, EXPLAIN

Json = dict[str, Any]
_TEXT: Json = {"type": "string"}
_EVENT: Json = {"type": "object", "required": ["data"], "properties": {"event": _TEXT, "data": _TEXT}}
"""One of a stream."""
_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_REFUSALS = {
    "400": "a value or a field that cannot be",
    "401": "no key that opens this",
    "403": "a key, or a page, that may not ask this",
    "404": "no such model, run or route",
    "405": "the route takes another method",
    "408": "the body did not come in time",
    "413": "the body is too large",
    "429": "too many wait, or too often: Retry-After",
    "500": "the server failed",
    "503": "not ready, or stopping",
    "504": "no reply in the time that was given",
}
_READS = {
    "/health": ("The process is up.", ("status",)),
    "/ready": ("Models are loaded.", ("status",)),
    "/v1/models": ("What is served.", ("object", "data")),
    "/v1/models/{id}": ("One id.", ("id", "object")),
    "/v1/responses/{id}": ("A reply again, as the log has it.", ("id", "object", "output")),
    "/v1/jeito/receipt/{id}": ("Where every value of a reply came from.", ("id", "receipt")),
}


@cache
def document() -> Json:
    """OpenAPI 3.1 for all routes."""
    kinds = [one.fields for one in ENDPOINTS.values()]
    place = "#/components/schemas/{model}"
    _, made = models_json_schema([(kind, "validation") for kind in kinds], ref_template=place)
    schemas = made["$defs"]
    for kind in kinds:  # which stands in `jeito`
        schemas[kind.__name__]["properties"].pop("exact")
    paths: Json = {path: {"get": _get(path, says, keys)} for path, (says, keys) in _READS.items()}
    plain = {"text/plain": {"schema": _TEXT}}
    paths["/metrics"] = {"get": _operation("Counts, as Prometheus reads them.", plain)}
    paths["/openapi.json"] = {"get": _operation("This document.", _json({"type": "object"}))}
    for path, one in ENDPOINTS.items():
        answer = _json(_object("id", "object")) | {"text/event-stream": {"schema": _EVENT}}
        paths[path] = {"post": _operation(one.says, answer) | _takes(one.fields.__name__)}
    explained = _json(_object("behaviour", "model", "facts", "values", "unsupported"))
    paths[EXPLAIN] = {"post": _operation("What a request would come to.", explained) | _takes("Chat")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "jeito", "version": __version__, "description": "Behaviours behind OpenAI's API."},
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Error": _ERROR},
            "responses": {
                status: {"description": says, "content": _json({"$ref": "#/components/schemas/Error"})}
                for status, says in _REFUSALS.items()
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _get(path: str, says: str, keys: tuple[str, ...]) -> Json:
    made = _operation(says, _json(_object(*keys)))
    if "{id}" in path:
        made["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}}]
    return made


def _operation(says: str, answer: Json) -> Json:
    refused = {status: {"$ref": f"#/components/responses/{status}"} for status in _REFUSALS}
    return {"summary": says, "responses": {"200": {"description": says, "content": answer}, **refused}}


def _takes(kind: str) -> Json:
    return {"requestBody": {"required": True, "content": _json({"$ref": f"#/components/schemas/{kind}"})}}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _object(*keys: str) -> Json:
    return {"type": "object", "required": list(keys)}
