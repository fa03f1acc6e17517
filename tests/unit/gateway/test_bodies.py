"""What a body may cost before it is parsed: nesting, against a scan by hand, and bytes of all bodies in memory."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.gateway.fake_triton import FakeTriton
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import GatewayProcess
from throughline.gateway.bodies import BodyBudget, deeper_than
from throughline.gateway.errors import ApiError

CHAT: dict[str, Any] = {"model": "lab", "messages": [{"role": "user", "content": "Hi"}]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=30,
)


def depth_by_hand(text: str) -> int:
    """Walks the text byte by byte, as a parser does."""
    depth = deepest = 0
    inside = escaped = False
    for character in text:
        if inside:
            inside = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            inside = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


@given(JSON, st.booleans())
def test_depth_is_the_parsers(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    found = depth_by_hand(text)
    assert not deeper_than(text.encode(), found)
    if found:
        assert deeper_than(text.encode(), found - 1)


@pytest.mark.parametrize(
    ("text", "deep"),
    [
        ("[" * 11, True),
        ("[" * 11 + "]" * 11, True),
        ("[]" * 100_000, False),
        ("[" * 10 + "]" * 10, False),
        ('{"a":' * 11 + "1" + "}" * 11, True),
        ('["' + "[" * 1000 + '"]', False),
        ('["\\"' + "[" * 1000 + '\\\\"]', False),
        ("[]]]][[[[[" * 3, False),
        ("", False),
    ],
)
def test_depth(text: str, deep: bool) -> None:
    assert deeper_than(text.encode(), 10) is deep


def test_the_largest_body_is_looked_at_quickly() -> None:
    worst = [
        b"[]" * 2**21,
        b"[" * 2**22,
        b'["a"],' * 700_000,
        b"[" * 2**21 + b"]" * 2**21,
        b'"' * 2**22,
        b'"\\' * 2**21,
    ]
    for body in worst:
        begun = time.perf_counter()
        deeper_than(body, 64)
        # A tenth of a second for 4 MiB; a scan that is quadratic would take hours.
        assert time.perf_counter() - begun < 5


def test_a_deep_body_is_refused_and_one_at_the_limit_is_not(
    make_spec: Callable[..., GatewaySpec], triton: FakeTriton
) -> None:
    def nested(levels: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(levels):
            value = {"a": value}
        return {**CHAT, "metadata": value}

    with GatewayProcess(make_spec(limits={"max_body_depth": 20})) as process:
        url = f"{process.url}/v1/chat/completions"
        assert httpx.post(url, json=nested(19)).status_code == 200
        refused = httpx.post(url, json=nested(20))
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "invalid_json")
    assert error["message"] == "The request body is nested too deeply: beyond 20 levels."


def test_large_bodies_do_not_keep_small_ones_out() -> None:
    budget = BodyBudget(1000)
    large = [budget.hold() for _ in range(4)]
    for hold in large:
        hold.add(250)
    small = budget.hold()
    small.add(100)
    small.add(100)
    for hold in (small, large[0]):
        with pytest.raises(ApiError):
            hold.add(1)
    for hold in (small, *large):
        hold.release()
    assert (budget.held, budget.bodies) == (0, 0)
    large[0].add(5000)


def test_bytes_of_all_bodies(make_spec: Callable[..., GatewaySpec], triton: FakeTriton) -> None:
    body = json.dumps({**CHAT, "user": "x" * 3000}).encode()
    with GatewayProcess(make_spec(limits={"max_unread_bytes": 4000})) as process:
        url = f"{process.url}/v1/chat/completions"
        host, port = process.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            slow.sendall(head.encode() + body[:-1])
            # Its bytes may still be on their way.
            deadline = time.monotonic() + 10
            while (refused := httpx.post(url, content=body)).is_success and time.monotonic() < deadline:
                pass
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            assert refused.headers["retry-after"] == "1"
            # What is small fits beside it.
            assert httpx.post(url, json=CHAT).status_code == 200
            slow.sendall(body[-1:])
            assert slow.recv(20).startswith(b"HTTP/1.1 200")
        # They count no more, and a body beyond the limit of all passes alone.
        large = json.dumps({**CHAT, "user": "x" * 9000}).encode()
        assert [httpx.post(url, content=large).status_code for _ in range(3)] == [200] * 3
