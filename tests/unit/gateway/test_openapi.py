"""The OpenAPI document: valid by its standard, true of the routes, and of real requests, answers and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tests.unit.gateway.fake_triton import FakeTriton, say
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import GatewayProcess, create_app, openapi

CHAT: dict[str, Any] = {"model": "lab", "messages": [{"role": "user", "content": "Hi"}]}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def document(gateway: GatewayProcess) -> dict[str, Any]:
    answer = httpx.get(f"{gateway.url}/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = answer.json()
    return found


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """Raises unless a value is as a schema of the document says."""
    whole = {**schema, "components": document["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


@pytest.mark.parametrize("keys", [True, False])
def test_it_is_valid(keys: bool) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    import orjson

    validator.validate(orjson.loads(openapi.document(strict=True, keys=keys)))


def test_it_has_every_route_and_no_other(document: dict[str, Any], make_spec: Callable[..., GatewaySpec]) -> None:
    routes = create_app(make_spec())._routes
    said = {path: {method.upper() for method in methods} for path, methods in document["paths"].items()}
    assert said == {path: set(methods) - {"HEAD"} for path, methods in routes.items()}


def test_real_requests_and_answers(document: dict[str, Any], gateway: GatewayProcess, triton: FakeTriton) -> None:
    triton.script = say('<tool_call>{"name": "find", "arguments": {}}</tool_call>')
    calls: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {**CHAT, "tools": TOOLS}),
        ("/v1/chat/completions", {**CHAT, "stop": ["a"], "temperature": 0, "max_tokens": 5}),
        ("/v1/completions", {"model": "lab", "prompt": "Hi"}),
        ("/tokenize", {"prompt": "Hi", "return_token_strs": True}),
        ("/detokenize", {"tokens": [5]}),
    ]
    for path, body in calls:
        operation = document["paths"][path]["post"]
        check(document, operation["requestBody"]["content"]["application/json"]["schema"], body)
        answer = httpx.post(gateway.url + path, json=body)
        assert answer.status_code == 200
        check(document, operation["responses"]["200"]["content"]["application/json"]["schema"], answer.json())
    for path in ("/v1/models", "/v1/models/lab", "/health", "/health/ready"):
        operation = document["paths"][path.replace("/lab", "/{id}")]["get"]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        check(document, schema, httpx.get(gateway.url + path).json())


def test_what_the_gateway_refuses_the_document_refuses(document: dict[str, Any], gateway: GatewayProcess) -> None:
    operation = document["paths"]["/v1/chat/completions"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    for wrong in ({**CHAT, "max_token": 5}, {**CHAT, "temperature": 3}, {"model": "lab"}, {**CHAT, "messages": []}):
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=wrong)
        assert answer.status_code == 400
        check(document, operation["responses"]["400"]["content"]["application/json"]["schema"], answer.json())
        with pytest.raises(jsonschema.ValidationError):
            check(document, schema, wrong)


def test_each_status_that_a_route_gives_is_in_it(
    make_spec: Callable[..., GatewaySpec], triton: FakeTriton, tmp_path: Path
) -> None:
    spec = make_spec(keys={"store": f"sqlite:///{tmp_path}/keys.sqlite"}, limits={"max_body_bytes": 1024})
    with GatewayProcess(spec) as process:
        document = httpx.get(f"{process.url}/openapi.json").json()
        assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
        for path, methods in document["paths"].items():
            url = process.url + path.replace("{id}", "other")
            for method, operation in methods.items():
                wrong = "PUT" if method == "get" else "GET"
                seen = {
                    httpx.request(method, url, content=content).status_code
                    for content in ((b"", b"x" * 2000) if method == "post" else (None,))
                }
                seen.add(httpx.request(wrong, url).status_code)
                assert {str(status) for status in seen} <= set(operation["responses"])
                assert ("401" in operation["responses"]) == (401 in seen)
