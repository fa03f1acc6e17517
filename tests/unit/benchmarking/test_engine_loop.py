"""The loop over an engine in this process, with an engine of which every step is known."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from throughline.benchmarking.engine_loop import EngineLoop
from throughline.contracts.benchmark import BenchRequest, Load
from throughline.contracts.engine import EngineStats, SamplingParams, StepOutput


class CountingEngine:
    """A token a step for each request; remembers the most that it had at a time."""

    def __init__(self) -> None:
        self.live: dict[str, list[int]] = {}
        self.cancelled: list[str] = []
        self.most = 0

    def submit(self, request_id: str, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        self.live[request_id] = [len(prompt_token_ids), params.max_tokens, 0]
        self.most = max(self.most, len(self.live))

    def step(self) -> list[StepOutput]:
        time.sleep(0.001)
        found = []
        for request_id in list(self.live):
            prompt, most, done = self.live[request_id]
            done += 1
            self.live[request_id][2] = done
            reason = "cancelled" if request_id in self.cancelled else "length" if done == most else None
            if reason:
                del self.live[request_id]
            found.append(StepOutput(request_id, (7,), "x", reason, prompt, done))
        return found

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)

    def has_work(self) -> bool:
        return bool(self.live)

    def stats(self) -> EngineStats:
        return EngineStats(len(self.live), 0, 0.5, 100, 0)

    def close(self) -> None:
        self.live.clear()


def request(tokens: int, cancel_after: int = 0) -> BenchRequest:
    return BenchRequest("s", [], [], (1, 2, 3), tokens, "", cancel_after)


def test_a_closed_loop_keeps_its_users_busy() -> None:
    engine = CountingEngine()
    began, records = EngineLoop(engine).run(Load([[request(5)] for _ in range(20)], users=3))
    assert len(records) == 20
    assert engine.most == 3
    assert all(record.completion_tokens == 5 and len(record.gaps) == 4 for record in records)
    assert all(record.start >= began for record in records)
    for record in records:
        assert sum(record.phases.values()) == pytest.approx(record.e2e_latency)


def test_an_open_loop_sends_what_is_due_whatever_runs() -> None:
    engine = CountingEngine()
    due = [0.0, 0.01, 0.02, 0.3]
    _, records = EngineLoop(engine).run(Load([[request(60)] for _ in due], due=due))
    records.sort(key=lambda record: record.begin)
    begins = [record.begin - records[0].begin for record in records]
    assert begins == pytest.approx(due)
    assert engine.most == 3
    assert max(record.start - record.begin for record in records) < 0.1


def test_turns_wait_for_the_answer_and_the_reader() -> None:
    load = Load([[request(3), request(3)]], due=[0.0], think_seconds=0.05)
    _, records = EngineLoop(CountingEngine()).run(load)
    assert [record.turn for record in records] == [0, 1]
    assert records[1].begin == pytest.approx(records[0].end + 0.05, abs=1e-3)


def test_a_client_that_leaves_cancels() -> None:
    engine = CountingEngine()
    _, [record] = EngineLoop(engine).run(Load([[request(50, cancel_after=2)]]))
    assert record.cancelled
    assert record.ok
    assert record.completion_tokens == 3


def test_a_closed_loop_begins_nothing_after_its_time() -> None:
    _, records = EngineLoop(CountingEngine()).run(Load([[request(20)] for _ in range(1000)], users=2, seconds=0.2))
    assert 2 < len(records) < 100


def test_steps_are_kept_on_request() -> None:
    loop = EngineLoop(CountingEngine(), timed=True)
    loop.run(Load([[request(4)] for _ in range(3)], users=3))
    assert [step.has_prompts for step in loop.steps] == [True, False, False, False]
    assert {step.kv_cache_usage for step in loop.steps} == {0.5}
    assert all(step.seconds >= 0.001 for step in loop.steps)
