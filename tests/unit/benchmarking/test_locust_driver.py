"""The Locust driver against a small event-stream server in this process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from throughline.benchmarking.targets import LocustTarget
from throughline.contracts.benchmark import BenchRequest


class Handler(BaseHTTPRequestHandler):
    running: ThreadingHTTPServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body["messages"][0]["content"] == "garbage":
            self.wfile.write(b"this is not HTTP\r\n\r\n")
            self.close_connection = True
            return
        if body["messages"][0]["content"] == "broken":
            data = b"data: {no json\n\ndata: [DONE]\n\n"
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        if body["messages"][0]["content"] == "fail":
            data = b'{"error": {"message": "no"}}'
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
        for text in [*(json.dumps(event) for event in events), "[DONE]"]:
            data = f"data: {text}\n\n".encode()
            if body["messages"][0]["content"] == "hold" and '"t1"' in text:
                # Nobody sets it: the second token is late.
                threading.Event().wait(0.3)
                self.server.second_token_at = time.perf_counter()  # type: ignore[attr-defined]
            half = len(data) // 2  # a boundary inside an event must not matter
            for part in (data[:half], data[half:]):
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
    assert "503" in bad[0].error


def test_the_first_token_is_timed_when_it_comes(server: str) -> None:
    with LocustTarget(server, "lab", ignore_eos=True, timeout_seconds=10) as target:
        [record] = target.run([request("hold", 3)], concurrency=1)
    # Both processes read the same monotonic clock.
    assert record.first_token < Handler.running.second_token_at < record.end  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["garbage", "broken"])
def test_an_answer_that_is_none_fails_the_request_and_not_the_cell(server: str, kind: str) -> None:
    """A user that died of an exception left the cell waiting for ever."""
    with LocustTarget(server, "lab", ignore_eos=True, timeout_seconds=10) as target:
        records = target.run([request(kind, 3), request("hi", 3)], concurrency=1)
    assert sorted(record.ok for record in records) == [False, True]
    assert [record.error for record in records if not record.ok] != [""]
