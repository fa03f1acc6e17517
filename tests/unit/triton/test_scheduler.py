"""The scheduler of the engine model over a scripted engine: each request ends exactly once."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.contracts.engine import EngineStats, ErrorKind, FinishReason, SamplingParams, StepOutput
from throughline.contracts.errors import EngineError
from throughline.triton.batching import Scheduler, SchedulerSettings, Snapshot
from throughline.triton.requests import GenerateRequest, RequestError, StopRequest
from throughline.triton.streaming import FlushPolicy, Message


class CountingEngine:
    """Gives each live request one token a step: 1, 2, 3, …; prompt [0] is refused, [9] breaks the step."""

    def __init__(self) -> None:
        self.live: dict[str, tuple[SamplingParams, int, bool]] = {}
        self.pending: list[StepOutput] = []
        self.closed = False

    def submit(self, request_id: str, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        if prompt_token_ids[0] == 0:
            self.pending.append(StepOutput(request_id, (), "", "error", 1, 0, "refused by name", error_kind="invalid"))
        elif prompt_token_ids[0] == 8:
            raise EngineError("id is live", where="request_id")
        else:
            self.live[request_id] = (params, 0, prompt_token_ids[0] == 9)

    def step(self) -> list[StepOutput]:
        outputs, self.pending = self.pending, []
        if any(breaks for _, _, breaks in self.live.values()):
            raise RuntimeError("step is broken")
        for request_id, (params, count, breaks) in list(self.live.items()):
            done: FinishReason | None = "length" if count + 1 == params.max_tokens else None
            outputs.append(StepOutput(request_id, (count + 1,), f"{count + 1} ", done, 1, count + 1))
            self.live[request_id] = (params, count + 1, breaks)
            if done:
                del self.live[request_id]
        return outputs

    def cancel(self, request_id: str) -> None:
        _, count, _ = self.live.pop(request_id)
        self.pending.append(StepOutput(request_id, (), "", "cancelled", 1, count))

    def has_work(self) -> bool:
        return bool(self.live or self.pending)

    def stats(self) -> EngineStats:
        return EngineStats(len(self.live), 0, 0.0, 1, 0)

    def close(self) -> None:
        self.closed = True


class Client:
    """A `Channel` that writes down what it is told."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.ends: list[str] = []
        self.error = ""
        self.gone = False

    def send(self, message: Message, *, final: bool) -> None:
        assert not self.ends
        self.messages.append(message)
        if final:
            self.ends.append(message.finish_reason)

    def fail(self, code: str, text: str) -> None:
        self.ends.append(code)
        self.error = text

    def close(self) -> None:
        self.ends.append("closed")

    def is_cancelled(self) -> bool:
        return self.gone

    @property
    def text(self) -> str:
        return "".join(message.text for message in self.messages)


class Gauges:
    def __init__(self) -> None:
        self.last: Snapshot | None = None
        self.lengths: list[tuple[int, int]] = []

    def update(self, snapshot: Snapshot) -> None:
        self.last = snapshot

    def observe(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.lengths.append((prompt_tokens, completion_tokens))


class Bench:
    """A scheduler with a hand-moved clock."""

    def __init__(self, load: Any = None, **settings: Any) -> None:
        self.now = 0.0
        self.engines: list[CountingEngine] = []
        self.gauges = Gauges()
        self.fatal = 0

        def fresh() -> CountingEngine:
            self.engines.append(CountingEngine())
            return self.engines[-1]

        def die() -> None:
            self.fatal += 1

        values = {"metrics_interval_seconds": 0.0, "cancel_poll_interval_seconds": 0.0, **settings}
        self.scheduler = Scheduler(
            load or fresh, SchedulerSettings(**values), metrics=self.gauges, fatal=die, clock=lambda: self.now
        )

    def ask(self, tokens: int, *, stream: bool = True, prompt: int = 1, echo: str = "", **rest: Any) -> Client:
        client = Client()
        self.scheduler.put(client, GenerateRequest((prompt,), SamplingParams(max_tokens=tokens), stream, echo, **rest))
        return client

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += 0.01
            self.scheduler.take(block=False)
            self.scheduler.iterate()


def count(tokens: int) -> str:
    return "".join(f"{token} " for token in range(1, tokens + 1))


@given(st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.integers(0, 6)), min_size=1, max_size=12))
def test_every_request_gets_all_of_its_text_and_one_end(plan: list[tuple[int, bool, int]]) -> None:
    bench, clients = Bench(), []
    for tokens, stream, pause in plan:
        clients.append((tokens, stream, bench.ask(tokens, stream=stream, echo="> ")))
        bench.turn(pause)
    bench.turn(13)
    for tokens, stream, client in clients:
        assert client.text == "> " + count(tokens)
        assert client.ends == ["length"]
        assert stream or len(client.messages) == 1
        assert client.messages[-1].completion_tokens == tokens
    assert sorted(bench.gauges.lengths) == sorted((1, tokens) for tokens, _, _ in plan)


def test_a_client_that_left_frees_its_request_and_hears_no_more() -> None:
    bench = Bench()
    gone, stays = bench.ask(100), bench.ask(10)
    bench.turn(3)
    gone.gone = True
    heard = len(gone.messages)
    bench.turn(20)
    assert gone.ends == ["closed"]
    assert len(gone.messages) <= heard + 1
    assert (stays.text, stays.ends) == (count(10), ["length"])
    assert bench.engines[0].live == {}
    assert bench.gauges.last is not None
    assert bench.gauges.last.finished == {"cancelled": 1, "length": 1}
    assert bench.gauges.last.active == 0


def test_the_limit_of_active_requests_refuses_as_unavailable() -> None:
    bench = Bench(max_active_requests=2)
    first, second, third = bench.ask(3), bench.ask(3), bench.ask(3)
    bench.turn()
    assert third.ends == ["UNAVAILABLE"]
    assert "2 requests are active" in third.error
    bench.turn(3)
    fourth = bench.ask(1)
    bench.turn()
    assert [client.ends for client in (first, second, fourth)] == [["length"]] * 3


def test_bad_requests_are_invalid_arguments() -> None:
    bench = Bench()
    by_parser, by_engine, by_id = Client(), bench.ask(3, prompt=0), bench.ask(3, prompt=8)
    bench.scheduler.put(by_parser, RequestError("invalid input", where="top_p"))
    bench.turn(2)
    assert [client.ends for client in (by_parser, by_engine, by_id)] == [["INVALID_ARG"]] * 3
    assert by_engine.error == "refused by name"
    assert "top_p" in by_parser.error


def test_a_broken_step_fails_what_is_live_and_loads_the_engine_again(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench()
    innocent, culprit = bench.ask(5), bench.ask(5, prompt=9)
    bench.turn()
    # Nobody's request was wrong: sent again it may pass.
    assert innocent.ends == culprit.ends == ["UNAVAILABLE"]
    assert "step is broken" in capsys.readouterr().err
    assert bench.engines[0].closed
    assert len(bench.engines) == 2
    after = bench.ask(2)
    bench.turn(2)
    assert (after.text, bench.fatal) == (count(2), 0)


def test_what_waits_for_a_broken_engine_is_served_by_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(max_batch_size=1)
    running, ahead, waiting = bench.ask(5, prompt=9), bench.ask(5), bench.ask(2)
    bench.turn()
    assert (running.ends, ahead.ends, waiting.ends) == (["UNAVAILABLE"], ["UNAVAILABLE"], [])
    assert "step is broken" in capsys.readouterr().err
    bench.turn(2)
    assert (waiting.text, waiting.ends) == (count(2), ["length"])


def test_the_engine_gets_what_it_has_room_for_by_priority() -> None:
    bench = Bench(max_batch_size=2)
    running = [bench.ask(4) for _ in range(3)]
    bench.turn()
    last, first, second = bench.ask(1, priority=5), bench.ask(1, priority=-5), bench.ask(1)
    bench.turn(2)
    engine = bench.engines[0]
    assert len(engine.live) == 3 and not any(client.ends for client in (last, first, second))
    assert bench.gauges.last is not None and (bench.gauges.last.active, bench.gauges.last.waiting) == (6, 3)
    for client in running[1:]:
        client.gone = True
    running[0].gone = True
    ended = []
    for _ in range(20):
        bench.turn()
        ended += [
            name
            for name, client in {"first": first, "second": second, "last": last}.items()
            if client.ends and name not in ended
        ]
    assert ended == ["first", "second", "last"]


def test_waiting_makes_up_for_a_priority() -> None:
    bench = Bench(max_batch_size=1, priority_aging_seconds=2.0)
    for _ in range(2):
        bench.ask(300)
    bench.turn()
    patient = bench.ask(1, priority=1)
    bench.turn(250)
    urgent = bench.ask(1)
    bench.turn(60)
    assert patient.ends == urgent.ends == ["length"]
    order = [client for client in (patient, urgent) if client.messages]
    assert order == [patient, urgent]


@pytest.mark.parametrize("waits", [True, False])
def test_a_request_that_nobody_waits_for_any_more_ends(waits: bool) -> None:
    bench = Bench(max_batch_size=1)
    others = [bench.ask(10**6) for _ in range(2)] if waits else []
    bench.turn()
    late = bench.ask(10**6, timeout_seconds=0.2)
    bench.turn(10)
    assert late.ends == []
    bench.turn(15)
    assert late.ends == ["UNAVAILABLE"]
    assert "timeout of 0.2 s expired " + ("in the queue" if waits else "after ") in late.error
    assert len(bench.engines[0].live) == len(others)
    assert bench.gauges.last is not None and bench.gauges.last.finished == {"timeout": 1}


def test_a_client_that_leaves_the_queue_is_never_served() -> None:
    bench = Bench(max_batch_size=1)
    running = [bench.ask(6) for _ in range(2)]
    bench.turn()
    gone = bench.ask(6)
    bench.turn()
    gone.gone = True
    bench.turn(20)
    assert (gone.ends, gone.messages) == (["closed"], [])
    assert [client.ends for client in running] == [["length"]] * 2


def test_an_engine_that_cannot_come_back_is_fatal(capsys: pytest.CaptureFixture[str]) -> None:
    loads = itertools.chain([CountingEngine()])
    bench = Bench(load=lambda: next(loads))
    culprit = bench.ask(5, prompt=9)
    bench.turn()
    assert (culprit.ends, bench.fatal) == (["UNAVAILABLE"], 1)
    assert "StopIteration" in capsys.readouterr().err


def test_an_engine_that_forgets_a_request_does_not_leave_it_hanging() -> None:
    bench = Bench()
    client = bench.ask(5)
    bench.turn()
    bench.engines[0].live.clear()
    bench.turn()
    assert client.ends == ["UNAVAILABLE"]


@pytest.mark.parametrize(
    ("kind", "code"),
    [("invalid", "INVALID_ARG"), ("unavailable", "UNAVAILABLE"), ("internal", "INTERNAL"), (None, "INTERNAL")],
)
def test_who_has_to_act_is_said_by_the_engine_and_not_by_how_far_it_came(kind: ErrorKind | None, code: str) -> None:
    bench = Bench()
    early, late = bench.ask(9), bench.ask(9)
    bench.turn()
    ids = list(bench.engines[0].live)
    bench.engines[0].live.clear()
    bench.engines[0].pending += [
        StepOutput(ids[0], (), "", "error", 1, 0, "it failed", error_kind=kind),
        StepOutput(ids[1], (), "", "error", 1, 5, "it failed", error_kind=kind),
    ]
    bench.turn()
    assert early.ends == late.ends == [code]


class Narrow(Client):
    """A `Channel` that fails as Triton does without shared memory: `faults` says which calls raise."""

    def __init__(self, faults: Sequence[bool]) -> None:
        super().__init__()
        self.faults = list(faults)

    def _try(self) -> None:
        if self.faults and self.faults.pop(0):
            raise RuntimeError("Failed to increase the shared memory pool size")

    def send(self, message: Message, *, final: bool) -> None:
        self._try()
        super().send(message, final=final)

    def fail(self, code: str, text: str) -> None:
        self._try()
        super().fail(code, text)

    def close(self) -> None:
        self._try()
        super().close()

    def is_cancelled(self) -> bool:
        self._try()
        return super().is_cancelled()


@given(st.lists(st.lists(st.booleans(), max_size=12), min_size=1, max_size=4))
def test_a_channel_that_fails_ends_its_request_once_and_no_other(faults: list[list[bool]]) -> None:
    bench = Bench()
    others = [bench.ask(12) for _ in range(2)]
    narrow = [Narrow(each) for each in faults]
    for client in narrow:
        bench.scheduler.put(client, GenerateRequest((1,), SamplingParams(max_tokens=8), True, ""))
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        bench.turn(40)
    assert [(client.text, client.ends) for client in others] == [(count(12), ["length"])] * 2
    for client, asked in zip(narrow, faults, strict=True):
        assert client.ends in (["length"], ["UNAVAILABLE"])
        assert client.ends == ["length"] or any(asked)
        assert count(8).startswith(client.text)
    assert bench.engines[0].live == {} and bench.fatal == 0 and len(bench.engines) == 1
    assert ("shared memory" in errors.getvalue()) == any(client.ends == ["UNAVAILABLE"] for client in narrow)
    assert bench.gauges.last is not None and sum(bench.gauges.last.finished.values()) == 2 + len(narrow)


def test_an_end_that_can_never_be_sent_ends_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench()
    client = Narrow([True] * 10**4)
    bench.scheduler.put(client, GenerateRequest((1,), SamplingParams(max_tokens=3), True, ""))
    bench.turn(150)
    assert (client.ends, bench.fatal) == ([], 0)
    bench.turn(100)
    assert bench.fatal > 0
    assert "shared memory" in capsys.readouterr().err


def test_an_end_that_is_owed_is_sent_though_nobody_asks_for_more() -> None:
    bench = Bench()
    client = Narrow([True, True, False])
    bench.scheduler.put(client, RequestError("invalid input", where="top_p"))
    with contextlib.redirect_stderr(io.StringIO()):
        for _ in range(4):
            # Would wait for ever if nothing were owed.
            bench.scheduler.take(block=not client.ends)
            bench.scheduler.iterate()
            if client.ends:
                break
    assert client.ends == ["INVALID_ARG"]


def test_any_other_fault_of_the_thread_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench()
    bench.ask(3)

    def full(snapshot: Snapshot) -> None:
        raise RuntimeError("no metric can be set")

    monkeypatch.setattr(bench.gauges, "update", full)
    bench.scheduler.run()
    assert bench.fatal == 1
    assert "no metric can be set" in capsys.readouterr().err


def test_stopping_finishes_what_runs_and_refuses_what_comes() -> None:
    bench = Bench()
    running = bench.ask(4)
    bench.turn()
    bench.scheduler.stop()
    late = bench.ask(4)
    bench.scheduler.run()
    assert (running.text, running.ends) == (count(4), ["length"])
    assert late.ends == ["UNAVAILABLE"]
    assert bench.engines[0].closed


def test_the_drain_time_ends_what_still_runs() -> None:
    bench = Bench(drain_timeout_seconds=0.0)
    endless = bench.ask(10**9)
    bench.turn()
    bench.scheduler.stop()
    bench.scheduler.take(block=False)
    bench.now += 1
    bench.scheduler.run()
    assert endless.ends == ["UNAVAILABLE"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_ends_what_bears_its_id_with_what_there_is(stream: bool) -> None:
    bench = Bench()
    asked, other = bench.ask(50, stream=stream, id="mine"), bench.ask(6, stream=stream, id="other")
    bench.turn(3)
    stopper, again = Client(), Client()
    bench.scheduler.put(stopper, StopRequest("mine"))
    bench.turn(5)
    bench.scheduler.put(again, StopRequest("mine"))
    bench.turn(1)
    assert asked.ends == ["cancelled"] and 3 <= asked.messages[-1].completion_tokens < 6
    assert asked.text == count(asked.messages[-1].completion_tokens)
    assert (len(asked.messages) == 1) is not stream
    # The second found nothing, and is answered as the first.
    assert (stopper.ends, again.ends, stopper.messages) == (["closed"], ["closed"], [])
    assert (other.ends, other.text) == (["length"], count(6))
    assert bench.gauges.last and bench.gauges.last.finished == {"cancelled": 1, "length": 1}


def test_a_stop_reaches_what_waits() -> None:
    bench = Bench(max_batch_size=1)
    running, ahead = bench.ask(4), bench.ask(4)
    bench.turn()
    waiting = bench.ask(4, id="mine")
    bench.turn()
    bench.scheduler.put(Client(), StopRequest("mine"))
    bench.turn()
    assert (waiting.ends, waiting.text, waiting.messages[0].prompt_tokens) == (["cancelled"], "", 1)
    bench.turn(10)
    assert (running.ends, ahead.ends) == (["length"], ["length"])


def test_messages_of_a_paced_stream_keep_their_distance_and_nobody_else_pays() -> None:
    bench = Bench(flush=FlushPolicy(max_responses_per_second=150.0, flush_interval_seconds=10.0))
    paced = [bench.ask(100, interval_seconds=0.245) for _ in range(20)]
    stream = bench.ask(100)
    bench.turn(100)
    # A step takes 0.01 s: after 25, 50, 75 and at the end.
    assert [message.completion_tokens for message in paced[0].messages] == [25, 50, 75, 100]
    assert {client.text for client in paced} == {count(100)}
    # A hundred tokens a second are within the budget, were it not for those of the others.
    assert len(stream.messages) == 100
