"""Whole answers while the engine is silent or fails: they end in time, and nothing is said twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest

from tests.unit.gateway.fake_triton import Fail, FakeTriton, Say, Seen
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import GatewayProcess

CHAT: dict[str, Any] = {"model": "lab", "messages": [{"role": "user", "content": "Hi"}]}
LIMITS = {"first_token_seconds": 0.6, "inter_token_seconds": 0.3, "total_seconds": 60.0}
WAIT = 20.0


@pytest.fixture(scope="module", params=["request", "multiplexed"])
def gateway(make_spec: Callable[..., GatewaySpec], request: pytest.FixtureRequest) -> Iterator[GatewayProcess]:
    with GatewayProcess(make_spec(timeouts=LIMITS, upstream={"stream": request.param})) as process:
        yield process


def ask(gateway: GatewayProcess) -> tuple[httpx.Response, float]:
    begun = time.monotonic()
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=CHAT, timeout=WAIT)
    return answer, time.monotonic() - begun


@pytest.mark.parametrize("begun", [True, False])
def test_a_model_that_falls_silent_is_told_long_before_the_total_limit(
    gateway: GatewayProcess, triton: FakeTriton, begun: bool
) -> None:
    """What Triton 2.51 does with the requests of a model's process that was killed: nothing, for ever."""
    never = threading.Event()

    def script(seen: Seen) -> Iterator[Say]:
        if begun:
            yield Say("A", 1, is_due=True)
        seen.cancelled.wait(WAIT)
        never.set()

    triton.script = script
    answer, seconds = ask(gateway)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    assert seconds < 5
    # It is cancelled upstream too.
    assert never.wait(WAIT) and triton.seen[0].cancelled.is_set()


def test_an_engine_that_goes_on_may_take_longer_than_the_limits_for_a_message(
    gateway: GatewayProcess, triton: FakeTriton
) -> None:
    pause = threading.Event()

    def script(_: Seen) -> Iterator[Say]:
        for number in range(1, 8):
            pause.wait(0.15)
            yield Say(f"{number} ", number, is_due=True)
        yield Say("8", 8, "stop")

    triton.script = script
    answer, seconds = ask(gateway)
    assert answer.json()["choices"][0]["message"]["content"] == "1 2 3 4 5 6 7 8"
    assert answer.json()["usage"]["completion_tokens"] == 8
    assert seconds > LIMITS["first_token_seconds"]
    # A third of the limit for a message.
    assert triton.seen[0].parameters["stream_interval_ms"] == 100


def test_what_failed_half_way_is_sent_again_and_nothing_is_said_twice(
    gateway: GatewayProcess, triton: FakeTriton
) -> None:
    left = [1]

    def script(_: Seen) -> Iterator[Say | Fail]:
        yield Say("Hello ", 1, token_ids=(300,), log_probs=(-1.0,), is_due=True)
        if left[0]:
            left[0] -= 1
            yield Fail(grpc.StatusCode.UNAVAILABLE, "the engine failed and is being loaded again")
        yield Say("there", 2, "stop", token_ids=(301,), log_probs=(-2.0,))

    triton.script = script
    body = {**CHAT, "logprobs": True}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=WAIT).json()
    assert answer["choices"][0]["message"]["content"] == "Hello there"
    assert [token["logprob"] for token in answer["choices"][0]["logprobs"]["content"]] == [-1.0, -2.0]
    assert answer["usage"]["completion_tokens"] == 2
    assert len(triton.seen) == 2
