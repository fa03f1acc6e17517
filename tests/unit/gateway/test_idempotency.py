"""`Idempotency-Key`: repetitions get the first answer, and the engine runs once."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.unit.gateway.fake_triton import Fail, FakeTriton, Say, Seen, say
from tests.unit.gateway.key_stores import any_server, opened, server
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import GatewayProcess
from throughline.gateway.keys import KeyLimits, Secret, new_key

CHAT = {"model": "lab", "messages": [{"role": "user", "content": "Hi"}]}
WAIT = 10.0
Post = Callable[..., httpx.Response]


@pytest.fixture(scope="module", params=("sqlite", "redis"))
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("idempotency")
    if request.param == "sqlite":
        yield f"sqlite:///{folder / 'keys.sqlite'}"
        return
    with server(any_server(), folder) as url:
        yield url


@pytest.fixture(scope="module")
def guarded(store: str, make_spec: Callable[..., GatewaySpec]) -> Iterator[GatewayProcess]:
    with GatewayProcess(make_spec(keys={"store": store, "max_kept_answer_bytes": 2000})) as process:
        yield process


@pytest.fixture
def secret(store: str, guarded: GatewayProcess) -> Secret:
    return make_key(store)


def make_key(store: str, **limits: int) -> Secret:
    key, secret = new_key(name="test", tenant="lab", limits=KeyLimits(**limits), created=1)

    async def create() -> None:
        async with opened(store) as found:
            await found.create(key)

    asyncio.run(create())
    return secret


@pytest.fixture
def post(guarded: GatewayProcess, secret: Secret) -> Post:
    def send(name: str, body: Any = CHAT, *, key: Secret = secret, path: str = "chat/completions") -> httpx.Response:
        headers = {"authorization": f"Bearer {key.reveal()}", "idempotency-key": name}
        return httpx.post(f"{guarded.url}/v1/{path}", content=json.dumps(body), headers=headers, timeout=20)

    return send


def runs(triton: FakeTriton) -> int:
    return sum(1 for seen in triton.seen if seen.id != "ready")


def test_a_repetition_gets_the_same_bytes(post: Post, triton: FakeTriton) -> None:
    first = post("order-1")
    assert first.status_code == 200 and "idempotent-replayed" not in first.headers
    for name in ("order-1", '"order-1"'):
        again = post(name)
        assert (again.status_code, again.content) == (200, first.content)
        assert again.headers["idempotent-replayed"] == "true"
    assert runs(triton) == 1
    assert post("order-2").json()["id"] != first.json()["id"]


def test_another_body_or_path_is_refused(post: Post, triton: FakeTriton) -> None:
    post("body-1")
    for other in (
        post("body-1", {**CHAT, "max_tokens": 5}),
        post("body-1", {"model": "lab", "prompt": "Hi"}, path="completions"),
    ):
        assert other.status_code == 422
        assert other.json()["error"]["code"] == "idempotency_key_reused"
        assert other.json()["error"]["param"] == "Idempotency-Key"
    assert runs(triton) == 1


def test_names_of_other_keys_are_other_names(post: Post, store: str, triton: FakeTriton) -> None:
    assert post("shared").json()["id"] != post("shared", key=make_key(store)).json()["id"]


def test_while_the_first_runs(post: Post, triton: FakeTriton) -> None:
    go, begun = threading.Event(), threading.Event()

    def script(_: Seen) -> Iterator[Say | Fail]:
        begun.set()
        go.wait(WAIT)
        yield Say("late", 1, "stop")

    triton.script = script
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, "slow")
        assert begun.wait(WAIT)
        refused = post("slow")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "idempotency_key_in_use")
        assert refused.headers["retry-after"] == "1"
        # One that comes shortly before the end waits for it.
        second = pool.submit(post, "slow")
        go.set()
        assert second.result().content == first.result().content
    assert runs(triton) == 1


def test_at_once_it_still_runs_once(post: Post, triton: FakeTriton) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = [found.result() for found in [pool.submit(post, "burst") for _ in range(6)]]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert runs(triton) == 1


def test_errors_and_streams_run_again(post: Post, triton: FakeTriton) -> None:
    triton.script = lambda _: iter([Fail(grpc.StatusCode.INTERNAL, "broken")])
    assert post("retry").status_code == 500
    triton.script = say("well")
    assert post("retry").json()["choices"][0]["message"]["content"] == "well"
    assert post("bad", {"model": "lab"}).status_code == 400
    assert post("bad").status_code == 200
    before = runs(triton)
    streams = [post("stream", {**CHAT, "stream": True}) for _ in range(2)]
    assert [stream.text.endswith("data: [DONE]\n\n") for stream in streams] == [True, True]
    assert runs(triton) == before + 2


def test_a_large_answer_is_not_kept(post: Post, triton: FakeTriton) -> None:
    triton.script = say("x" * 3000)
    assert post("large").json()["id"] != post("large").json()["id"]


def test_a_replay_takes_no_tokens(post: Post, store: str, triton: FakeTriton) -> None:
    key = make_key(store, tokens_per_minute=300)
    triton.script = lambda _: iter([Say("a", 150, "stop")])
    body = {**CHAT, "max_tokens": 200}
    assert post("paid", body, key=key).status_code == 200
    # Too few are left for another, which a repetition does not need.
    assert post("other", body, key=key).status_code == 429
    assert post("paid", body, key=key).status_code == 200


@pytest.mark.parametrize("name", ["a b", '"', '"a', "é", "x" * 256, 'a"b', "\\"])
def test_malformed_names(post: Post, guarded: GatewayProcess, secret: Secret, name: str) -> None:
    headers = {"authorization": f"Bearer {secret.reveal()}".encode(), "idempotency-key": name.encode()}
    answer = httpx.post(f"{guarded.url}/v1/chat/completions", json=CHAT, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


def test_without_keys_the_header_says_nothing(gateway: GatewayProcess, triton: FakeTriton) -> None:
    headers = {"idempotency-key": "open"}
    ids = {httpx.post(f"{gateway.url}/v1/chat/completions", json=CHAT, headers=headers).json()["id"] for _ in range(2)}
    assert len(ids) == 2


def test_an_answer_expires(make_spec: Callable[..., GatewaySpec], triton: FakeTriton, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/keys.sqlite"
    secret = make_key(url)
    with GatewayProcess(make_spec(keys={"store": url, "idempotency_seconds": 1})) as process:
        headers = {"authorization": f"Bearer {secret.reveal()}", "idempotency-key": "short"}

        def ask() -> str:
            answer = httpx.post(f"{process.url}/v1/chat/completions", json=CHAT, headers=headers)
            return str(answer.json()["id"])

        first, deadline = ask(), time.monotonic() + WAIT
        assert ask() == first
        while (again := ask()) == first and time.monotonic() < deadline:
            pass
        assert again != first
