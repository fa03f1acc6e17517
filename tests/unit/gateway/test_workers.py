"""Several workers behind one socket: limits and metrics of all together, deaths, draining, a start that fails.

Which worker takes a connection is the kernel's choice, so that tests suspend the others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.gateway.fake_triton import Fail, FakeTriton, Say, Seen
from tests.waiting import until
from throughline.contracts.errors import GatewayError
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import GatewayProcess
from throughline.gateway.board import Board

CHAT: Any = {"model": "lab", "messages": [{"role": "user", "content": "Hi"}]}
WAIT = 20


class Held:
    """A script that says one token and waits until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, seen: Seen) -> Iterator[Say | Fail]:
        yield Say("A", 1)
        self.begun.release()
        while not self.go.is_set() and not seen.cancelled.is_set():
            self.go.wait(0.01)
        yield Say("B", 2, "stop")


class Many:
    """A gateway of two workers."""

    def __init__(self, process: GatewayProcess) -> None:
        self.process = process

    def workers(self) -> list[psutil.Process]:
        return sorted(psutil.Process(self.process.pid).children(), key=lambda child: child.cmdline())

    @contextlib.contextmanager
    def only(self, number: int) -> Iterator[None]:
        """Nobody else takes a connection."""
        others = [worker for at, worker in enumerate(self.workers()) if at != number]
        for worker in others:
            worker.suspend()
        try:
            yield
        finally:
            for worker in others:
                worker.resume()

    def chat(self, **fields: Any) -> httpx.Response:
        return httpx.post(f"{self.process.url}/v1/chat/completions", json={**CHAT, **fields}, timeout=WAIT)

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.process.url}/metrics", timeout=WAIT).text
        families = text_string_to_metric_families(text)
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)


@pytest.fixture(scope="module")
def many(make_spec: Callable[..., GatewaySpec]) -> Iterator[Many]:
    with GatewayProcess(make_spec(workers=2, limits={"max_concurrent_requests": 2})) as process:
        yield Many(process)


@pytest.fixture
def held(triton: FakeTriton) -> Iterator[Held]:
    script = triton.script = Held()
    yield script
    script.go.set()


def test_metrics_of_all_whoever_is_asked(many: Many, triton: FakeTriton) -> None:
    names = ("vllm:request_success_total", "vllm:generation_tokens_total", "vllm:e2e_request_latency_seconds_count")
    before = {name: many.metric(name) for name in names}
    for number in range(2):
        with many.only(number):
            assert all(many.chat().is_success for _ in range(3))
    for number in range(2):
        with many.only(number):
            assert [many.metric(name) - before[name] for name in names] == [6, 6 * 4, 6]


def test_limits_are_those_of_all_and_a_death_frees_its_part(many: Many, held: Held) -> None:
    first, second = many.workers()
    with ThreadPoolExecutor(2) as pool:
        with many.only(0):
            running = [pool.submit(many.chat, stream=True) for _ in range(2)]
            assert all(held.begun.acquire(timeout=WAIT) for _ in range(2))
        with many.only(1):
            assert many.metric("vllm:num_requests_running") == 2
            refused = many.chat()
        assert (refused.status_code, "2 requests are running, the limit is 2" in refused.text) == (429, True)
        succeeded = many.metric("vllm:request_success_total")
        first.kill()
        for future in running:
            with pytest.raises(httpx.TransportError):
                future.result()
    held.go.set()
    # Another takes its place, with its numbers; meanwhile the second serves.
    assert until(lambda: many.chat().is_success)
    assert until(lambda: len(many.workers()) == 2 and first not in many.workers())
    with many.only(0):
        assert many.chat().is_success
        assert many.metric("vllm:num_requests_running") == 0
        assert many.metric("vllm:request_success_total") == succeeded + 2
    assert many.workers()[1] == second
    assert "worker 0 ended with exit code -9" in many.process.log_tail()


def test_sigterm_drains_all(make_spec: Callable[..., GatewaySpec], held: Held) -> None:
    with GatewayProcess(make_spec(workers=2)) as process, ThreadPoolExecutor(2) as pool:
        many = Many(process)
        children = many.workers()
        running = []
        for number in range(2):
            with many.only(number):
                running.append(pool.submit(many.chat, stream=True))
                assert held.begun.acquire(timeout=WAIT)
        os.kill(process.pid, signal.SIGTERM)
        with pytest.raises(httpx.TransportError):
            # Each try waits for its own answer; the last one finds nobody listening.
            for _ in range(100_000):
                httpx.get(f"{process.url}/health", timeout=WAIT)
        held.go.set()
        assert [future.result().text[-14:] for future in running] == ["data: [DONE]\n\n"] * 2
        assert process.wait(WAIT) == 0
        assert not any(child.is_running() for child in children)


def test_workers_end_with_a_first_process_that_was_killed(make_spec: Callable[..., GatewaySpec]) -> None:
    with GatewayProcess(make_spec(workers=2)) as process:
        children = Many(process).workers()
        assert len(children) == 2
        os.kill(process.pid, signal.SIGKILL)
        gone, alive = psutil.wait_procs(children, timeout=WAIT)
    assert (len(gone), alive) == (2, [])


def test_a_start_that_fails_is_an_error(
    make_spec: Callable[..., GatewaySpec], engine_dir: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(engine_dir, tmp_path / "engine")
    (broken / "tokenizer.json").unlink()
    spec = make_spec(workers=2)
    route = spec.models[0].model_copy(update={"engine_dir": broken})
    with pytest.raises(GatewayError, match="no tokenizer") as caught:
        GatewayProcess(spec.model_copy(update={"models": (route,)})).start()
    assert "a worker ended while it was starting" in str(caught.value)


def test_a_board_adds_up_rows_and_forgets_one(tmp_path: Path) -> None:
    with (tmp_path / "board").open("w+b") as file:
        file.truncate(Board.size(3, 2))
        boards = [Board.shared(file.fileno(), workers=3, own=own, length=2) for own in range(3)]
        for own, board in enumerate(boards):
            board.admit(own + 1, 10 * (own + 1))
            board.row().take(2)[1] = own + 0.5
        assert {(board.requests, board.tokens) for board in boards} == {(6, 60)}
        assert boards[0].sums().take(2).tolist() == [0.0, 0.5 + 1.5 + 2.5]
        boards[0].forget(2)
        assert (boards[1].requests, boards[1].tokens) == (3, 30)
        assert boards[0].sums().take(2)[1] == 4.5
        with pytest.raises(ValueError, match="asked for 3"):
            boards[0].row().take(3)
