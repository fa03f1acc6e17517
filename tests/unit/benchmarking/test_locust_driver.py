"""The Locust driver against a small event-stream server in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.waiting import until
from throughline.benchmarking.targets import LocustTarget
from throughline.contracts.benchmark import BenchRequest, Load, RequestRecord


class Server(ThreadingHTTPServer):
    """What it was asked, and what became of it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[dict[str, Any]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.dead = self.left = False
        self.second_token_at = 0.0
        self.came_at: dict[str, float] = {}


class Handler(BaseHTTPRequestHandler):
    server: Server
    running: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        try:
            self.answer()
        except ConnectionError:  # the client has gone, at whichever message it was
            self.server.left = self.close_connection = True

    def answer(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = body["messages"][0]["content"]
        seen = {"user": body.get("user"), "key": self.headers.get("authorization"), "text": asked}
        self.server.came_at[asked] = time.perf_counter()
        self.server.seen.append(seen | {"trace": self.headers.get("traceparent")})
        self.server.asked.append((self.path, body))
        if asked == "die":
            self.server.dead = True
        if self.server.dead:
            self.close_connection = True
            return
        if asked == "garbage":
            self.wfile.write(b"this is not HTTP\r\n\r\n")
            self.close_connection = True
            return
        if asked == "broken":
            data = b"data: {no json\n\ndata: [DONE]\n\n"
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        if asked == "fail":
            data = b'{"error": {"message": "no", "code": "model_overloaded"}}'
            self.send_response(503)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        events: list[dict[str, Any]] = [{"choices": [{"delta": {"role": "assistant"}}]}]
        events += [{"choices": [{"delta": {"content": f"t{i}"}}]} for i in range(body["max_tokens"])]
        events += [{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": body["max_tokens"]}}]
        if asked == "foreign":
            events[1]["choices"][0]["delta"] = {"reasoning_content": "t0"}
            events[-1]["choices"] = [{"delta": {}, "finish_reason": "length"}]
        end = "\r\n\r\n" if asked == "foreign" else "\n\n"
        done = [] if asked in ("foreign", "cut") else ["[DONE]"]
        for text in [*(json.dumps(event) for event in events), *done]:
            data = f"data: {text}{end}".encode()
            if asked == "hold" and '"t1"' in text:
                # Nobody sets it: the second token is late.
                threading.Event().wait(0.3)
                self.server.second_token_at = time.perf_counter()
            half = len(data) // 2  # a boundary inside an event must not matter
            if asked == "endless" and text == "[DONE]":
                # Until the client has gone, which closes the connection.
                self.server.left = self.rfile.read(1) == b""
                return
            for part in (data[:half], data[half:]):
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    httpd = Server()
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    Handler.running = httpd
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def request(text: str, tokens: int) -> BenchRequest:
    return BenchRequest("chat", [{"role": "user", "content": text}], [], (1, 2), tokens)


def test_every_request_gets_its_record_and_a_failure_says_why(server: str) -> None:
    with LocustTarget(server, "lab", ignore_eos=True, timeout_seconds=10) as target:
        good = target.run([request("hi", n) for n in range(2, 12)], concurrency=4)
        bad = target.run([request("fail", 3)], concurrency=2)
    assert sorted(record.completion_tokens for record in good) == list(range(2, 12))
    assert all(record.ok and record.start <= record.first_token <= record.end for record in good)
    assert {record.prompt_tokens for record in good} == {7}
    assert [record.ok for record in bad] == [False]
    assert bad[0].error == "HTTP 503: no"
    assert bad[0].error_type == "model_overloaded"


def test_the_first_token_is_timed_when_it_comes(server: str) -> None:
    with LocustTarget(server, "lab", ignore_eos=True, timeout_seconds=10) as target:
        [record] = target.run([request("hold", 3)], concurrency=1)
    # Both processes read the same monotonic clock.
    assert len(record.gaps) == 2
    assert record.gaps[0] > 0.25 > record.gaps[1]
    assert record.first_token < Handler.running.second_token_at < record.end


def test_an_open_loop_sends_when_requests_are_due_and_stamps_them_at_the_socket(server: str) -> None:
    """Both processes read the same monotonic clock. Ready early, no request leaves early, nor is it said to have."""
    due = [0.05 + 0.004 * number for number in range(40)]
    sessions = [[request(f"number {number}", 2)] for number in range(len(due))]
    with LocustTarget(server, "lab", ignore_eos=True, timeout_seconds=10) as target:
        driven = target.drive(Load(sessions, due=due, timeout_seconds=10))
    assert sorted(record.session for record in driven.records) == list(range(40))
    for record in driven.records:
        at = driven.began + due[record.session]
        assert record.due == pytest.approx(at, abs=1e-9)
        assert at <= record.start <= Handler.running.came_at[f"number {record.session}"] <= record.first_token
    late = sorted(record.start - driven.began - due[record.session] for record in driven.records)
    # A tenth of what gevent's own timers are late; of forty one at least finds the machine free.
    assert late[0] < 1e-4


def test_another_server_s_stream_is_read_whole(server: str) -> None:
    """Lines that end with two characters, thoughts aloud, and a stream that ends with its reason, without [DONE]."""
    with LocustTarget(server, "lab", ignore_eos=True, timeout_seconds=10) as target:
        foreign = target.run([request("foreign", 4)], concurrency=1)
        cut = target.run([request("cut", 4)], concurrency=1)
    assert [(record.ok, record.completion_tokens, len(record.gaps)) for record in foreign] == [(True, 4, 3)]
    assert [(record.ok, record.error_type) for record in cut] == [(False, "incomplete")]


def test_an_endpoint_s_path_and_fields_are_as_asked(server: str) -> None:
    body = {"ignore_eos": None, "temperature": 0.5, "min_tokens": 3}
    with LocustTarget(f"{server}/models/llama", "lab", ignore_eos=True, timeout_seconds=10, body=body) as target:
        target.run([request("hi", 2)], concurrency=1)
    [(path, sent)] = Handler.running.asked
    assert path == "/models/llama/v1/chat/completions"
    assert "ignore_eos" not in sent
    assert (sent["temperature"], sent["min_tokens"], sent["max_tokens"]) == (0.5, 3, 2)


@pytest.mark.parametrize("kind", ["garbage", "broken"])
def test_an_answer_that_is_none_fails_the_request_and_not_the_cell(server: str, kind: str) -> None:
    """A user that died of an exception left the cell waiting for ever."""
    with LocustTarget(server, "lab", ignore_eos=True, timeout_seconds=10) as target:
        records = target.run([request(kind, 3), request("hi", 3)], concurrency=1)
    assert sorted(record.ok for record in records) == [False, True]
    assert [record.error for record in records if not record.ok] != [""]


def drive(server: str, load: Load, **options: Any) -> list[RequestRecord]:
    with LocustTarget(server, "lab", ignore_eos=True, timeout_seconds=10, **options) as target:
        return sorted(target.drive(load).records, key=lambda record: record.session)


def test_requests_leave_when_they_are_due_whoever_has_not_come_back(server: str) -> None:
    """Ten answers take 0.3 s each and are due within 0.2 s: a loop that waits for answers would send for 3 s."""
    due = [index * 0.02 for index in range(10)]
    records = drive(server, Load([[request("hold", 2)] for _ in due], due=due))
    begins = [record.begin for record in records]
    assert begins == pytest.approx([begins[0] + at for at in due], abs=1e-6)
    # A machine with other work on it is late, but not by an answer.
    assert max(record.start - record.begin for record in records) < 0.25
    assert min(record.e2e_latency for record in records) > 0.28
    assert max(record.start for record in records) < min(record.end for record in records)


def test_latencies_count_from_when_a_request_was_due(server: str) -> None:
    """What is due in the past has waited since then."""
    [record] = drive(server, Load([[request("hi", 2)]], due=[-5.0]))
    assert record.time_to_first_token > 5
    assert record.first_token - record.start < 5


def test_a_client_leaves_after_so_many_messages(server: str) -> None:
    leaving = dataclasses.replace(request("endless", 6), cancel_after=2)
    left, whole = drive(server, Load([[leaving], [request("hi", 3)]], users=1))
    assert left.ok
    assert left.cancelled
    assert left.completion_tokens == 2
    assert not whole.cancelled
    assert whole.completion_tokens == 3
    assert until(lambda: Handler.running.left)


def test_turns_follow_one_another_after_a_while(server: str) -> None:
    sessions = [[request("first", 2), request("second", 2)], [request("other", 2)]]
    records = drive(server, Load(sessions, due=[0.0, 0.0], think_seconds=0.2))
    first, second = (record for record in records if record.session == 0)
    assert (first.turn, second.turn) == (0, 1)
    assert second.begin >= first.end + 0.2


def test_a_closed_loop_ends_when_its_time_is_over(server: str) -> None:
    records = drive(server, Load([[request("hold", 2)] for _ in range(50)], users=2, seconds=0.7))
    assert 4 <= len(records) <= 6
    assert all(record.due is None for record in records)


def test_tenants_send_their_keys_and_traces_their_context(server: str) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    sent = dataclasses.replace(request("hi", 2), tenant="a", trace_parent=trace)
    [record] = drive(server, Load([[sent]]), api_keys={"a": "secret"})
    assert record.tenant == "a"
    assert Handler.running.seen == [{"user": "a", "key": "Bearer secret", "text": "hi", "trace": trace}]


def test_locust_shows_its_pages_while_it_runs(server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pages: list[str] = []
    url = f"http://127.0.0.1:{port}/stats/requests"

    def look() -> None:
        deadline = time.monotonic() + 20
        while not pages and time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(url) as page,
            ):
                pages.append(page.read().decode())

    watcher = threading.Thread(target=look)
    watcher.start()
    drive(server, Load([[request("hold", 2)] for _ in range(40)], users=4), web_port=port)
    watcher.join()
    assert '"stats"' in pages[0]


def test_a_service_that_dies_half_way_leaves_what_it_had_answered(server: str) -> None:
    texts = ["hi"] * 10 + ["die"] + ["hi"] * 9
    records = drive(server, Load([[request(text, 2)] for text in texts], due=[index * 0.05 for index in range(20)]))
    assert [record.ok for record in records] == [True] * 10 + [False] * 10
    assert all(record.error and record.error_type for record in records[10:])
