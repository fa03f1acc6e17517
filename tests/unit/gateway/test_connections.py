"""Clients that are slow, silent, greedy or speak no HTTP: the gateway ends them, and others are served."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.unit.gateway.fake_triton import FakeTriton, Say, Seen
from tests.unit.gateway.raw_http import GET, HOST, MALFORMED, connect, error_code, read_to_end, status
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import GatewayProcess

LIMITS = {"max_header_bytes": 4096, "max_connections": 16}
TIMEOUTS = {"header_seconds": 0.3, "body_seconds": 0.3, "unread_seconds": 0.3, "keep_alive_seconds": 60}
# The clock of all connections goes every half a second; the rest is for a busy machine.
SOON = 10.0
STREAM = b'{"model":"lab","prompt":"Hi","stream":true}'
ASK = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"content-length: %d\r\n\r\n" % len(STREAM) + STREAM


@pytest.fixture(scope="module")
def strict(make_spec: Callable[..., GatewaySpec]) -> Iterator[GatewayProcess]:
    with GatewayProcess(make_spec(limits=LIMITS, timeouts=TIMEOUTS)) as process:
        yield process


def ended(gateway: GatewayProcess) -> dict[str, float]:
    """How many connections were ended for each reason."""
    head = "throughline_ended_connections_total"
    lines = [line for line in httpx.get(f"{gateway.url}/metrics").text.splitlines() if line.startswith(head)]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_http_is_refused(strict: GatewayProcess, name: str) -> None:
    with connect(strict.url) as client:
        client.sendall(MALFORMED[name])
        answer = read_to_end(client)
    assert (status(answer), error_code(answer)) == (400, "invalid_http"), answer
    assert b"\r\nx-request-id: " in answer
    assert httpx.get(f"{strict.url}/health").status_code == 200


# What a client sends before it falls silent, and what it is told: nothing where it has not begun a request.
STOPPED = (
    (b"", 0),
    (b"GET /health HT", 408),
    (b"GET /health HTTP/1.1\r\n" + HOST, 408),
    (b"\r\n", 0),
    (GET + b"GET /hea", 200),
    # The body of a request that has none to read: it never ends, and neither does what follows.
    (b"GET /health HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n5\r\nabc", 200),
    (b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"content-length: 9\r\n\r\n{", 408),
    (b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n1;", 408),
)


def test_clients_that_stop_in_the_middle_are_ended(strict: GatewayProcess) -> None:
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(strict.url)) for _ in STOPPED]
        for client, (sent, _) in zip(clients, STOPPED, strict=True):
            client.sendall(sent)
        told = [(sent, status(read_to_end(client))) for client, (sent, _) in zip(clients, STOPPED, strict=True)]
    assert told == list(STOPPED)
    assert time.monotonic() - begun < SOON


def test_a_head_byte_by_byte_is_ended_however_often_it_comes(strict: GatewayProcess) -> None:
    with connect(strict.url) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nx: ")
        begun = time.monotonic()
        client.settimeout(0.02)
        answer = b""
        while not answer and time.monotonic() - begun < SOON:
            client.sendall(b"a")
            try:
                answer = client.recv(4096)
            except TimeoutError:
                continue
    assert (status(answer), error_code(answer)) == (408, "request_timeout")


@pytest.mark.parametrize("part", [b"a", b"b: c\r\n", b"\r\nb: " + b"c" * 500])
def test_a_head_that_does_not_end_is_refused(strict: GatewayProcess, part: bytes) -> None:
    before = ended(strict).get("head_too_large", 0)
    with connect(strict.url) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nx: y" + (b"\r\n" if part.startswith(b"b") else b""))
        try:
            for _ in range(200):
                client.sendall(part * 64)
        except ConnectionError:
            # It did not wait for the rest.
            pass
        answer = read_to_end(client)
    assert status(answer) in (431, 0)
    assert ended(strict)["head_too_large"] == before + 1


def test_a_head_beyond_the_limit_is_told_so(strict: GatewayProcess) -> None:
    for path, fields in ((b"/" + b"a" * 5000, 0), (b"/health", 150)):
        with connect(strict.url) as client:
            client.sendall(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"a: b\r\n" * fields + b"\r\n")
            answer = read_to_end(client)
        assert (status(answer), error_code(answer)) == (431, "headers_too_large")


def endless(_: Seen) -> Iterator[Say]:
    for number in range(1, 10**6):
        yield Say("x" * 65536, number)


def test_a_stream_that_nobody_reads_ends_in_the_engine_too(strict: GatewayProcess, triton: FakeTriton) -> None:
    triton.script = endless
    with connect(strict.url, receive_buffer=4096) as client:
        client.sendall(ASK)
        client.recv(1)
        assert triton.seen[0].cancelled.wait(SOON)
    assert ended(strict)["unread"] >= 1


def test_a_stream_ends_in_the_engine_when_its_client_leaves_that_had_sent_more(
    strict: GatewayProcess, triton: FakeTriton
) -> None:
    def slowly(seen: Seen) -> Iterator[Say]:
        for number in range(1, 10**6):
            if seen.cancelled.wait(0.01):
                return
            yield Say("x", number)

    triton.script = slowly
    with connect(strict.url) as client:
        client.sendall(ASK + GET)
        client.recv(1)
    assert triton.seen[0].cancelled.wait(SOON)


@pytest.mark.parametrize("half", [False, True])
def test_clients_that_leave_at_once_leave_nothing_running(
    strict: GatewayProcess, triton: FakeTriton, half: bool
) -> None:
    for _ in range(30):
        with connect(strict.url) as client:
            client.sendall(ASK)
            if half:
                client.shutdown(socket.SHUT_WR)
                read_to_end(client)
    until = time.monotonic() + SOON
    while 'vllm:num_requests_running{model_name="lab"} 0.0' not in (page := httpx.get(f"{strict.url}/metrics").text):
        assert time.monotonic() < until, page


def test_requests_sent_ahead_are_answered_in_order_and_not_without_end(
    strict: GatewayProcess, triton: FakeTriton
) -> None:
    with connect(strict.url) as client:
        client.sendall(GET * 9 + b"GET /health HTTP/1.1\r\n" + HOST + b"connection: close\r\n\r\n")
        assert read_to_end(client).count(b"HTTP/1.1 200 OK") == 10
    with connect(strict.url) as client:
        client.sendall(GET * 2000)
        read_to_end(client)
    assert ended(strict)["pipelined"] >= 1


def test_one_connection_too_many_takes_the_place_of_the_longest_silent(
    strict: GatewayProcess,
) -> None:
    silent = [connect(strict.url) for _ in range(LIMITS["max_connections"] * 3)]
    assert httpx.get(f"{strict.url}/health").status_code == 200
    assert ended(strict)["too_many"] >= LIMITS["max_connections"]
    for client in silent:
        assert read_to_end(client) == b""
        client.close()
