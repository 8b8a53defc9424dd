"""What no endpoint swallows: broken bodies, unknown fields, values beyond limits; and the tables of what each takes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from jeito.decode.local import LocalModel
from jeito.engines.toy import ToyEngine, babble
from jeito.serve.endpoints import ENDPOINTS, EXPLAIN
from jeito.serve.openapi import document
from tests.serve.conftest import Serve, Serving, user

MAKER = Path(__file__).parents[2] / "docs" / "make_serve.py"
ASKS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [user("hi")]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/jeito/explain": {"messages": [user("hi")]},
}
every_endpoint = pytest.mark.parametrize("path", ASKS)


@pytest.fixture
def served(serve: Serve) -> Serving:
    return serve(LocalModel(ToyEngine(babble), "toy"))


def post(served: Serving, path: str, **body: Any) -> httpx2.Response:
    return served.http.post(path, json={"model": "toy", **ASKS[path], **body})


def refused(got: httpx2.Response, status: int = 400) -> dict[str, Any]:
    assert got.status_code == status, got.text[:300]
    error: dict[str, Any] = got.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] in ("invalid_request_error", "not_found_error")
    return error


@every_endpoint
@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", '{"model": "toy"}'.encode("utf-16"), b'{"model": "\\ud800"}',
        b'{"model": "toy", "temperature": NaN}', b'{"model": "toy", "temperature": 1e999}',
        b'{"model": "toy", "seed": ' + b"9" * 5000 + b"}", b'{"a":' * 5000, b"[" * 100_000,
        b'{"model": "toy", "temperature": 0, "temperature": 1}', b'{"model": "toy", "jeito": {"exact": 1, "exact": 1}}',
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused(served: Serving, path: str, content: bytes) -> None:
    error = refused(served.http.post(path, content=content))
    assert "JSON" in error["message"] or error["param"] in ("temperature", "seed")


@every_endpoint
def test_ten_megabytes_are_refused(served: Serving, path: str) -> None:
    try:
        got = served.http.post(path, content=b'{"model": "' + b"x" * 10_000_000)
    except httpx2.WriteError:  # it was refused, and closed, while we still sent
        return
    refused(got, 413)


@every_endpoint
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temprature": 1}, "temprature"),
        ({"exact": True}, "exact"),
        ({"jeito": {"exakt": True}}, "jeito.exakt"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 2**64}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"logit_bias": {str(at): 1 for at in range(2000)}}, "logit_bias"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "("}}, None),
        ({"model": 3}, "model"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(served: Serving, path: str, body: Any, param: str | None) -> None:
    assert refused(post(served, path, **body))["param"] == param


@every_endpoint
def test_an_unknown_field_is_refused_with_the_nearest(served: Serving, path: str) -> None:
    error = refused(post(served, path, temprature=1))
    assert error["code"] == "unknown_parameter"
    assert "did you mean temperature" in error["message"]
    assert "exact" in refused(post(served, path, jeito={"exakt": True}))["message"]


@every_endpoint
def test_the_lenient_leave_out_unknown_fields_at_any_depth_and_say_so(serve: Serve, path: str) -> None:
    served = serve(LocalModel(ToyEngine(babble), "toy"), lenient=True)
    got = post(served, path, temprature=1, max_new_tokens=3, jeito={"exakt": 1, "receipt": True})
    assert got.status_code == 200, got.text
    assert got.headers["x-jeito-left-out"] == "temprature, jeito.exakt"
    assert "jeito.exakt: there is no such field" in got.text


@every_endpoint
def test_messages_and_tools_have_a_limit(served: Serving, path: str) -> None:
    if path != "/v1/completions":
        key = "input" if path == "/v1/responses" else "messages"
        assert refused(post(served, path, **{key: [user("x")] * 2049}))["param"] == key
        tool = {"name": "f"} if key == "input" else {"function": {"name": "f"}}
        tools = [{"type": "function", **tool}]
        assert refused(post(served, path, tools=tools * 129))["param"] == "tools"
        assert "two tools" in refused(post(served, path, tools=tools * 2))["message"]


@every_endpoint
def test_a_schema_has_a_limit_of_size_and_of_depth(served: Serving, path: str) -> None:
    wide = {"type": "object", "properties": {f"property{at}": {"type": "string"} for at in range(12_000)}}
    assert "200,000 bytes" in refused(post(served, path, structured_outputs={"json": wide}))["message"]
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(60):
        deep = {"type": "array", "items": deep}
    assert post(served, path, structured_outputs={"json": deep}, max_new_tokens=3).status_code in (200, 400)


def test_a_request_is_explained_and_nothing_is_generated(served: Serving) -> None:
    before = len(served.server.models[0].decoder.engine.calls)  # type: ignore[attr-defined]
    got = post(served, EXPLAIN, model="toy:technical", temperature=0.5, user="me").json()
    assert len(served.server.models[0].decoder.engine.calls) == before  # type: ignore[attr-defined]
    values = got["values"]
    assert (values["temperature"]["value"], values["temperature"]["source"]) == (0.5, "request")
    assert (values["top_p"]["source"], values["top_p"]["file"]) == ("behaviour", "agente_tecnico.yaml")
    assert [line.partition(":")[0] for line in got["unsupported"]] == ["user"]
    assert (got["facts"]["engine"], got["facts"]["files"]) == ("toy", ["technical.yaml", "agente_tecnico.yaml"])
    said = post(served, "/v1/chat/completions", model="toy:technical", temperature=0.5, seed=1, jeito={"receipt": True})
    receipt = said.json()["choices"][0]["jeito"]["receipt"]
    assert {**receipt["values"], "seed": None} == {**values, "seed": None}
    assert receipt["prompt_digest"] == got["prompt_digest"]
    assert "/" not in json.dumps(got["values"]) + json.dumps(got["facts"])


def test_the_page_has_the_tables_of_fields() -> None:
    done = subprocess.run([sys.executable, MAKER, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_document_names_every_route_and_every_field(served: Serving) -> None:
    described = served.http.get("/openapi.json").json()
    routes = {route.path.replace(":path", "") for route in served.server.app().routes}  # type: ignore[attr-defined]
    assert described["paths"].keys() == routes | {"/health", "/ready"}  # which the door answers
    for endpoint in ENDPOINTS.values():
        assert described["components"]["schemas"][endpoint.fields.__name__]["properties"].keys() == (
            endpoint.fields.known()
        )


@pytest.mark.parametrize("path", [*document()["paths"]])
def test_nothing_that_the_document_allows_makes_the_server_fail(served: Serving, path: str) -> None:
    (method,) = document()["paths"][path]
    operation = schemathesis.openapi.from_dict(document())[path][method.upper()]
    checks = [
        not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    ]  # fmt: skip

    statuses: list[int] = []

    @hypothesis.settings(
        max_examples=30, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(case=operation.as_strategy())
    def try_it(case: Any) -> None:
        if isinstance(case.body, dict) and len(statuses) % 3:  # a conversation drawn by lot is seldom one
            case.body |= {"model": "toy", **ASKS[path]}
        got = case.call(base_url=served.url, timeout=60)
        statuses.append(got.status_code)
        case.validate_response(got, checks=checks)

    try_it()
    assert 200 in statuses or "{id}" in path
