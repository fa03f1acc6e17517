"""Many requests on one gRPC stream to Triton: each gets its own answer, error, limit and end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import grpc
import httpx
import openai
import pytest

from tests.unit.gateway.fake_triton import MODEL, Fail, FakeTriton, Say, Seen
from throughline.contracts.engine import SamplingParams
from throughline.contracts.gateway import GatewaySpec, GatewayTimeouts, UpstreamSettings
from throughline.gateway import GatewayProcess
from throughline.gateway.errors import ApiError
from throughline.gateway.upstream import Ask, OwnContract, TokenStream, TritonUpstream
from throughline.gateway.upstream.shared import MOST_UNREAD, SharedStream

WAIT = 20.0
CONTRACT = OwnContract()


@pytest.fixture(scope="module")
def gateway(make_spec: Callable[..., GatewaySpec]) -> Iterator[GatewayProcess]:
    with GatewayProcess(make_spec(upstream={"stream": "multiplexed"})) as process:
        yield process


@pytest.fixture
def client(gateway: GatewayProcess, triton: FakeTriton) -> openai.OpenAI:
    """With a Triton that counts from here; a stream may be open from before."""
    triton.streams = 0
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=WAIT)


def ask(client: openai.OpenAI, text: str, *, stream: bool, **more: Any) -> str:
    answer: Any = client.completions.create(model="lab", prompt=text, stream=stream, **more)
    return "".join(chunk.choices[0].text for chunk in answer) if stream else str(answer.choices[0].text)


def echo(seen: Seen) -> Iterator[Say]:
    """The prompt's ids, a message each, however many there are."""
    for number, token in enumerate(seen.prompt, 1):
        yield Say(f"{token} ", number, "stop" if number == len(seen.prompt) else "")


def test_answers_find_their_way_though_requests_bear_the_same_id(client: openai.OpenAI, triton: FakeTriton) -> None:
    triton.script = echo
    same = {"extra_headers": {"x-request-id": "mine"}}

    def one(number: int) -> bool:
        text = f"ticket {number} " * (1 + number % 7)
        return ask(client, text, stream=bool(number % 2), **same) == ask(client, text, stream=False, **same)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(48)))
    assert triton.streams <= 1
    ids = {seen.id for seen in triton.seen}
    assert len(ids) == 96 and all(name.startswith("mine~") for name in ids)


def test_one_that_is_cancelled_is_stopped_and_the_others_go_on(client: openai.OpenAI, triton: FakeTriton) -> None:
    go = threading.Event()

    def script(seen: Seen) -> Iterator[Say]:
        yield Say("A", 1)
        (seen.cancelled if seen.inputs["max_tokens"] == 99 else go).wait(WAIT)
        yield Say("B", 2, "stop")

    triton.script = script
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(ask, client, "Hi", stream=bool(number % 2)) for number in range(4)]
        with client.completions.create(model="lab", prompt="Hi", max_tokens=99, stream=True) as stream:
            next(iter(stream))
        [left] = [seen for seen in triton.seen if seen.inputs["max_tokens"] == 99]
        assert left.cancelled.wait(WAIT)
        assert not any(seen.cancelled.is_set() for seen in triton.seen if seen is not left)
        go.set()
        assert [other.result() for other in others] == ["AB"] * 4
    assert triton.streams <= 1


def test_an_error_is_its_own_requests(client: openai.OpenAI, triton: FakeTriton) -> None:
    left = [1]

    def script(seen: Seen) -> Iterator[Say | Fail]:
        if seen.inputs["max_tokens"] == 99:
            yield Fail(grpc.StatusCode.INVALID_ARGUMENT, "max_tokens: no")
        if seen.inputs["max_tokens"] == 98:
            yield Fail(grpc.StatusCode.INTERNAL, "broken")
        if left[0]:
            left[0] -= 1
            yield Fail(grpc.StatusCode.UNAVAILABLE, "loading")
        yield Say("Hello", 1, "stop")

    triton.script = script
    with pytest.raises(openai.BadRequestError, match="refuses the request: max_tokens: no"):
        ask(client, "Hi", stream=False, max_tokens=99)
    with pytest.raises(openai.InternalServerError, match="The engine failed: broken"):
        ask(client, "Hi", stream=True, max_tokens=98)
    assert ask(client, "Hi", stream=False) == "Hello"
    assert len(triton.seen) == 4 and triton.streams <= 1


def test_a_stream_that_breaks_fails_all_of_it_typed_and_is_opened_again(
    gateway: GatewayProcess, client: openai.OpenAI, triton: FakeTriton
) -> None:
    begun = threading.Semaphore(0)

    def script(seen: Seen) -> Iterator[Say]:
        yield Say("A", 1)
        begun.release()
        seen.cancelled.wait(WAIT)

    triton.script = script
    body = {"model": "lab", "prompt": "Hi", "stream": True}
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(httpx.post, f"{gateway.url}/v1/completions", json=body, timeout=WAIT) for _ in range(6)]
        for _ in range(6):
            assert begun.acquire(timeout=WAIT)
        triton.stop()
        assert all('"code":"upstream_unavailable"' in answer.result().text for answer in answers)
    triton.script = echo
    triton.start()
    for _ in range(1000):
        answer = httpx.post(f"{gateway.url}/v1/completions", json={**body, "stream": False}, timeout=WAIT)
        if answer.status_code == 200:
            break
        assert answer.json()["error"]["code"] == "upstream_unavailable"
    assert answer.status_code == 200


def test_a_stream_that_nobody_needs_is_closed_and_one_opened_for_the_next(
    client: openai.OpenAI, triton: FakeTriton
) -> None:
    triton.ended = threading.Semaphore(0)
    assert ask(client, "Hi", stream=True) == ask(client, "Hi", stream=False) == "Hello there"
    before = triton.streams
    assert before <= 1 and triton.ended.acquire(timeout=WAIT)
    assert ask(client, "Hi", stream=True) == "Hello there"
    assert triton.streams == before + 1


def test_a_traced_request_has_a_stream_of_its_own(make_spec: Callable[..., GatewaySpec], triton: FakeTriton) -> None:
    tracing = {"endpoint": "http://127.0.0.1:9", "sample_ratio": 0.0}
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with GatewayProcess(make_spec(upstream={"stream": "multiplexed"}, tracing=tracing)) as process:
        for headers in ({}, {"traceparent": parent}):
            body = {"model": "lab", "prompt": "Hi"}
            answer = httpx.post(f"{process.url}/v1/completions", json=body, headers=headers, timeout=WAIT)
            assert answer.status_code == 200
    plain, traced = triton.seen
    assert (plain.is_shared, traced.is_shared) == (True, False)
    assert traced.metadata["traceparent"].split("-")[1] == parent.split("-")[1]


async def with_upstream(triton: FakeTriton, seconds: float, use: Callable[[TokenStream], Any]) -> Any:
    """Lets `use` do what it wants with a stream of 500 tokens at most, on a shared call."""
    upstream = TritonUpstream(f"127.0.0.1:{triton.port}", GatewayTimeouts(), UpstreamSettings(stream="multiplexed"))
    await upstream.open()
    request = Ask("one", [5, 6], "", SamplingParams(max_tokens=500), stream=True)
    tokens = upstream.start(MODEL, CONTRACT, request, seconds=seconds)
    try:
        tokens.send(CONTRACT.request(MODEL, request))
        return await use(tokens)
    finally:
        await upstream.finish(tokens)
        await upstream.close()


def test_what_takes_too_long_is_ended_here_and_there(triton: FakeTriton) -> None:
    def script(seen: Seen) -> Iterator[Say]:
        yield Say("A", 1)
        seen.cancelled.wait(WAIT)

    async def use(tokens: TokenStream) -> None:
        await tokens.read()
        with pytest.raises(ApiError, match="total limit") as caught:
            await tokens.read()
        assert caught.value.status == 504
        assert await asyncio.to_thread(triton.seen[0].cancelled.wait, WAIT)

    triton.script = script
    asyncio.run(with_upstream(triton, 0.3, use))


def test_one_that_is_not_read_ends_before_it_fills_the_memory(triton: FakeTriton) -> None:
    def script(seen: Seen) -> Iterator[Say]:
        for number in range(1, MOST_UNREAD + 3):
            yield Say("A", number)
        seen.cancelled.wait(WAIT)

    async def use(tokens: TokenStream) -> None:
        await tokens.read()
        assert await asyncio.to_thread(triton.seen[0].cancelled.wait, WAIT)
        with pytest.raises(ApiError) as caught:
            await tokens.read()
        assert caught.value.code == "client_too_slow"

    triton.script = script
    asyncio.run(with_upstream(triton, WAIT, use))


def test_a_stream_that_does_not_open_is_tried_ever_more_seldom() -> None:
    from grpc import aio
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    now = [0.0]
    opened: list[float] = []

    async def tries() -> None:
        # Nobody listens on a port that nothing is bound to.
        async with aio.insecure_channel("127.0.0.1:1", options=[("grpc.enable_http_proxy", 0)]) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

            def open_call() -> Any:
                opened.append(now[0])
                return stub.ModelStreamInfer()

            shared = SharedStream(open_call, aio.EOF, clock=lambda: now[0])
            for _ in range(20):
                call = shared.begin(service_pb2.ModelInferRequest(model_name=MODEL), timeout=WAIT)
                with pytest.raises((ApiError, aio.AioRpcError)):
                    await call.read()
                now[0] += 0.05

    asyncio.run(tries())
    # Looked at every 0.05 s.
    assert [later - earlier for earlier, later in pairwise(opened)] == pytest.approx([0.1, 0.2, 0.4], abs=0.06)
