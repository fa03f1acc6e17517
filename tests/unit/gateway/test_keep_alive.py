"""Comments that keep a waiting stream open: the stock client passes over them, and errors come after them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import openai
import pytest

from tests.unit.gateway.fake_triton import Fail, FakeTriton, Say, Seen
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import GatewayProcess

USER: Any = [{"role": "user", "content": "Hi"}]
WAIT = 10
COMMENT = b": keep-alive\n\n"


class Listening(httpx.HTTPTransport):
    """Keeps what a stream brings and lets the script go on whenever two more comments have come."""

    def __init__(self) -> None:
        super().__init__()
        self.body = b""
        self.go = threading.Semaphore(0)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        return httpx.Response(response.status_code, headers=response.headers, stream=_Kept(self, response))


class _Kept(httpx.SyncByteStream):
    def __init__(self, kept: Listening, response: httpx.Response) -> None:
        self._kept, self._response = kept, response

    def __iter__(self) -> Iterator[bytes]:
        seen = 0
        for chunk in self._response.stream:  # type: ignore[union-attr]  # a client's own is always sync
            self._kept.body += chunk
            for _ in range(seen, self._kept.body.count(COMMENT) // 2):
                seen += 1
                self._kept.go.release()
            yield chunk

    def close(self) -> None:
        self._response.close()


@pytest.fixture(scope="module")
def patient(make_spec: Callable[..., GatewaySpec]) -> Iterator[GatewayProcess]:
    with GatewayProcess(make_spec(timeouts={"sse_keep_alive_seconds": 0.02})) as process:
        yield process


@pytest.fixture
def heard() -> Listening:
    return Listening()


@pytest.fixture
def client(patient: GatewayProcess, heard: Listening) -> Iterator[openai.OpenAI]:
    with httpx.Client(transport=heard) as http_client:
        yield openai.OpenAI(
            base_url=f"{patient.url}/v1", api_key="none", max_retries=0, timeout=WAIT, http_client=http_client
        )


def test_the_stock_client_passes_over_comments(client: openai.OpenAI, triton: FakeTriton, heard: Listening) -> None:
    def script(_: Seen) -> Iterator[Say | Fail]:
        assert heard.go.acquire(timeout=WAIT)
        yield Say("Hello", 1)
        assert heard.go.acquire(timeout=WAIT)
        yield Say(" there", 2, "stop")

    triton.script = script
    stream = client.chat.completions.create(model="lab", messages=USER, stream=True)
    chunks = [chunk.choices[0] for chunk in stream]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == "Hello there"
    assert chunks[-1].finish_reason == "stop"
    # Before the first token and between two, and each a block of its own.
    before, _, after = heard.body.partition(b"data: ")
    assert before == COMMENT * (len(before) // len(COMMENT)) and COMMENT in after
    assert heard.body.endswith(b"data: [DONE]\n\n")


def test_an_error_after_a_comment_is_the_last_event(
    client: openai.OpenAI, triton: FakeTriton, heard: Listening
) -> None:
    def script(_: Seen) -> Iterator[Say | Fail]:
        assert heard.go.acquire(timeout=WAIT)
        yield Fail(grpc.StatusCode.INTERNAL, "broken")

    triton.script = script
    with pytest.raises(openai.APIError, match="broken"):
        list(client.chat.completions.create(model="lab", messages=USER, stream=True))
    assert heard.body.startswith(COMMENT)


def test_an_answer_in_one_piece_has_none(client: openai.OpenAI, triton: FakeTriton, heard: Listening) -> None:
    answer = client.chat.completions.create(model="lab", messages=USER)
    assert answer.choices[0].message.content == "Hello there"
    assert heard.body.startswith(b"{")
