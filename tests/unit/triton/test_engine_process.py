"""An engine in a process of its own is the engine, and its end is seen from both sides."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.triton import counting_engine
from throughline.contracts.engine import GuidedDecodingParams, SamplingParams
from throughline.contracts.errors import EngineError
from throughline.triton.engine_process import EngineProcess, Wakeup
from throughline.triton.frames import Cancel, Load, Submit, ToEngine, Wire, to_engine

RUNTIME = f"{counting_engine.__name__}:load"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    process = EngineProcess(RUNTIME, tmp_path, Wakeup())
    yield process
    process.close()


def collect(engine: EngineProcess, text: dict[str, str], reasons: dict[str, str]) -> None:
    for output in engine.step():
        text[output.request_id] = text.get(output.request_id, "") + output.text
        if output.finish_reason is not None:
            reasons[output.request_id] = output.finish_reason


def run(engine: EngineProcess) -> tuple[dict[str, str], dict[str, str]]:
    text: dict[str, str] = {}
    reasons: dict[str, str] = {}
    while engine.has_work():
        collect(engine, text, reasons)
    return text, reasons


def test_requests_go_in_and_all_of_their_tokens_come_out(engine: EngineProcess) -> None:
    plan = {f"r{number}": number % 7 + 1 for number in range(40)}
    for name, tokens in plan.items():
        engine.submit(name, (5, 6), SamplingParams(max_tokens=tokens))
    text, reasons = run(engine)
    assert text == {name: "".join(f"{n} " for n in range(1, tokens + 1)) for name, tokens in plan.items()}
    assert set(reasons.values()) == {"length"} and reasons.keys() == plan.keys()
    stats = engine.stats()
    assert (stats.active_requests, stats.kv_cache_usage, stats.kv_cache_bytes) == (0, 0.5, 7)
    assert stats.iterations is not None and stats.iterations >= 7 and stats.stepped_at is not None


def test_cancelled_refused_and_forgotten_requests_end(engine: EngineProcess) -> None:
    engine.submit("endless", (5,), SamplingParams(max_tokens=10**9))
    engine.submit("refused", (), SamplingParams())
    text: dict[str, str] = {}
    reasons: dict[str, str] = {}
    while "endless" not in text:
        collect(engine, text, reasons)
    with pytest.raises(EngineError, match="live already"):
        engine.submit("endless", (5,), SamplingParams())
    engine.cancel("endless")
    engine.cancel("unknown")
    while engine.has_work():
        collect(engine, text, reasons)
    assert reasons == {"endless": "cancelled", "refused": "error"}
    engine.submit("forgotten", (counting_engine.FORGETS,), SamplingParams())
    assert run(engine) == ({}, {})


def test_a_prompt_larger_than_any_socket_buffer_blocks_nobody(engine: EngineProcess) -> None:
    for number in range(8):
        engine.submit(f"r{number}", tuple(range(100_000, 300_000)), SamplingParams(max_tokens=2))
    text, _ = run(engine)
    assert text == {f"r{number}": "1 2 " for number in range(8)}


@pytest.mark.parametrize("fault", [counting_engine.DIES, counting_engine.RAISES])
def test_an_engine_that_ends_is_an_error_that_says_how(
    tmp_path: Path, fault: int, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = EngineProcess(RUNTIME, tmp_path, Wakeup())
    engine.submit("r", (fault,), SamplingParams())
    with pytest.raises(EngineError, match="the engine's process ended") as error:
        run(engine)
    engine.close()
    assert f"exit code {-signal.SIGKILL if fault == counting_engine.DIES else 1}" in str(error.value)
    assert ("step is broken" in capfd.readouterr().err) == (fault == counting_engine.RAISES)


def test_one_that_ends_while_nobody_asks_for_anything_is_noticed(engine: EngineProcess) -> None:
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="exit code -9"):
        while engine.step() == []:
            assert not engine.has_work()


def test_one_that_hangs_is_killed_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("throughline.triton.engine_process._EXIT_SECONDS", 0.2)
    engine = EngineProcess(RUNTIME, tmp_path, Wakeup())
    engine.submit("r", (counting_engine.STOPS,), SamplingParams())
    while psutil.Process(engine.pid).status() != psutil.STATUS_STOPPED:
        assert engine.step() == []
    engine.close()
    assert not psutil.pid_exists(engine.pid)


def test_an_engine_that_cannot_be_loaded_says_why_and_leaves_no_process(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="nothing to load"):
        EngineProcess(RUNTIME, tmp_path / "broken", Wakeup())
    with pytest.raises(EngineError, match="No module named 'no_such"):
        EngineProcess("no_such:load", tmp_path, Wakeup())
    assert not [child for child in psutil.Process().children() if "engine_worker" in " ".join(child.cmdline())]


def test_a_wake_up_ends_a_wait(engine: EngineProcess, tmp_path: Path) -> None:
    wakeup = Wakeup()
    waiting = EngineProcess(RUNTIME, tmp_path, wakeup)
    try:
        waiting.submit("r", (counting_engine.STOPS,), SamplingParams())
        wakeup.set()
        # Without the wake-up this waits for a step that never comes, 50 ms at a time.
        assert waiting.step() == []
    finally:
        psutil.Process(waiting.pid).kill()
        waiting.close()


@pytest.mark.parametrize("when", ["waiting", "stopped"])
def test_it_dies_with_the_process_that_started_it(tmp_path: Path, when: str) -> None:
    """SIGKILL of the model's process, which can tell nobody; the engine may be in the middle of a step."""
    prompt = (counting_engine.STOPS,) if when == "stopped" else (5,)
    script = (
        "import pathlib, sys\n"
        "from throughline.contracts.engine import SamplingParams\n"
        "from throughline.triton.engine_process import EngineProcess, Wakeup\n"
        f"engine = EngineProcess({RUNTIME!r}, pathlib.Path({str(tmp_path)!r}), Wakeup())\n"
        f"engine.submit('r', {prompt}, SamplingParams(max_tokens=1))\n"
        "print(engine.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as model:
        if model.stdout is None:
            raise RuntimeError("no output")
        child = psutil.Process(int(model.stdout.readline()))
        model.kill()
        model.wait()
        psutil.wait_procs([child], timeout=10)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


FRAMES = st.one_of(
    st.builds(Load, st.text(max_size=9), st.text(max_size=9)),
    st.builds(Cancel, st.text(max_size=9)),
    st.builds(
        Submit,
        st.text(max_size=9),
        st.lists(st.integers(0, 2**31 - 1), max_size=2000).map(tuple),
        st.builds(
            SamplingParams,
            stop=st.lists(st.text(max_size=5), max_size=3).map(tuple),
            bad_words=st.lists(st.text(max_size=5), max_size=3).map(tuple),
            seed=st.none() | st.integers(0, 2**64 - 1),
            guided_decoding=st.none() | st.builds(GuidedDecodingParams, regex=st.text(max_size=5)),
        ),
    ),
)


@given(st.lists(FRAMES, max_size=12))
def test_frames_come_out_as_they_went_in_whatever_the_buffers_hold(frames: list[ToEngine]) -> None:
    left, right = socket.socketpair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    sender, receiver = Wire(left), Wire(right)
    for frame in frames:
        sender.send(frame)
    seen = []
    while len(seen) < len(frames):
        seen += [to_engine.decode(body) for body in receiver.receive()]
        sender.flush()
    assert seen == frames and sender.unsent == 0 and not receiver.closed
    sender.close()
    assert list(receiver.receive()) == [] and receiver.closed
    receiver.close()
