"""Admission, clients that leave, time limits, draining, metrics, and the child process itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.gateway.fake_triton import Fail, FakeTriton, Say, Seen, say
from tests.waiting import until
from throughline.contracts.errors import GatewayError
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import GatewayProcess

USER: Any = [{"role": "user", "content": "Hi"}]
CHAT = {"model": "lab", "messages": USER}
WAIT = 10


class Held:
    """A script that says one token, then waits until it is let go; `begun` counts who waits."""

    def __init__(self, first: bool = True) -> None:
        self._first = first
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, _: Seen) -> Iterator[Say | Fail]:
        if self._first:
            yield Say("A", 1)
        self.begun.release()
        self.go.wait(WAIT)
        yield Say("B", 2, "stop")


@pytest.fixture
def held(triton: FakeTriton) -> Iterator[Held]:
    script = triton.script = Held()
    yield script
    script.go.set()


@pytest.fixture(scope="module")
def tight(make_spec: Callable[..., GatewaySpec]) -> Iterator[GatewayProcess]:
    """A gateway that takes two requests at a time and has no patience."""
    spec = make_spec(
        limits={"max_concurrent_requests": 2, "max_concurrent_tokens": 100, "max_body_bytes": 1024},
        timeouts={"first_token_seconds": 1, "inter_token_seconds": 0.5, "body_seconds": 0.5},
        unknown_fields="ignore",
        log_format="json",
    )
    with GatewayProcess(spec) as process:
        yield process


def test_reading_the_log_loses_no_line_of_it(tight: GatewayProcess) -> None:
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            tight.log_tail()

    with ThreadPoolExecutor(2) as pool, httpx.Client() as client:
        readers = [pool.submit(read) for _ in range(2)]
        ids = [f"read-{number}" for number in range(150)]
        for request_id in ids:
            client.get(f"{tight.url}/nowhere", headers={"x-request-id": request_id})
        done.set()
        for reader in readers:
            reader.result()
    assert until(lambda: ids[-1] in tight.log_tail())
    log = tight.log_tail(10_000)
    assert [request_id for request_id in ids if f'"{request_id}"' not in log] == []


def chat(gateway: GatewayProcess, **fields: Any) -> httpx.Response:
    return httpx.post(f"{gateway.url}/v1/chat/completions", json={**CHAT, **fields}, timeout=20)


def metric(gateway: GatewayProcess, name: str, **labels: str) -> float:
    text = httpx.get(f"{gateway.url}/metrics").text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return 0.0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_engine(
    gateway: GatewayProcess, triton: FakeTriton, held: Held, stream: bool
) -> None:
    aborted = metric(gateway, "throughline_failed_requests_total", reason="abort")
    body = json.dumps({**CHAT, "stream": stream}).encode()
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert held.begun.acquire(timeout=WAIT)
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert metric(gateway, "vllm:num_requests_running") == 1
    assert triton.seen[0].cancelled.wait(WAIT)
    assert until(lambda: metric(gateway, "throughline_failed_requests_total", reason="abort") == aborted + 1)
    assert metric(gateway, "vllm:num_requests_running") == 0


def test_closing_the_openai_stream_frees_the_engine(client: openai.OpenAI, triton: FakeTriton, held: Held) -> None:
    with client.chat.completions.create(model="lab", messages=USER, stream=True) as stream:
        next(iter(stream))
    assert triton.seen[0].cancelled.wait(WAIT)


def test_too_many_requests_are_refused_at_once(tight: GatewayProcess, triton: FakeTriton) -> None:
    script = triton.script = Held(first=False)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(chat, tight, max_tokens=4) for _ in range(2)]
        assert script.begun.acquire(timeout=WAIT)
        assert script.begun.acquire(timeout=WAIT)
        refused = chat(tight, max_tokens=4)
        # Refused before it is read: no prompt is tokenised in vain, and this one would be a 400.
        unread = chat(tight, max_tokens=-1)
        script.go.set()
        assert [future.result().status_code for future in running] == [200, 200]
    assert unread.status_code == 429
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert chat(tight, max_tokens=4).is_success


def test_too_many_tokens_are_refused_at_once(tight: GatewayProcess, triton: FakeTriton) -> None:
    script = triton.script = Held(first=False)
    with ThreadPoolExecutor(1) as pool:
        # Alone, a request may exceed the limit.
        running = pool.submit(chat, tight, max_tokens=200)
        assert script.begun.acquire(timeout=WAIT)
        refused = chat(tight, max_tokens=4)
        script.go.set()
        assert running.result().status_code == 200
    assert (refused.status_code, "100 tokens" in refused.text) == (429, True)


def test_engine_without_a_first_token(tight: GatewayProcess, triton: FakeTriton) -> None:
    script = triton.script = Held(first=False)
    response = chat(tight, stream=True)
    script.go.set()
    assert (response.status_code, response.json()["error"]["code"]) == (504, "upstream_timeout")
    assert triton.seen[0].cancelled.wait(WAIT)


def test_engine_that_stops_half_way(tight: GatewayProcess, triton: FakeTriton, held: Held) -> None:
    response = chat(tight, stream=True)
    held.go.set()
    assert response.status_code == 200
    last = response.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_timeout"


def test_own_limits_and_unknown_fields(tight: GatewayProcess, triton: FakeTriton) -> None:
    assert chat(tight, max_token=5).is_success
    assert chat(tight, user="x" * 2000).status_code == 413
    host, port = tight.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_json_log(tight: GatewayProcess, triton: FakeTriton) -> None:
    request_id = chat(tight, max_tokens=4).headers["x-request-id"]
    # The answer leaves before the line is written.
    assert until(lambda: httpx.get(f"{tight.url}/health").is_success and request_id in tight.log_tail(3))
    line = next(json.loads(line) for line in tight.log_tail(3).splitlines() if request_id in line)
    assert (line["status"], line["model"], line["outcome"]) == (200, "lab", "stop")
    assert line["completion_tokens"] == 4


def test_metrics_count_tokens_and_latencies(gateway: GatewayProcess, triton: FakeTriton) -> None:
    names = {
        "tokens": "vllm:generation_tokens_total",
        "first": "vllm:time_to_first_token_seconds_count",
        "gaps": "vllm:inter_token_latency_seconds_count",
        "prompt": "vllm:prompt_tokens_total",
        "ends": "gen_ai_server_request_duration_seconds_count",
    }
    before = {key: metric(gateway, name) for key, name in names.items()}
    chat(gateway, stream=True)
    chat(gateway, stream=False)
    gain = {key: metric(gateway, name) - before[key] for key, name in names.items()}
    prompt = len(triton.seen[0].prompt)
    assert gain == {"tokens": 8, "first": 1, "gaps": 3, "prompt": 2 * prompt, "ends": 2}
    httpx.get(f"{gateway.url}/unknown/{'x' * 50}")
    assert metric(gateway, "throughline_http_responses_total", route="unknown", status="404") >= 1


def test_sigterm_lets_running_requests_end(
    make_spec: Callable[..., GatewaySpec], triton: FakeTriton, held: Held
) -> None:
    with GatewayProcess(make_spec()) as gateway, ThreadPoolExecutor(1) as pool:
        running = pool.submit(chat, gateway, stream=True)
        assert held.begun.acquire(timeout=WAIT)
        os.kill(gateway.pid, signal.SIGTERM)
        with pytest.raises(httpx.TransportError):
            # Each try waits for its own answer; the last one finds nobody listening.
            for _ in range(100_000):
                httpx.get(f"{gateway.url}/health")
        held.go.set()
        text = running.result().text
        assert text.endswith("data: [DONE]\n\n")
        assert gateway.wait(WAIT) == 0


def test_port_taken(make_spec: Callable[..., GatewaySpec], gateway: GatewayProcess) -> None:
    port = int(gateway.url.rpartition(":")[2])
    with pytest.raises(GatewayError, match=r"ended while it was starting — exit code 2 — .*cannot be used"):
        GatewayProcess(make_spec(port=port)).start()


def test_broken_engine_folder(make_spec: Callable[..., GatewaySpec], tmp_path: Path) -> None:
    spec = make_spec()
    route = spec.models[0].model_copy(update={"engine_dir": tmp_path})
    with pytest.raises(GatewayError, match=r"no engine here"), GatewayProcess(make_spec(models=(route,))):
        pass


def test_ready_means_that_a_token_came_out(make_spec: Callable[..., GatewaySpec], triton: FakeTriton) -> None:
    """Triton itself says all the while that the model is ready."""
    hung = threading.Event()

    def dead(_: Seen) -> Iterator[Say | Fail]:
        yield Fail(grpc.StatusCode.INTERNAL, "Stub process 'lab_0_0' is not healthy.")

    def hangs(_: Seen) -> Iterator[Say | Fail]:
        hung.wait(WAIT)
        yield Say("A", 1, "stop")

    with GatewayProcess(make_spec(timeouts={"ready_seconds": 0.5})) as process:
        url = f"{process.url}/health/ready"
        for script in (dead, hangs):
            triton.script = script
            refused = httpx.get(url)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
            assert int(refused.headers["retry-after"]) >= 1
        hung.set()
        triton.script = say("A")
        asked = len(triton.seen)
        assert [httpx.get(url).status_code for _ in range(3)] == [200] * 3
        # One token is enough for a while, and a fault ends that while.
        assert len(triton.seen) == asked + 1
        triton.script = dead
        assert chat(process).status_code == 503
        assert httpx.get(url).status_code == 503


def test_not_ready_in_time(make_spec: Callable[..., GatewaySpec]) -> None:
    process = GatewayProcess(make_spec(), ready_seconds=0.001)
    with pytest.raises(GatewayError, match="not ready in time"):
        process.start()
    with pytest.raises(GatewayError, match="not running"):
        _ = process.url


ORPHAN = """
import os, signal, sys
from pathlib import Path
from throughline.gateway import GatewayProcess
from throughline.gateway.__main__ import read_spec

process = GatewayProcess(read_spec(Path(sys.argv[1])))
process.start()
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_gateway_whose_parent_was_killed_ends(make_spec: Callable[..., GatewaySpec], tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(make_spec().model_dump_json())
    done = subprocess.run([sys.executable, "-c", ORPHAN, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    child = int(done.stdout)
    if psutil.pid_exists(child):
        _, alive = psutil.wait_procs([psutil.Process(child)], timeout=WAIT)
        assert alive == []
