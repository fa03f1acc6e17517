"""When streamed tokens leave, and that none is lost or said twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.contracts.engine import StepOutput
from throughline.triton.streaming import FlushPolicy, Outbox, RateMeter, TokenTimes, tokens_per_message

POLICY = FlushPolicy(stream_interval_tokens=8, flush_interval_seconds=0.1, max_responses_per_second=400.0)


def output(token: int, count: int) -> StepOutput:
    return StepOutput("r", (token,), f"<{token}>", None, 3, count)


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 1), (399.0, 1), (400.0, 1), (401.0, 2), (1999.0, 5), (1e9, 8)])
def test_messages_stay_within_the_budget_up_to_the_limit(rate: float, expected: int) -> None:
    assert tokens_per_message(POLICY, rate) == expected


def test_the_first_token_goes_alone_later_ones_wait_for_company_or_time() -> None:
    box = Outbox("", 0.0)
    assert not box.due(POLICY, 4, 9.0)
    box.add(output(1, 1), 0.0)
    assert box.due(POLICY, 4, 0.0)
    box.take(0.0)
    box.add(output(2, 2), 0.0)
    assert not box.due(POLICY, 4, 0.05)
    assert box.due(POLICY, 4, 0.1)
    for token in (3, 4, 5):
        box.add(output(token, token), 0.0)
    assert box.due(POLICY, 4, 0.05)


@given(st.lists(st.floats(0, 0.2), max_size=60), st.integers(1, 8))
def test_messages_join_to_the_whole_output_with_its_echo_once(gaps: list[float], tokens: int) -> None:
    box, now, messages = Outbox("echo:", 0.0), 0.0, []
    for count, gap in enumerate(gaps, 1):
        now += gap
        box.add(output(count, count), now)
        if box.due(POLICY, tokens, now):
            messages.append(box.take(now))
    messages.append(box.take(now, "stop"))
    assert "".join(message.text for message in messages) == "echo:" + "".join(
        f"<{count}>" for count in range(1, len(gaps) + 1)
    )
    assert [token for message in messages for token in message.token_ids] == list(range(1, len(gaps) + 1))
    assert [message.finish_reason for message in messages] == [""] * (len(messages) - 1) + ["stop"]
    assert all(len(message.token_ids) <= tokens for message in messages)
    assert messages[-1].completion_tokens == len(gaps)


def test_times_are_those_of_the_tokens_that_a_message_brings() -> None:
    box = Outbox("", 1.0, wants_times=True)
    box.scheduled(2.0)
    box.add(output(1, 1), 3.0)
    assert box.take(3.5).times == TokenTimes(1.0, 2.0, 3.0, 3.0)
    box.add(output(2, 2), 4.0)
    box.add(output(3, 3), 5.0)
    assert box.take(9.0).times == TokenTimes(1.0, 2.0, 3.0, 5.0)
    silent = Outbox("", 1.0)
    silent.add(output(1, 1), 3.0)
    assert silent.take(3.0).times is None


def test_the_rate_follows_the_steps_and_forgets_when_idle() -> None:
    meter = RateMeter()
    meter.add(100, 0.0)
    assert meter.per_second() == 0.0
    for step in range(1, 50):
        meter.add(5, step * 0.01)
    assert meter.per_second() == pytest.approx(500.0)
    for step in range(1, 100):
        meter.add(1, 0.5 + step * 0.01)
    assert meter.per_second() == pytest.approx(100.0, rel=0.01)
    meter.reset()
    meter.add(7, 1000.0)
    assert meter.per_second() == 0.0
