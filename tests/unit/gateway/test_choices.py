"""Several choices of one request, and several prompts: indices, seeds, usage, limits, failures, clients that leave."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import openai
import pytest

from tests.unit.gateway.fake_triton import Fail, FakeTriton, Say, Seen, say
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import GatewayProcess

USER: Any = [{"role": "user", "content": "Hi"}]
CHAT: Any = {"model": "lab", "messages": USER}
WAIT = 10


def seeded(seen: Seen) -> Iterator[Say | Fail]:
    """Says its seed, in as many tokens as it is large."""
    seed = seen.inputs["seed"] % 100
    for number in range(1, seed + 1):
        yield Say(f"{seed} ", number, "length" if number == seed else "")


def test_choices_of_a_chat_take_the_next_seeds(client: openai.OpenAI, triton: FakeTriton) -> None:
    triton.script = seeded
    answer = client.chat.completions.create(model="lab", messages=USER, n=3, seed=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.message.content for choice in answer.choices] == ["2 " * 2, "3 " * 3, "4 " * 4]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.usage
    prompt = len(triton.seen[0].prompt)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, 2 + 3 + 4)
    assert len({seen.id for seen in triton.seen}) == 3


def test_without_a_seed_none_is_sent(client: openai.OpenAI, triton: FakeTriton) -> None:
    answer = client.chat.completions.create(model="lab", messages=USER, n=2)
    assert [choice.message.content for choice in answer.choices] == ["Hello there"] * 2
    assert [seen.inputs.get("seed") for seen in triton.seen] == [None, None]


def test_chunks_of_a_stream_say_whose_they_are(client: openai.OpenAI, triton: FakeTriton) -> None:
    """Each choice goes on only when another has spoken, so that a gateway that runs them in turn would hang."""
    meet = threading.Barrier(3, timeout=WAIT)

    def script(seen: Seen) -> Iterator[Say | Fail]:
        seed = seen.inputs["seed"]
        for number in range(1, seed + 1):
            if number < 5:
                meet.wait()
            yield Say(f"{seed}.{number} ", number, "stop" if number == seed else "")

    triton.script = script
    stream = client.chat.completions.create(
        model="lab", messages=USER, n=3, seed=5, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    for index in range(3):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        seed = 5 + index
        assert mine[0].delta.role == "assistant"
        assert "".join(item.delta.content or "" for item in mine) == "".join(f"{seed}.{k} " for k in range(1, seed + 1))
        assert [item.finish_reason for item in mine] == [None] * (len(mine) - 1) + ["stop"]
    order = [chunk.choices[0].index for chunk in chunks]
    assert order != sorted(order)
    assert last.usage and last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (len(triton.seen[0].prompt), 5 + 6 + 7)


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_of_a_completion(client: openai.OpenAI, triton: FakeTriton, stream: bool) -> None:
    def script(seen: Seen) -> Iterator[Say | Fail]:
        yield Say(f"{seen.prompt}{seen.inputs['seed']}", 1, "stop")

    triton.script = script
    prompts = [[5, 6], [7, 8, 9]]
    answer: Any = client.completions.create(model="lab", prompt=prompts, n=2, seed=1, best_of=2, stream=stream)
    texts: dict[int, str] = {}
    for choice in (item for chunk in answer for item in chunk.choices) if stream else answer.choices:
        texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert texts == {0: "[5, 6]1", 1: "[5, 6]2", 2: "[7, 8, 9]1", 3: "[7, 8, 9]2"}
    if not stream:
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 4)


def test_calls_of_all_choices_have_ids_of_their_own(client: openai.OpenAI, triton: FakeTriton) -> None:
    triton.script = say('<tool_call>{"name": "find", "arguments": {}}</tool_call>' * 2)
    tools: Any = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
    answer = client.chat.completions.create(model="lab", messages=USER, n=2, tools=tools)
    calls = [call for choice in answer.choices for call in choice.message.tool_calls or []]
    assert len({call.id for call in calls}) == 4
    assert {choice.finish_reason for choice in answer.choices} == {"tool_calls"}


class OneFails:
    """The choice with the odd seed fails, once the other is under way; that one goes on until it is cancelled."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._other = threading.Event()

    def __call__(self, seen: Seen) -> Iterator[Say | Fail]:
        if seen.inputs["seed"] % 2:
            for number in range(self._first):
                yield Say("x", number + 1)
            self._other.wait(WAIT)
            yield Fail(grpc.StatusCode.INTERNAL, "broken")
        yield Say("y", 1)
        self._other.set()
        seen.cancelled.wait(WAIT)


def test_a_failure_is_the_answer_and_ends_the_others(gateway: GatewayProcess, triton: FakeTriton) -> None:
    triton.script = OneFails(0)
    response = httpx.post(f"{gateway.url}/v1/chat/completions", json={**CHAT, "n": 2, "seed": 2}, timeout=20)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "upstream_error")
    assert all(seen.cancelled.wait(WAIT) for seen in triton.seen) and len(triton.seen) == 2


def test_a_failure_in_a_stream_is_its_last_event(client: openai.OpenAI, triton: FakeTriton) -> None:
    triton.script = OneFails(1)
    with pytest.raises(openai.APIError, match="broken"):
        list(client.chat.completions.create(model="lab", messages=USER, n=2, seed=2, stream=True))
    assert all(seen.cancelled.wait(WAIT) for seen in triton.seen) and len(triton.seen) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_all(gateway: GatewayProcess, triton: FakeTriton, stream: bool) -> None:
    begun = threading.Semaphore(0)

    def script(seen: Seen) -> Iterator[Say | Fail]:
        yield Say("A", 1)
        begun.release()
        seen.cancelled.wait(WAIT)

    triton.script = script
    body = json.dumps({**CHAT, "n": 3, "stream": stream}).encode()
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert all(begun.acquire(timeout=WAIT) for _ in range(3))
    assert all(seen.cancelled.wait(WAIT) for seen in triton.seen) and len(triton.seen) == 3


def test_every_choice_counts_in_the_engine(make_spec: Callable[..., GatewaySpec], triton: FakeTriton) -> None:
    spec = make_spec(limits={"max_concurrent_requests": 3, "max_concurrent_tokens": 1000, "max_choices": 4})
    begun, go = threading.Semaphore(0), threading.Event()

    def script(_: Seen) -> Iterator[Say | Fail]:
        begun.release()
        go.wait(WAIT)
        yield Say("A", 1, "stop")

    triton.script = script
    with GatewayProcess(spec) as gateway, ThreadPoolExecutor(1) as pool:

        def ask(**fields: Any) -> httpx.Response:
            return httpx.post(f"{gateway.url}/v1/chat/completions", json={**CHAT, **fields}, timeout=20)

        # Alone, a request may exceed the limits.
        running = pool.submit(ask, n=4, max_tokens=100)
        assert all(begun.acquire(timeout=WAIT) for _ in range(4))
        refused = ask(max_tokens=1)
        go.set()
        assert running.result().is_success
        assert (refused.status_code, "4 requests are running, the limit is 3" in refused.text) == (429, True)
        assert ask(n=2, max_tokens=100).is_success
        assert ask(n=5).json()["error"]["code"] == "too_many_choices"


def test_the_cap_of_choices_counts_all_prompts(client: openai.OpenAI, triton: FakeTriton) -> None:
    with pytest.raises(openai.BadRequestError, match="4 prompts with 3 choices each") as caught:
        client.completions.create(model="lab", prompt=["a"] * 4, n=3)
    assert (caught.value.param, triton.seen) == ("prompt", [])
    with pytest.raises(openai.BadRequestError, match="best_of"):
        client.completions.create(model="lab", prompt="a", n=2, best_of=3)
