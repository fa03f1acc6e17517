"""The gateway under requests that nobody would write: each is answered in OpenAI's shape, and none is our fault.

python -m pytest tests/fuzz -m slow
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest

from tests.unit.gateway.conftest import engine_dir, make_spec, running_triton  # noqa: F401  # fixtures
from tests.unit.gateway.fake_triton import FakeTriton, say
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway.app import GatewayApp, create_app

pytestmark = pytest.mark.slow

REQUESTS = int(os.environ.get("THROUGHLINE_FUZZ_REQUESTS", "100000"))
TOGETHER = 16
# Once everything has been imported and the first buffers are there.
WARM = REQUESTS // 10
MOST_GROWTH_BYTES = 48 * 2**20
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"model": "lab", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3},
        {
            "model": "lab",
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "1", "content": "4"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
            "tools": [TOOL],
            "tool_choice": "auto",
            "stop": ["\n", "x"],
            "bad_words": ["y", " z"],
            "seed": 7,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 5,
            "presence_penalty": 0.1,
            "frequency_penalty": -0.1,
            "metadata": {"a": "b"},
        },
        {"model": "lab", "messages": [{"role": "user", "content": "Hi"}], "response_format": {"type": "json_object"}},
        {
            "model": "lab",
            "messages": [{"role": "user", "content": "Hi"}],
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        },
    ],
    "/v1/completions": [
        {"model": "lab", "prompt": "Hi", "max_tokens": 2},
        {"model": "lab", "prompt": [5, 6, 7], "max_tokens": 2, "stream": True, "min_tokens": 1, "ignore_eos": True},
        {"model": "lab", "prompt": ["Hi", "Ho"], "max_tokens": 2, "n": 2, "priority": -3, "stream": True},
    ],
    "/tokenize": [
        {"model": "lab", "prompt": "Hi", "return_token_strs": True},
        {"model": "lab", "messages": [{"role": "user", "content": "Hi"}], "tools": [TOOL]},
    ],
    "/detokenize": [{"model": "lab", "tokens": [5, 6, 7]}],
}
PATHS = [*BODIES, "/v1/models", "/v1/models/lab", "/health", "/metrics", "/openapi.json", "/", "/v1/nothing", "/%00"]
SCALARS: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**70),
    10**400,
    0.5,
    -0.0,
    1e308,
    "",
    "lab",
    "\x00",
    "\ud800",
    "<|im_end|>",
    "<tool_call>",
    "{{ 7 * 7 }}",
    "{% raise %}",
    "🙂" * 50,
    "a" * 5000,
    [],
    {},
    [[]],
    {"": {}},
]


@dataclass
class Answer:
    """What came back."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


async def call(app: GatewayApp, method: str, path: str, body: bytes, chunks: int, headers: list[Any]) -> Answer:
    """One exchange over ASGI; the client stays until it has its answer."""
    cuts = sorted({len(body) * part // chunks for part in range(1, chunks)})
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    events = [{"type": "http.request", "body": p, "more_body": n < len(parts)} for n, p in enumerate(parts, 1)]
    answer, done = Answer(), asyncio.Event()

    async def receive() -> Any:
        if events:
            return events.pop(0)
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(event: Any) -> None:
        if event["type"] == "http.response.start":
            answer.status, answer.headers = event["status"], dict(event["headers"])
        else:
            answer.body += event.get("body", b"")
            if not event.get("more_body"):
                done.set()

    await app({"type": "http", "method": method, "path": path, "headers": headers}, receive, send)
    return answer


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path into a JSON value."""
    found = [at]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*at, key))
    return found


def changed(value: Any, draw: random.Random) -> Any:
    """A copy with something at a random place that does not belong there."""
    copy = json.loads(json.dumps(value))
    at = draw.choice(places(copy))
    if not at:
        return draw.choice(SCALARS)
    inner = copy
    for key in at[:-1]:
        inner = inner[key]
    act = draw.randrange(4)
    if act == 0:
        del inner[at[-1]]
    elif act == 1 and isinstance(inner, dict):
        inner["".join(draw.choices(string.printable, k=draw.randrange(12)))] = draw.choice(SCALARS)
    elif act == 2 and isinstance(inner, list):
        inner += [inner[at[-1]]] * draw.randrange(200)
    else:
        inner[at[-1]] = draw.choice(SCALARS)
    return copy


def bytes_of(draw: random.Random, path: str) -> bytes:
    """A body: one that is right, one with a wrong value, one that is no JSON, or no text at all."""
    value = draw.choice(BODIES.get(path, [{}]))
    for _ in range(draw.choice((0, 1, 1, 1, 2, 5))):
        value = changed(value, draw) if isinstance(value, dict | list) else value
    body = json.dumps(value, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    act = draw.randrange(12)
    if act == 0:
        body = body[: draw.randrange(len(body) + 1)]
    elif act == 1:
        at = draw.randrange(len(body) + 1)
        body = body[:at] + draw.randbytes(draw.randrange(1, 9)) + body[at:]
    elif act == 2:
        depth = draw.choice((10, 63, 64, 65, 1000, 20_000))
        body = b'{"model":"lab","metadata":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
    elif act == 3:
        body = draw.randbytes(draw.randrange(200))
    return body


def random_headers(draw: random.Random, body: bytes) -> list[tuple[bytes, bytes]]:
    """What a client might send, and what none should."""
    found = [(b"content-length", str(len(body)).encode())] if draw.random() < 0.9 else []
    if draw.random() < 0.3:
        found.append((b"x-request-id", draw.randbytes(draw.randrange(40))))
    if draw.random() < 0.2:
        found.append((b"idempotency-key", draw.randbytes(draw.randrange(20))))
    if draw.random() < 0.2:
        found.append((b"authorization", b"Bearer " + draw.randbytes(draw.randrange(60))))
    return found


def check(answer: Answer, path: str, sent: bytes) -> None:
    """An answer is one of ours, whatever was sent."""
    assert 200 <= answer.status < 500, (path, sent[:500], answer.status, answer.body[:500])
    assert answer.headers[b"x-request-id"]
    if answer.status >= 400:
        error = json.loads(answer.body)["error"]
        assert error["message"] and error["type"], (path, sent[:500], answer.body[:500])
    elif answer.headers[b"content-type"].startswith(b"text/event-stream"):
        assert answer.body.endswith(b"data: [DONE]\n\n") and b'"error"' not in answer.body, (sent[:500], answer.body)


def test_whatever_is_sent_gets_an_answer(
    make_spec: Callable[..., GatewaySpec],  # noqa: F811
    running_triton: FakeTriton,  # noqa: F811
) -> None:
    running_triton.script = say("Hello there")
    app = create_app(make_spec(limits={"max_concurrent_requests": 64}))
    statuses: Counter[int] = Counter()
    rss: list[int] = []

    async def user(number: int) -> None:
        draw = random.Random(number)
        for _ in range(REQUESTS // TOGETHER):
            path = draw.choice(PATHS) if draw.random() < 0.1 else draw.choice(list(BODIES))
            method = draw.choice(("GET", "HEAD", "PUT", "DELETE", "\x00")) if draw.random() < 0.05 else "POST"
            sent = bytes_of(draw, path)
            answer = await call(app, method, path, sent, draw.randrange(1, 5), random_headers(draw, sent))
            if method != "HEAD":
                check(answer, path, sent)
            statuses[answer.status] += 1
            running_triton.seen.clear()
            if statuses.total() in (WARM, REQUESTS // TOGETHER * TOGETHER):
                rss.append(psutil.Process().memory_info().rss)

    async def everyone() -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        async def receive() -> Any:
            if not started.is_set():
                return {"type": "lifespan.startup"}
            await ended.wait()
            return {"type": "lifespan.shutdown"}

        async def send(event: Any) -> None:
            started.set()

        life = asyncio.create_task(app({"type": "lifespan"}, receive, send))
        await started.wait()
        await asyncio.gather(*(user(number) for number in range(TOGETHER)))
        ended.set()
        await life

    asyncio.run(everyone())
    print(f"{statuses.total()} requests: {dict(sorted(statuses.items()))}, grew {(rss[-1] - rss[0]) / 2**20:.1f} MiB")
    # Both what is right and what is wrong was among them.
    assert statuses[200] > REQUESTS / 20 and statuses[400] > REQUESTS / 10
    assert rss[-1] - rss[0] < MOST_GROWTH_BYTES
    assert app.admission.requests == 0 and app.admission.tokens == 0
