"""Requests that are sent again, the budget that bounds them, and the breaker that stops them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import openai
import pytest

from tests.unit.gateway.fake_triton import Fail, FakeTriton, Say, Seen
from throughline.contracts.gateway import GatewaySpec, UpstreamSettings
from throughline.gateway import GatewayProcess
from throughline.gateway.errors import ApiError, bad_request, timed_out, unavailable
from throughline.gateway.resilience import Guard

USER: Any = [{"role": "user", "content": "Hi"}]
AWAY = unavailable("away")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def guard(clock: Clock | None = None, **settings: Any) -> Guard:
    return Guard(UpstreamSettings(**settings), clock=clock or Clock(), draw=lambda: 0.5)


def test_pauses_double_and_end() -> None:
    found = guard()
    assert [found.pause(AWAY, attempt) for attempt in range(3)] == [0.05, 0.1, None]
    assert found.retries == 2


def test_jitter_spreads_the_pauses() -> None:
    least, most = (Guard(UpstreamSettings(), draw=lambda share=share: share) for share in (0.0, 1.0))
    assert (least.pause(AWAY, 0), most.pause(AWAY, 0)) == (0.025, pytest.approx(0.075))


@pytest.mark.parametrize(
    "error", [bad_request("no"), timed_out("late"), ApiError(500, "broken", code="upstream_error")]
)
def test_only_an_engine_that_is_away_is_asked_again(error: ApiError) -> None:
    assert guard().pause(error, 0) is None


def test_retries_are_a_tenth_of_the_traffic_in_the_long_run() -> None:
    found = guard(breaker_failures=1000)
    retried = 0
    for number in range(10_000):
        # Every third request fails.
        if number % 3 == 0:
            found.failed(AWAY)
            retried += found.pause(AWAY, 0) is not None
        else:
            found.succeeded()
    assert retried <= 1_000


def test_the_breaker_opens_lets_one_through_and_closes() -> None:
    clock = Clock()
    found = guard(clock, breaker_failures=3, breaker_seconds=2.0)
    for _ in range(3):
        found.admit()
        found.failed(AWAY)
    with pytest.raises(ApiError, match="3 requests in a row") as caught:
        found.admit()
    assert (caught.value.status, caught.value.retry_after) == (503, 2.0)
    clock.now = 2.0
    found.admit()
    # Until that one has told, nobody else passes.
    with pytest.raises(ApiError):
        found.admit()
    found.failed(AWAY)
    clock.now = 4.0
    found.admit()
    found.succeeded()
    found.admit()
    assert not found.is_open


def test_errors_of_the_request_do_not_open_it() -> None:
    found = guard(breaker_failures=2)
    for _ in range(5):
        found.failed(bad_request("no"))
    found.failed(AWAY)
    found.succeeded()
    found.failed(AWAY)
    found.admit()


@pytest.fixture
def gateway(make_spec: Callable[..., GatewaySpec]) -> Iterator[GatewayProcess]:
    settings = UpstreamSettings(breaker_failures=4, breaker_seconds=0.2)
    with GatewayProcess(make_spec(upstream=settings)) as process:
        yield process


@pytest.fixture
def client(gateway: GatewayProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=20)


def failing(times: int, *, after_a_token: bool = False) -> Callable[[Seen], Iterator[Say | Fail]]:
    left = [times]

    def script(_: Seen) -> Iterator[Say | Fail]:
        if left[0]:
            left[0] -= 1
            if after_a_token:
                yield Say("A", 1)
            yield Fail(grpc.StatusCode.UNAVAILABLE, "restarting")
        yield Say("Hello", 1, "stop")

    return script


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_has_shown_nothing_is_sent_again(
    client: openai.OpenAI, gateway: GatewayProcess, triton: FakeTriton, stream: bool
) -> None:
    triton.script = failing(2)
    answer: Any = client.chat.completions.create(model="lab", messages=USER, stream=stream)
    parts = (
        [chunk.choices[0].delta.content or "" for chunk in answer] if stream else [answer.choices[0].message.content]
    )
    assert "".join(parts) == "Hello"
    assert len(triton.seen) == 3
    # The pauses between the tries are taken from the request's time.
    left = [seen.parameters["timeout"] for seen in triton.seen]
    assert left[0] - left[1] >= 25_000 and left[1] - left[2] >= 50_000
    assert 'throughline_upstream_retries_total{model_name="lab"} 2.0' in httpx.get(f"{gateway.url}/metrics").text


def test_a_stream_that_has_begun_is_not(client: openai.OpenAI, triton: FakeTriton) -> None:
    triton.script = failing(1, after_a_token=True)
    with pytest.raises(openai.APIError, match="not available"):
        list(client.chat.completions.create(model="lab", messages=USER, stream=True))
    assert len(triton.seen) == 1


def test_a_deployment_that_fails_and_fails_is_left_alone_and_found_again(
    client: openai.OpenAI, gateway: GatewayProcess, triton: FakeTriton
) -> None:
    triton.script = failing(10_000)
    asked = []
    for _ in range(6):
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="lab", messages=USER)
        assert caught.value.status_code == 503 and int(caught.value.response.headers["retry-after"]) >= 1
        asked.append(len(triton.seen))
    # Three times for the first, once or more until four in a row have failed, and then none, within the pause.
    assert asked[0] == 3 and asked[-1] <= 6
    assert 'throughline_circuit_breaker_open{model_name="lab"} 1.0' in httpx.get(f"{gateway.url}/metrics").text
    triton.script = failing(0)
    for _ in range(1000):
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json={"model": "lab", "messages": USER}, timeout=20)
        if answer.status_code == 200:
            break
    assert answer.status_code == 200
    assert client.chat.completions.create(model="lab", messages=USER).choices


def test_every_answer_names_what_answered(client: openai.OpenAI, gateway: GatewayProcess, triton: FakeTriton) -> None:
    body = {"model": "lab", "messages": USER}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=20)
    assert answer.headers["x-engine-digest"] == "0123456789abcdef"
    assert answer.headers["x-throughline-version"]
    unknown = httpx.post(f"{gateway.url}/v1/chat/completions", json={**body, "model": "x"}, timeout=20)
    assert unknown.headers["x-throughline-version"] and "x-engine-digest" not in unknown.headers
