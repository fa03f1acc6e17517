"""API keys over HTTP: who gets in, what each key may use, the headers, what is given back however a request ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest

from tests.unit.gateway.fake_triton import Fail, FakeTriton, Say, Seen, say
from tests.unit.gateway.key_stores import any_server, opened, server
from tests.unit.gateway.openai_errors import error_of
from tests.waiting import until
from throughline.contracts.config import parse
from throughline.contracts.errors import ConfigError, GatewayError
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import GatewayProcess
from throughline.gateway.keys import ApiKey, KeyLimits, Secret, new_key

CHAT: Any = {"model": "lab", "messages": [{"role": "user", "content": "Hi"}]}
WAIT = 10.0
# So many that what a bucket gains while a test runs is told apart from what a request takes.
MANY = 1_000_000


class Guarded:
    """A gateway that wants keys, and the store that it asks."""

    def __init__(self, process: GatewayProcess, url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log

    def key(self, *, expires: int | None = None, priority: int = 0, **limits: int) -> tuple[ApiKey, Secret]:
        held = KeyLimits(**limits)
        made = new_key(name="test", tenant="lab", limits=held, created=1, expires=expires, priority=priority)
        self.do(lambda store: store.create(made[0]))
        return made

    def do(self, step: Callable[[Any], Any]) -> Any:
        async def run() -> Any:
            async with opened(self.url) as store:
                return await step(store)

        return asyncio.run(run())

    def post(self, secret: Secret | None, **fields: Any) -> httpx.Response:
        headers = {} if secret is None else {"authorization": f"Bearer {secret.reveal()}"}
        url = f"{self.process.url}/v1/chat/completions"
        return httpx.post(url, json={**CHAT, **fields}, headers=headers, timeout=20)

    def remaining(self, secret: Secret) -> int:
        """Tokens left, as a request for the list of models hears it."""
        headers = {"authorization": f"Bearer {secret.reveal()}"}
        answer = httpx.get(f"{self.process.url}/v1/models", headers=headers)
        return int(answer.headers["x-ratelimit-remaining-tokens"])


@pytest.fixture(scope="module", params=("sqlite", "redis"))
def guarded(
    request: pytest.FixtureRequest, make_spec: Callable[..., GatewaySpec], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    log = folder / "gateway.log"

    def run(url: str) -> Iterator[Guarded]:
        spec = make_spec(
            keys={"store": url, "lease_seconds": 1},
            # Beyond what an honest answer takes on a machine that is busy with other tests.
            timeouts={"first_token_seconds": 3, "inter_token_seconds": 1.5},
            limits={"max_concurrent_requests": 8},
            log_format="json",
        )
        with GatewayProcess(spec, log_path=log) as process:
            yield Guarded(process, url, log)

    if request.param == "sqlite":
        yield from run(f"sqlite:///{folder / 'keys.sqlite'}")
        return
    with server(any_server(), folder) as url:
        yield from run(url)


def test_every_route_with_a_model_wants_a_key_and_probes_do_not(guarded: Guarded, triton: FakeTriton) -> None:
    url = guarded.process.url
    for path in ("/v1/models", "/v1/models/lab"):
        assert httpx.get(url + path).status_code == 401
    for path in ("/v1/chat/completions", "/v1/completions"):
        assert httpx.post(url + path, json=CHAT).status_code == 401
    for path in ("/health", "/health/ready", "/metrics"):
        assert httpx.get(url + path).status_code == 200
    assert [seen.id for seen in triton.seen if seen.id != "ready"] == []


@pytest.mark.parametrize(
    "sent", ["", "Basic dXNlcjpwYXNz", "Bearer", "Bearer sk-other", "Bearer tl-", "Bearer tl-é", "x" * 5000]
)
def test_what_is_no_key_gets_openais_401(guarded: Guarded, sent: str) -> None:
    headers = {"authorization": sent.encode()} if sent else {}
    answer = httpx.get(f"{guarded.process.url}/v1/models", headers=headers)
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["type"]) == (401, "invalid_api_key", "invalid_request_error")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_unknown_revoked_and_expired_keys(guarded: Guarded, triton: FakeTriton) -> None:
    made, secret = guarded.key()
    assert guarded.post(secret).status_code == 200
    guarded.do(lambda store: store.revoke(made.id, 1))
    # At once, and whatever the client has open.
    refused = guarded.post(secret)
    assert (refused.status_code, error_of(refused)["message"]) == (401, f"The API key {made.id} was revoked.")
    _, expired = guarded.key(expires=5, requests_per_minute=3)
    assert "has expired" in error_of(guarded.post(expired))["message"]
    unknown = guarded.post(Secret())
    assert (unknown.status_code, error_of(unknown)["code"]) == (401, "invalid_api_key")


def test_the_stock_client_reads_the_headers_and_the_errors(guarded: Guarded, triton: FakeTriton) -> None:
    _, secret = guarded.key(requests_per_minute=2, tokens_per_minute=MANY)
    client = openai.OpenAI(base_url=f"{guarded.process.url}/v1", api_key=secret.reveal(), max_retries=0)
    raw = client.chat.completions.with_raw_response.create(**CHAT, max_tokens=20)
    reserved = raw.parse().usage.prompt_tokens + 20
    headers = {name: value for name, value in raw.headers.items() if name.startswith("x-ratelimit")}
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert headers["x-ratelimit-reset-requests"] in ("30s", "29.999s")
    assert headers["x-ratelimit-limit-tokens"] == str(MANY)
    assert int(headers["x-ratelimit-remaining-tokens"]) == MANY - reserved
    assert headers["x-ratelimit-reset-tokens"].endswith("ms")
    # An error counts and carries them too.
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(**CHAT, max_tokens=-1)
    assert bad.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(openai.RateLimitError) as caught:
        client.models.list()
    assert caught.value.code == "rate_limit_exceeded"
    assert 28 <= int(caught.value.response.headers["retry-after"]) <= 30


@pytest.mark.parametrize("stream", [True, False])
def test_what_was_not_generated_comes_back(guarded: Guarded, triton: FakeTriton, stream: bool) -> None:
    _, secret = guarded.key(tokens_per_minute=MANY)
    triton.script = say("Hello there", pieces=3)
    for _ in range(5):
        answer = guarded.post(secret, stream=stream, max_tokens=200)
        assert answer.status_code == 200
    used = 5 * (len(triton.seen[0].prompt) + 4)
    # Until the last is settled; afterwards the bucket only fills, which takes 0.06 s for a thousand.
    lowest = guarded.remaining(secret)
    assert MANY - used <= lowest + 5 * 200
    assert until(lambda: guarded.remaining(secret) >= MANY - used)
    assert used > 0


def exact(guarded: Guarded, made: ApiKey) -> int:
    """Tokens used of a key whose bucket gains less than one while a test runs."""
    entry = guarded.do(lambda store: store.enter(made.digest))
    return made.limits.tokens_per_minute - entry.tokens.remaining  # type: ignore[no-any-return, operator]


# It fills by 5 a second: what a request takes and gives back is told apart from what comes by itself.
LIMIT = 300


def test_tokens_are_charged_as_generated(guarded: Guarded, triton: FakeTriton) -> None:
    made, secret = guarded.key(tokens_per_minute=LIMIT)
    prompt_and = {"max_tokens": 200}
    triton.script = lambda _: iter([Say("a", 1), Say("b", 60, "stop")])
    assert guarded.post(secret, stream=True, **prompt_and).status_code == 200
    prompt = len(triton.seen[0].prompt)
    assert until(lambda: exact(guarded, made) <= prompt + 60)
    assert exact(guarded, made) >= prompt + 60 - 45


@pytest.mark.parametrize("stream", [True, False])
def test_choices_are_charged_with_their_prompt_once(guarded: Guarded, triton: FakeTriton, stream: bool) -> None:
    made, secret = guarded.key(tokens_per_minute=LIMIT)
    triton.script = lambda _: iter([Say("a", 1), Say("b", 40, "stop")])
    assert guarded.post(secret, stream=stream, n=3, max_tokens=80).status_code == 200
    used = len(triton.seen[0].prompt) + 3 * 40
    assert until(lambda: exact(guarded, made) <= used)
    assert exact(guarded, made) >= used - 45
    # What all three may need is reserved.
    refused = guarded.post(secret, n=3, max_tokens=100)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (429, "false")


@pytest.mark.parametrize(
    "end", ["fails before", "fails after", "no first token", "hangs after", "client leaves", "full"]
)
def test_however_it_ends_the_rest_comes_back_and_the_place_too(guarded: Guarded, triton: FakeTriton, end: str) -> None:
    made, secret = guarded.key(tokens_per_minute=LIMIT, concurrent_requests=1)
    go, begun = threading.Event(), threading.Event()

    def script(_: Seen) -> Iterator[Say | Fail]:
        if end == "fails before":
            yield Fail(grpc.StatusCode.INTERNAL, "broken")
        if end != "no first token":
            yield Say("a", 50)
        begun.set()
        if end == "fails after":
            yield Fail(grpc.StatusCode.INTERNAL, "broken")
        while end == "full" and not go.wait(0.1):
            yield Say("a", 50)
        go.wait(WAIT)
        yield Say("b", 51, "stop")

    triton.script = script
    try:
        if end == "client leaves":
            _leave(guarded, secret, begun)
            assert triton.seen[0].cancelled.wait(WAIT)
        elif end == "full":
            with ThreadPoolExecutor(8) as pool:
                others = [pool.submit(guarded.post, guarded.key()[1], stream=True) for _ in range(8)]
                try:
                    assert until(lambda: len(triton.seen) == 8)
                    refused = guarded.post(secret, stream=True, max_tokens=200)
                    assert "the limit" in error_of(refused)["message"]
                finally:
                    # The pool waits for them, also for a failure to be told.
                    go.set()
                assert [other.result().status_code for other in others] == [200] * 8
        else:
            guarded.post(secret, stream=True, max_tokens=200)
    finally:
        go.set()
    prompt = len(triton.seen[0].prompt)
    nothing = end in ("fails before", "no first token", "full")
    used = 0 if nothing else prompt + 50
    assert until(lambda: exact(guarded, made) <= used)
    assert exact(guarded, made) >= used - 45
    triton.script = say("x")
    assert guarded.post(secret, max_tokens=5).status_code == 200


def _leave(guarded: Guarded, secret: Secret, begun: threading.Event) -> None:
    body = json.dumps({**CHAT, "stream": True, "max_tokens": 200}).encode()
    host, port = guarded.process.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
            f"authorization: Bearer {secret.reveal()}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        assert begun.wait(WAIT)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_token_limit(guarded: Guarded, triton: FakeTriton) -> None:
    _, secret = guarded.key(tokens_per_minute=120)
    too_large = guarded.post(secret, max_tokens=200)
    assert (too_large.status_code, error_of(too_large)["code"]) == (429, "rate_limit_exceeded")
    # Waiting does not help, and OpenAI's clients must not try.
    assert "retry-after" not in too_large.headers
    assert too_large.headers["x-should-retry"] == "false"
    triton.script = lambda _: iter([Say("a", 80, "length")])
    assert guarded.post(secret, max_tokens=80).status_code == 200
    refused = guarded.post(secret, max_tokens=80)
    error = error_of(refused)
    assert (refused.status_code, error["code"], error["type"]) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert 5 <= int(refused.headers["retry-after"]) <= 60
    assert int(refused.headers["x-ratelimit-remaining-tokens"]) < 80
    assert len(triton.seen) == 1


def test_one_after_another_needs_one_place(guarded: Guarded, triton: FakeTriton) -> None:
    _, secret = guarded.key(concurrent_requests=1)
    headers = {"authorization": f"Bearer {secret.reveal()}"}
    with httpx.Client(headers=headers, timeout=20) as client:
        url = f"{guarded.process.url}/v1/chat/completions"
        for number in range(40):
            assert client.post(url, json={**CHAT, "stream": number % 2 == 0}).status_code == 200


def test_concurrent_requests(guarded: Guarded, triton: FakeTriton) -> None:
    _, secret = guarded.key(concurrent_requests=1)
    go, begun = threading.Event(), threading.Event()

    def script(_: Seen) -> Iterator[Say | Fail]:
        # As long as two leases: they are renewed while it runs.
        for number in range(1, 6):
            yield Say("a", number)
            begun.set()
            go.wait(0.4)
        yield Say("b", 6, "stop")

    triton.script = script
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(guarded.post, secret, stream=True)
        assert begun.wait(WAIT)
        statuses = []
        while not running.done():
            statuses.append(guarded.post(secret).status_code)
        assert running.result().status_code == 200
    # The last may come after the end.
    assert set(statuses[:-1]) == {429}
    assert len(statuses) > 5


def test_a_gateway_that_is_killed_frees_its_places(
    guarded: Guarded, make_spec: Callable[..., GatewaySpec], triton: FakeTriton
) -> None:
    made, secret = guarded.key(concurrent_requests=1, tokens_per_minute=LIMIT)
    go, begun = threading.Event(), threading.Event()

    def script(_: Seen) -> Iterator[Say | Fail]:
        yield Say("a", 1)
        begun.set()
        go.wait(WAIT)
        yield Say("b", 2, "stop")

    triton.script = script
    with GatewayProcess(make_spec(keys={"store": guarded.url, "lease_seconds": 1})) as other:
        doomed = Guarded(other, guarded.url, guarded.log)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(doomed.post, secret, stream=True, max_tokens=100)
            assert begun.wait(WAIT)
            assert guarded.post(secret, max_tokens=5).status_code == 429
            os.kill(other.pid, signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                running.result()
    go.set()
    triton.script = say("x")
    assert until(lambda: guarded.post(secret, max_tokens=5).status_code == 200)
    # Its tokens count as used: nobody knows how many it had made.
    assert exact(guarded, made) >= 40


def test_no_log_holds_a_key_and_each_line_says_whose_it_was(guarded: Guarded, triton: FakeTriton) -> None:
    made, secret = guarded.key()
    revoked, old = guarded.key()
    guarded.do(lambda store: store.revoke(revoked.id, 1))
    unknown = Secret()
    triton.script = lambda _: iter([Fail(grpc.StatusCode.INTERNAL, "broken")])
    for sent in (secret, old, unknown):
        guarded.post(sent)
    triton.script = say("fine")
    guarded.post(secret)
    assert until(lambda: guarded.log.read_text().count(made.id) >= 2)
    text = guarded.log.read_text()
    for hidden in (secret, old, unknown):
        assert hidden.reveal() not in text
        assert hidden.reveal() not in repr(hidden) + str(hidden)
    lines = [json.loads(line) for line in text.splitlines() if made.id in line]
    assert {line["tenant"] for line in lines if "tenant" in line} == {"lab"}
    assert made.digest.hex() not in text
    assert made.digest.hex() not in repr(made) and repr(made.digest) not in repr(made)


@pytest.mark.parametrize(
    ("of_key", "asked", "in_engine"),
    [(0, None, None), (0, -3, None), (0, 4, 4), (-5, None, -5), (-5, -9, -5), (-5, 0, None), (7, None, 7), (7, 0, 7)],
)
def test_a_request_is_as_urgent_as_its_key_lets_it_be(
    guarded: Guarded, triton: FakeTriton, of_key: int, asked: int | None, in_engine: int | None
) -> None:
    """The engine takes 0 where there is no input."""
    _, secret = guarded.key(priority=of_key)
    fields = {} if asked is None else {"priority": asked}
    assert guarded.post(secret, **fields).status_code == 200
    assert [seen.inputs.get("priority") for seen in triton.seen] == [in_engine]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gateway.example", ""])
def test_a_host_beyond_loopback_needs_keys_or_a_word(make_spec: Callable[..., GatewaySpec], host: str) -> None:
    values = make_spec().model_dump() | {"host": host}
    with pytest.raises(ConfigError, match=r"keys\.store .*recipes\.keys action=create.* allow_open=true"):
        parse(GatewaySpec, values, where="gateway")
    parse(GatewaySpec, values | {"allow_open": True}, where="gateway")
    parse(GatewaySpec, values | {"keys": {"store": "sqlite:///keys.sqlite"}}, where="gateway")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_is_open(make_spec: Callable[..., GatewaySpec], host: str) -> None:
    assert make_spec(host=host).keys.store is None


@pytest.mark.parametrize("store", ["postgres://x/y", "sqlite://keys", "redis:///0", "keys.sqlite", ""])
def test_a_store_of_another_kind_is_refused(make_spec: Callable[..., GatewaySpec], store: str) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.keys\.store"):
        parse(GatewaySpec, make_spec().model_dump() | {"keys": {"store": store}}, where="gateway")


def test_the_stores_password_is_in_no_repr(make_spec: Callable[..., GatewaySpec]) -> None:
    spec = make_spec(keys={"store": "redis://user:hunter2@127.0.0.1:6379/0"})
    assert "hunter2" not in repr(spec) + str(spec)


@pytest.mark.parametrize("store", ["redis://127.0.0.1:9/0", "sqlite:////dev/null/keys.sqlite"])
def test_a_store_that_cannot_be_opened_stops_the_start(make_spec: Callable[..., GatewaySpec], store: str) -> None:
    if store.startswith("redis"):
        pytest.importorskip("redis")
    process = GatewayProcess(make_spec(keys={"store": store}))
    with pytest.raises(GatewayError, match=r"(?s)exit code 2 .*the key store cannot be opened — keys\.store"):
        process.start()


def test_a_store_that_goes_away_is_503_and_the_gateway_lives(
    make_spec: Callable[..., GatewaySpec], triton: FakeTriton, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(server(any_server(), tmp_path))
        with GatewayProcess(make_spec(keys={"store": url})) as process:
            guarded = Guarded(process, url, tmp_path / "none")
            _, secret = guarded.key()
            assert guarded.post(secret).status_code == 200
            stack.close()
            refused = guarded.post(secret)
            assert (refused.status_code, error_of(refused)["type"]) == (503, "server_error")
            assert "retry-after" in refused.headers
            assert httpx.get(f"{process.url}/health").status_code == 200
