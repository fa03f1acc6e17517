"""A streamed answer, put together by its client, is the whole answer: text, tool calls, log-probabilities, usage."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import httpx
import httpx2
import openai
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.streamed_text import decode
from tests.tiny import VOCAB_SIZE
from tests.unit.gateway.fake_triton import FakeTriton, Say, Seen
from tests.unit.gateway.test_tool_calls import TEXT
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway.app import GatewayApp, create_app
from throughline.vocabulary import Vocabulary

EXAMPLES = int(os.environ.get("THROUGHLINE_STREAM_EXAMPLES", "40"))
MESSAGES: Any = [{"role": "user", "content": "Hi"}]
TOOLS: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
END_ID = 2


class Chunks(httpx2.AsyncByteStream):
    """A body as a network might hand it on."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self.parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part


class InProcess(httpx2.AsyncBaseTransport):
    """The gateway without a network; `cuts` say where the next body is split, `body` is the last one."""

    def __init__(self, app: GatewayApp) -> None:
        self._app = app
        self.cuts: Sequence[int] = ()
        self.body = b""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        sent = [{"type": "http.request", "body": await request.aread(), "more_body": False}]
        start: dict[str, Any] = {}
        done = asyncio.Event()
        self.body = b""

        async def receive() -> Any:
            if not sent:
                await done.wait()
            return sent.pop() if sent else {"type": "http.disconnect"}

        async def send(event: Any) -> None:
            start.update(event)
            self.body += event.get("body", b"")
            if event["type"] == "http.response.body" and not event.get("more_body"):
                done.set()

        headers = [(name.lower(), value) for name, value in request.headers.raw]
        scope = {"type": "http", "method": request.method, "path": request.url.path, "headers": headers}
        await self._app(scope, receive, send)
        return httpx2.Response(start["status"], headers=start["headers"], stream=Chunks(self.parts()))

    def parts(self) -> list[bytes]:
        size = len(self.body)
        edges = sorted({0, size, *(cut % (size + 1) for cut in self.cuts)})
        return [self.body[start:end] for start, end in pairwise(edges)]


class Asker:
    """Asks for the same answer whole and as a stream."""

    def __init__(self, spec: GatewaySpec, triton: FakeTriton, runner: asyncio.Runner) -> None:
        self.triton, self.runner = triton, runner
        self.app = create_app(spec)
        self.transport = InProcess(self.app)
        self.vocabulary = Vocabulary.from_tokenizer(spec.models[0].engine_dir / "tokenizer.json")
        self.client = openai.AsyncOpenAI(
            base_url="http://gateway/v1",
            api_key="none",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=self.transport),
        )

    def play(self, messages: Sequence[Say], cuts: Sequence[int]) -> None:
        def script(_: Seen) -> Iterator[Say]:
            yield from messages

        self.triton.script = script
        self.triton.seen.clear()
        self.transport.cuts = cuts

    def both(self, create: Callable[..., Any], **fields: Any) -> tuple[Any, list[Any]]:
        """The whole answer and the chunks of the stream, as the stock client reads them."""

        async def ask() -> tuple[Any, list[Any]]:
            whole = await create(model="lab", max_tokens=99, **fields)
            options = {"include_usage": True}
            stream = await create(model="lab", max_tokens=99, stream=True, stream_options=options, **fields)
            return whole, [chunk async for chunk in stream]

        return self.runner.run(ask())

    def lines(self) -> list[Any]:
        """The chunks of the last stream as a client reads them that goes by lines of text."""
        response = httpx.Response(200, content=iter(self.transport.parts()))
        data = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        return [json.loads(item) for item in data[:-1]]


@pytest.fixture(scope="module", params=["request", "multiplexed"])
def asker(
    make_spec: Callable[..., GatewaySpec], running_triton: FakeTriton, request: pytest.FixtureRequest
) -> Iterator[Asker]:
    with asyncio.Runner() as runner:
        asker = Asker(make_spec(upstream={"stream": request.param}), running_triton, runner)
        runner.run(asker.app.models.open())
        yield asker
        runner.run(asker.app.models.close())


# What ends a line for some reader, what joins its neighbour, what is no character alone.
AWKWARD = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\n", "\r\n", "\0", "\x7f", "\ufeff", "\u202e"]
PLAIN = st.lists(
    st.characters(codec="utf-8")
    | st.sampled_from([*AWKWARD, "👩‍👩‍👧‍👦", "🏳️‍🌈", "e\u0301", "data: ", '"', "\\", "\ufffd"]),
    max_size=20,
).map("".join)
CUTS = st.lists(st.integers(0, 4000), max_size=12)


@st.composite
def spoken(draw: st.DrawFn, text: st.SearchStrategy[str]) -> list[Say]:
    """Messages that say a text, cut anywhere, with tokens that need not agree with the cuts."""
    whole = draw(text)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    reason = draw(st.sampled_from(("stop", "length")))
    messages, tokens = [], 0
    edges = [0, *cuts, len(whole)]
    for number, (start, end) in enumerate(pairwise(edges), 2):
        ids = draw(st.lists(st.integers(5, VOCAB_SIZE - 1), min_size=1, max_size=3))
        last = number == len(edges)
        if last and reason == "stop":
            ids.append(END_ID)
        tokens += len(ids)
        scores = tuple(-token / VOCAB_SIZE for token in ids)
        messages.append(Say(whole[start:end], tokens, reason if last else "", tuple(ids), scores))
    return messages


def joined(messages: Sequence[Say]) -> str:
    return "".join(message.text for message in messages)


def calls_of(chunks: Sequence[Any]) -> list[dict[str, Any]]:
    """Tool calls put together from their deltas."""
    calls: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            for delta in choice.delta.tool_calls or ():
                call = calls.setdefault(delta.index, {"id": delta.id, "type": delta.type, "name": "", "arguments": ""})
                call["name"] += delta.function.name or ""
                call["arguments"] += delta.function.arguments or ""
    assert list(calls) == list(range(len(calls)))
    return list(calls.values())


def check_ends(whole: Any, chunks: Sequence[Any]) -> None:
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons == [None] * (len(reasons) - 1) + [whole.choices[0].finish_reason]


@settings(max_examples=EXAMPLES)
@given(spoken(PLAIN), CUTS, st.booleans())
# Readers of lines take these for the end of one.
@example([Say("a\u2028b\u2029c\x85d", 1, "stop", (300,), (-1.0,))], [], False)
def test_a_chat(asker: Asker, messages: list[Say], cuts: list[int], scored: bool) -> None:
    asker.play(messages, cuts)
    whole, chunks = asker.both(asker.client.chat.completions.create, messages=MESSAGES, logprobs=scored or None)
    text = joined(messages)
    assert whole.choices[0].message.content == text
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == text
    said = [choice["delta"].get("content") or "" for chunk in asker.lines() for choice in chunk["choices"]]
    assert "".join(said) == text
    found = [
        token for chunk in chunks for choice in chunk.choices if choice.logprobs for token in choice.logprobs.content
    ]
    assert found == (whole.choices[0].logprobs.content if scored else [])
    check_ends(whole, chunks)


@settings(max_examples=EXAMPLES)
@given(spoken(PLAIN), CUTS, st.booleans())
# The engine holds back what may begin a stop string: its token came before its text.
@example([Say("", 1, "", (300,), (-1.0,)), Say("ab", 2, "length", (301,), (-1.0,))], [], True)
def test_a_text(asker: Asker, messages: list[Say], cuts: list[int], scored: bool) -> None:
    asker.play(messages, cuts)
    whole, chunks = asker.both(asker.client.completions.create, prompt="Hi", logprobs=0 if scored else None)
    text = joined(messages)
    assert whole.choices[0].text == text
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == text
    assert "".join(choice["text"] for chunk in asker.lines() for choice in chunk["choices"]) == text
    found = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
    for name in ("tokens", "token_logprobs", "text_offset"):
        streamed = [value for logprobs in found for value in getattr(logprobs, name)]
        assert streamed == (getattr(whole.choices[0].logprobs, name) if scored else [])
    if scored:
        pieces = [asker.vocabulary.bytes_of((token,)) for message in messages for token in message.token_ids]
        pieces = pieces[: len(whole.choices[0].logprobs.tokens)]
        places = [len(decode(b"".join(pieces[:count]))) for count in range(len(pieces))]
        assert whole.choices[0].logprobs.text_offset == places
    check_ends(whole, chunks)


@settings(max_examples=EXAMPLES)
@given(spoken(TEXT | PLAIN), CUTS)
def test_tool_calls(asker: Asker, messages: list[Say], cuts: list[int]) -> None:
    asker.play(messages, cuts)
    whole, chunks = asker.both(asker.client.chat.completions.create, messages=MESSAGES, tools=TOOLS)
    message = whole.choices[0].message
    assert calls_of(chunks) == [
        {"id": call.id.replace(whole.id[9:], chunks[0].id[9:]), "type": call.type, **call.function.model_dump()}
        for call in message.tool_calls or ()
    ]
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert said == (message.content or "")
    assert len(asker.lines()) == len(chunks)
    check_ends(whole, chunks)
