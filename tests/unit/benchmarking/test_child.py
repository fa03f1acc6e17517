"""A child process answers, or its silence and its end are errors within the time given."""

from __future__ import annotations

import psutil
import pytest

from throughline.benchmarking.child import Child
from throughline.benchmarking.system import usage
from throughline.contracts.errors import EngineError, InternalError

MODULE = "tests.unit.benchmarking.stand_in"


def test_it_answers_each_message_in_turn() -> None:
    with Child(MODULE, ["echo"]) as child:
        for message in ({"n": 1}, ["ü\u2028", 2], "x" * 300_000):
            assert child.ask(message, timeout_seconds=60) == {"echo": message}
        pid = child.pid
    assert not psutil.pid_exists(pid)
    with pytest.raises(InternalError, match="outside `with`"):
        child.ask(1, timeout_seconds=1)


def test_its_end_is_an_error_with_its_exit_code() -> None:
    with pytest.raises(EngineError, match=r"ended early.*exit code 7"), Child(MODULE, ["die"]) as child:
        child.ask(1, timeout_seconds=60)


def test_its_silence_is_an_error_and_ends_it() -> None:
    with Child(MODULE, ["hang"]) as child:
        with pytest.raises(EngineError, match=r"gave no answer in time.*0\.2 s"):
            child.ask(1, timeout_seconds=0.2)
        pid = child.pid
    assert not psutil.pid_exists(pid)


def test_a_process_can_be_counted_without_the_ones_that_it_started() -> None:
    own = psutil.Process().pid
    with Child(MODULE, ["echo"]) as child:
        child.ask(1, timeout_seconds=60)
        alone, family, other = usage([own], children=False), usage([own]), usage([child.pid])
    assert other.memory_bytes > 2**20
    assert family.memory_bytes >= alone.memory_bytes + other.memory_bytes - 2**20
    assert family.cpu_seconds >= alone.cpu_seconds + 0.9 * other.cpu_seconds
