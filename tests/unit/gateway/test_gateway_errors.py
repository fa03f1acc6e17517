"""Every refusal: OpenAI's error shape, the right status, the field at fault, and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import openai
import pytest

from tests.unit.gateway.fake_triton import Fail, FakeTriton, Say, Seen, say
from tests.unit.gateway.openai_errors import error_of
from throughline.gateway import GatewayProcess

CHAT = {"model": "lab", "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"type": "function", "function": {"name": "find"}}


def post(gateway: GatewayProcess, body: Any, path: str = "chat/completions") -> httpx.Response:
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    return httpx.post(f"{gateway.url}/v1/{path}", content=content, timeout=20)


@pytest.mark.parametrize(
    ("body", "code", "param", "message"),
    [
        (b"{not json", "invalid_json", None, "not valid JSON"),
        # A field at fault, and no JSON or no UTF-8 behind it.
        (b'{"model": "lab", "messages": 3, oops', "invalid_json", None, "not valid JSON"),
        (b'{"model": "lab", "temperature": "warm", "user": "\xff"}', "invalid_json", None, "not valid"),
        (b'{"model": "lab", "messages": 3, "user": ' + b"[" * 100_000, "invalid_json", None, "nested too deeply"),
        (b'{"model": "\xff"}', "invalid_json", None, "not valid"),
        (b'{"metadata": ' + b'{"a": ' * 100_000, "invalid_json", None, "nested too deeply"),
        (b"", "invalid_json", None, "not valid JSON"),
        (b"[]", "invalid_type", None, "Expected `object`"),
        ({**CHAT, "max_token": 5}, "unknown_parameter", "max_token", "did you mean 'max_tokens'?"),
        ({"model": "lab"}, "missing_required_parameter", "messages", "Missing required field 'messages'"),
        ({**CHAT, "messages": []}, "invalid_value", "messages", "length >= 1"),
        ({**CHAT, "max_tokens": -1}, "invalid_value", "max_tokens", "seen: -1"),
        ({**CHAT, "max_tokens": 0}, "invalid_value", "max_tokens", ">= 1"),
        ({**CHAT, "temperature": "hot"}, "invalid_value", "temperature", "seen: 'hot'"),
        ({**CHAT, "top_p": 0}, "invalid_value", "top_p", "> 0"),
        ({**CHAT, "n": 9}, "too_many_choices", "n", "a request may have 8 choices"),
        ({**CHAT, "n": 0}, "invalid_value", "n", "0"),
        ({**CHAT, "logprobs": True, "top_logprobs": 3}, "unsupported_parameter", "top_logprobs", "no alternatives"),
        ({**CHAT, "top_logprobs": 0}, "invalid_value", "top_logprobs", "needs 'logprobs'"),
        ({**CHAT, "logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs", "<= 20"),
        ({**CHAT, "response_format": {"type": "xml"}}, "invalid_value", "response_format.type", "json_schema"),
        ({**CHAT, "response_format": {"type": "regex"}}, "invalid_value", "response_format.regex", "a string"),
        (
            {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "invalid_value",
            "response_format.json_schema.schema",
            "an object",
        ),
        (
            {**CHAT, "tools": [TOOL], "response_format": {"type": "json_object"}},
            "unsupported_parameter",
            "response_format",
            "not beside 'tools'",
        ),
        (
            {**CHAT, "tools": [TOOL], "parallel_tool_calls": False},
            "unsupported_parameter",
            "parallel_tool_calls",
            "alone",
        ),
        ({**CHAT, "stream_options": {}}, "invalid_value", "stream_options", "'stream': true"),
        ({**CHAT, "min_tokens": 9, "max_tokens": 4}, "invalid_value", "min_tokens", "(9)"),
        ({**CHAT, "tool_choice": "required"}, "invalid_value", "tool_choice", "needs 'tools'"),
        ({**CHAT, "tools": [{"type": "x"}]}, "invalid_value", "tools[0]", "function"),
        (
            {**CHAT, "tools": [TOOL], "tool_choice": {"function": {"name": "y"}}},
            "invalid_value",
            "tool_choice",
            "'y'",
        ),
        (
            {**CHAT, "messages": [{"role": "user"}]},
            "invalid_value",
            "messages[0].content",
            "Missing 'messages[0].content'",
        ),
        (
            {**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "invalid_value",
            "messages[0].content[0].type",
            "image_url",
        ),
        ({**CHAT, "messages": [{"role": "x", "content": ""}]}, "invalid_value", "messages[0].role", "'x'"),
    ],
)
def test_bad_chat_request(
    gateway: GatewayProcess, triton: FakeTriton, body: Any, code: str, param: str | None, message: str
) -> None:
    response = post(gateway, body)
    error = error_of(response)
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert (error["code"], error["param"]) == (code, param)
    assert message in error["message"]
    assert triton.seen == []


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ("", "prompt"),
        ([], "prompt"),
        ([1, 5000], "prompt[1]"),
        ([True], "prompt[0]"),
        (["a", ""], "prompt[1]"),
        (["a", [1]], "prompt[1]"),
        ([[1], [5000]], "prompt[1][0]"),
        (["a"] * 9, "prompt"),
    ],
)
def test_bad_completion_prompt(gateway: GatewayProcess, prompt: Any, param: str) -> None:
    response = post(gateway, {"model": "lab", "prompt": prompt}, "completions")
    assert (response.status_code, error_of(response)["param"]) == (400, param)


def test_unknown_model_lists_the_known(client: openai.OpenAI, triton: FakeTriton) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.code == "model_not_found"
    assert "'gpt-4'" in caught.value.message
    assert "lab" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/model")


def test_context_length_names_both_numbers(gateway: GatewayProcess, triton: FakeTriton) -> None:
    prompt = [5] * 200
    asked = post(gateway, {"model": "lab", "prompt": prompt, "max_tokens": 57}, "completions")
    error = error_of(asked)
    assert (asked.status_code, error["code"], error["param"]) == (
        400,
        "context_length_exceeded",
        "max_tokens",
    )
    assert "256" in error["message"]
    assert "257" in error["message"]
    full = error_of(post(gateway, {"model": "lab", "prompt": [5] * 256}, "completions"))
    assert (full["code"], full["param"]) == ("context_length_exceeded", "prompt")
    assert "256" in full["message"]
    long = post(gateway, {**CHAT, "messages": [{"role": "user", "content": "word " * 20_000}]})
    assert error_of(long)["code"] == "context_length_exceeded"
    assert post(gateway, {"model": "lab", "prompt": prompt, "max_tokens": 56}, "completions").is_success


@pytest.mark.parametrize("chunked", [False, True])
def test_body_too_large(gateway: GatewayProcess, chunked: bool) -> None:
    body = b'{"x": "' + b"x" * (5 * 2**20) + b'"}'

    def parts() -> Iterator[bytes]:
        yield body

    response = httpx.post(f"{gateway.url}/v1/completions", content=parts() if chunked else body, timeout=20)
    assert response.status_code == 413
    assert str(4 * 2**20) in error_of(response)["message"]


def test_paths_and_methods(gateway: GatewayProcess) -> None:
    unknown = httpx.post(f"{gateway.url}/v1/chat", json={})
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "unknown_url")
    wrong = httpx.get(f"{gateway.url}/v1/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    head = httpx.head(f"{gateway.url}/v1/models")
    assert (head.status_code, head.content) == (200, b"")


def test_request_id(gateway: GatewayProcess, triton: FakeTriton) -> None:
    url = f"{gateway.url}/v1/chat/completions"
    mine = httpx.post(url, json=CHAT, headers={"x-request-id": "trace-1"})
    assert mine.headers["x-request-id"] == "trace-1"
    assert triton.seen[0].id == "trace-1"
    odd = httpx.post(url, json=CHAT, headers={"x-request-id": "a b"})
    assert odd.headers["x-request-id"].startswith("req-")
    assert error_of(httpx.get(url, headers={"x-request-id": "trace-2"}))
    assert httpx.get(url, headers={"x-request-id": "trace-2"}).headers["x-request-id"] == "trace-2"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "code", "details"),
    [
        (503, grpc.StatusCode.UNAVAILABLE, "the model is being unloaded"),
        (503, grpc.StatusCode.INTERNAL, "Request for unknown model: 'lab' has no available versions"),
        (400, grpc.StatusCode.INVALID_ARGUMENT, "input_ids: odd"),
        (500, grpc.StatusCode.INTERNAL, "out of memory"),
        (504, grpc.StatusCode.DEADLINE_EXCEEDED, ""),
    ],
)
def test_engine_errors_before_the_first_token(
    gateway: GatewayProcess,
    triton: FakeTriton,
    stream: bool,
    status: int,
    code: grpc.StatusCode,
    details: str,
) -> None:
    triton.script = lambda _: iter([Fail(code, details)])
    response = post(gateway, {**CHAT, "stream": stream})
    error = error_of(response)
    assert response.status_code == status
    assert ("retry-after" in response.headers) == (status == 503)
    if status in (400, 500):
        assert details in error["message"]


def test_engine_error_inside_a_stream_is_its_last_event(client: openai.OpenAI, triton: FakeTriton) -> None:
    def script(_: Seen) -> Iterator[Say | Fail]:
        yield Say("Half", 1)
        yield Fail(grpc.StatusCode.INTERNAL, "the engine failed")

    triton.script = script
    stream = client.chat.completions.create(model="lab", messages=[{"role": "user", "content": "Hi"}], stream=True)
    text = ""
    with pytest.raises(openai.APIError, match="the engine failed"):
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert text == "Half"


def test_stream_without_an_end_is_a_gateway_error(gateway: GatewayProcess, triton: FakeTriton) -> None:
    triton.script = lambda _: iter([])
    response = post(gateway, CHAT)
    assert (response.status_code, error_of(response)["code"]) == (502, "upstream_protocol")


def test_triton_away_and_back(gateway: GatewayProcess, triton: FakeTriton) -> None:
    assert httpx.get(f"{gateway.url}/health/ready").status_code == 200
    triton.stop()
    try:
        response = post(gateway, CHAT)
        assert (response.status_code, error_of(response)["code"]) == (503, "upstream_unavailable")
        ready = httpx.get(f"{gateway.url}/health/ready")
        assert (ready.status_code, error_of(ready)["message"]) == (503, "Not ready: lab.")
        assert httpx.get(f"{gateway.url}/health").json() == {"status": "ok"}
    finally:
        triton.start()
    transport = httpx.HTTPTransport(retries=0)
    with httpx.Client(transport=transport, timeout=20) as client:
        # It reconnects within half a second; each try waits for its own answer.
        answers = (client.post(f"{gateway.url}/v1/chat/completions", json=CHAT) for _ in range(5000))
        assert any(answer.is_success for answer in answers)


def test_model_not_loaded(gateway: GatewayProcess, triton: FakeTriton) -> None:
    triton.ready = False
    # As Triton 2.51 answers for a model that is being loaded or was unloaded.
    gone = "Request for unknown model: 'lab-engine' has no available versions"
    triton.script = lambda _: iter([Fail(grpc.StatusCode.INTERNAL, gone)])
    ready = httpx.get(f"{gateway.url}/health/ready")
    assert (ready.status_code, error_of(ready)["message"]) == (503, "Not ready: lab.")
    for stream in (False, True):
        response = post(gateway, {**CHAT, "stream": stream})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert error_of(response)["type"] == "server_error"
    triton.ready = True
    triton.script = say("back")
    assert httpx.get(f"{gateway.url}/health/ready").status_code == 200
    assert post(gateway, CHAT).json()["choices"][0]["message"]["content"] == "back"
