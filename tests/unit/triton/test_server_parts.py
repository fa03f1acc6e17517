"""State files, orphans, ports, the installation's checks and the gauge that stopping looks at."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from throughline.contracts.errors import DeployError, MissingDependencyError
from throughline.contracts.serving import ServeSpec
from throughline.contracts.tracing import TracingSettings
from throughline.triton import installation, server, state
from throughline.triton.client import InferenceError
from throughline.triton.heartbeat import Heartbeat
from throughline.triton.metrics_page import active_requests, iterations
from throughline.triton.ports import choose_ports
from throughline.triton.recovery import MOST_ATTEMPTS, Recovery
from throughline.triton.server import TritonServer
from throughline.triton.tracing import flags


@pytest.fixture
def example() -> state.ServerState:
    me = psutil.Process()
    return state.ServerState(
        pid=me.pid,
        pid_created=me.create_time(),
        supervisor_pid=me.pid,
        supervisor_created=me.create_time(),
        http_port=1,
        grpc_port=2,
        metrics_port=3,
        repository="/r",
        models=("lab",),
        shm_prefix=f"throughline_test_{os.getpid()}_",
        log_path="/l",
        started="2026-01-01T00:00:00+00:00",
    )


def test_state_round_trips_and_damage_reads_as_none(tmp_path: Path, example: state.ServerState) -> None:
    assert state.read_state(tmp_path) is None
    state.write_state(tmp_path, example)
    assert state.read_state(tmp_path) == example
    assert [path.name for path in tmp_path.iterdir()] == [state.STATE_NAME]
    for damage in ("{", "[]", '{"models": []}'):
        (tmp_path / state.STATE_NAME).write_text(damage)
        assert state.read_state(tmp_path) is None
    state.remove_state(tmp_path)
    state.remove_state(tmp_path)


def test_a_pid_that_was_given_to_another_process_is_not_ours(example: state.ServerState) -> None:
    assert example.running
    assert example.supervised
    assert not replace(example, pid_created=example.pid_created - 100).running


def test_orphans_are_killed_with_their_shared_memory(tmp_path: Path, example: state.ServerState) -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", f"--mark={example.shm_prefix}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as orphan:
        memory = state.SHM_DIR / f"{example.shm_prefix}region"
        memory.write_bytes(b"x")
        state.write_state(tmp_path, replace(example, pid=orphan.pid, supervisor_created=1.0))
        assert state.clear_orphans(tmp_path)
        assert not psutil.pid_exists(orphan.pid)
    assert not memory.exists()
    assert not state.clear_orphans(tmp_path)


def test_a_supervised_server_is_left_alone(tmp_path: Path, example: state.ServerState) -> None:
    parent = psutil.Process(os.getppid())
    other = replace(example, supervisor_pid=parent.pid, supervisor_created=parent.create_time())
    state.write_state(tmp_path, other)
    with pytest.raises(DeployError, match=f"already running from this folder.*supervisor pid {parent.pid}"):
        state.clear_orphans(tmp_path)
    assert state.read_state(tmp_path) == other


def test_free_ports_differ_and_a_taken_one_is_named() -> None:
    import socket

    assert len(set(choose_ports(ServeSpec()))) == 3
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DeployError, match=f"port is taken — grpc_port — seen: 127.0.0.1:{port}"):
            choose_ports(ServeSpec(grpc_port=port))


def test_active_requests_are_summed_over_models() -> None:
    family = "nv_trt_llm_request_metrics"
    page = "\n".join(
        [
            f"# TYPE {family} gauge",
            f'{family}{{model="a",request_type="active",version="1"}} 2.000000',
            f'{family}{{model="b",request_type="active",version="1"}} 3.000000',
            f'{family}{{model="b",request_type="max",version="1"}} 512.000000',
        ]
    )
    assert active_requests(page) == 5
    assert active_requests("") == 0


def test_steps_are_a_models_own() -> None:
    family = "nv_trt_llm_general_metrics"
    page = "\n".join(
        f'{family}{{general_type="iteration_counter",model="{model}",version="{version}"}} {value}'
        for model, version, value in (("a", 1, 5.0), ("a", 2, 7.0), ("ab", 1, 9.0))
    )
    assert iterations(page, "a") == 12
    assert iterations(page, "ab") == 9
    assert iterations(page, "b") is None


def test_an_engine_that_steps_is_not_asked_and_an_idle_one_is() -> None:
    asked: list[int] = []
    came = threading.Event()

    def ask() -> None:
        asked.append(1)
        came.set()

    beat = Heartbeat(ask, seconds=10, patience=30, now=0.0)
    for second in range(100):
        assert not beat.hangs(float(second), second)
    assert asked == []
    # From here on no step is made; a token that comes on request is as good.
    assert not beat.hangs(99.0, 111.0)
    assert came.wait(10)
    for thread in threading.enumerate():
        if thread.name == "heartbeat":
            thread.join(10)
    assert not beat.hangs(99.0, 112.0)
    assert not beat.hangs(99.0, 121.0) and asked == [1]


def test_an_engine_that_neither_steps_nor_answers_hangs_after_its_patience() -> None:
    release = threading.Event()

    def ask() -> None:
        release.wait(30)
        raise InferenceError("call to Triton failed (DEADLINE_EXCEEDED)")

    beat = Heartbeat(ask, seconds=10, patience=30, now=0.0)
    try:
        assert not beat.hangs(5.0, 1.0)
        found = [now for now in range(2, 60) if beat.hangs(5.0, float(now))]
        assert found == list(range(32, 60))
        # A step at last.
        assert not beat.hangs(6.0, 60.0)
    finally:
        release.set()


def test_a_question_that_fails_is_asked_again() -> None:
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        raise InferenceError("call to Triton failed (UNAVAILABLE)")

    beat = Heartbeat(ask, seconds=10, patience=30, now=0.0)
    for now in (11.0, 12.0, 13.0):
        assert not beat.hangs(None, now)
        for thread in threading.enumerate():
            if thread.name == "heartbeat":
                thread.join(10)
    assert len(asked) == 3
    assert beat.hangs(None, 31.0)


def test_numpy_2_is_refused() -> None:
    installation.check_numpy("1.26.4")
    with pytest.raises(MissingDependencyError, match=r"silently corrupts.*numpy 2\.1\.0"):
        installation.check_numpy("2.1.0")


def test_libpython_is_found_or_missed_by_name(tmp_path: Path) -> None:
    soname = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    (tmp_path / "x86").mkdir()
    (tmp_path / "x86" / soname).touch()
    assert installation.find_libpython({"LIBDIR": str(tmp_path), "MULTIARCH": "x86"}) == tmp_path / "x86"


def test_backends_are_links_and_assembling_twice_changes_nothing(tmp_path: Path) -> None:
    found = installation.find_installation()
    for _ in range(2):
        folder = installation.assemble_backends(found, tmp_path / "backends")
    links = list((folder / "python").iterdir())
    assert all(link.is_symlink() and link.exists() for link in links)
    assert "triton_python_backend_stub" in {link.name for link in links}


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_every_address_is_the_one_that_is_set(tmp_path: Path, host: str) -> None:
    arguments = installation.command(
        installation.find_installation(),
        repository=tmp_path,
        backends=tmp_path,
        host=host,
        http_port=1,
        grpc_port=2,
        metrics_port=3,
        shm_prefix="p",
        exit_timeout_seconds=4,
    )
    addresses = [argument for argument in arguments if "-address=" in argument]
    assert len(addresses) == 3
    assert all(argument.endswith(f"={host}") for argument in addresses)


def test_tracing_is_off_by_default_and_follows_who_began_the_trace(tmp_path: Path) -> None:
    def command(**tracing: str) -> list[str]:
        arguments = installation.command(
            installation.find_installation(),
            repository=tmp_path,
            backends=tmp_path,
            host="127.0.0.1",
            http_port=1,
            grpc_port=2,
            metrics_port=3,
            shm_prefix="p",
            exit_timeout_seconds=4,
            trace_flags=flags(TracingSettings.model_validate(tracing)),
        )
        return [argument.removeprefix("--trace-config=") for argument in arguments if "trace" in argument]

    assert command() == []
    found = command(endpoint="https://traces.example/otlp/", service_name="lab")
    assert {"mode=opentelemetry", "rate=0", "opentelemetry,url=https://traces.example/otlp/v1/traces"} <= set(found)
    assert "opentelemetry,resource=service.name=lab" in found
    for wrong in ("traces:4318", "http://", "http://traces:4318?x=1", "http://traces:4318/ --log-verbose=1"):
        with pytest.raises(ValueError, match="endpoint"):
            TracingSettings(endpoint=wrong)


def test_the_default_is_loopback_and_a_name_is_no_address() -> None:
    assert ServeSpec().host == "127.0.0.1"
    for host in ("localhost", "256.0.0.1", "1.2.3", "::", "0.0.0.0.0", "0.0.0.0\n"):
        with pytest.raises(ValueError, match="host"):
            ServeSpec(host=host)


def test_what_is_bound_everywhere_is_reached_on_loopback(tmp_path: Path, example: state.ServerState) -> None:
    everywhere = TritonServer(tmp_path, [], ServeSpec(host="0.0.0.0", http_port=1), run_dir=tmp_path)
    assert everywhere.grpc_url == "127.0.0.1:0"
    assert TritonServer(tmp_path, [], ServeSpec(host="10.1.2.3"), run_dir=tmp_path).grpc_url == "10.1.2.3:0"
    assert replace(example, host="10.1.2.3").grpc_url == "10.1.2.3:2"


class Dead:
    """A model's process that is gone."""

    def is_running(self) -> bool:
        return False


class Alive:
    """A server's process that runs."""

    def poll(self) -> None:
        return None

    def metrics(self) -> str:
        return ""


@pytest.fixture
def watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[tuple[TritonServer, Clock]]:
    """A server without a process of its own, with a model that is dead, and the clock that it looks at."""
    logger = logging.getLogger("throughline.triton")
    # A recipe that ran in this process keeps our log to itself, and at its own level.
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger="throughline.triton")
    monkeypatch.setattr(logger, "propagate", False)
    clock = Clock()
    monkeypatch.setattr(server, "time", clock)
    found = TritonServer(tmp_path, ["lab"], ServeSpec(), run_dir=tmp_path)
    monkeypatch.setattr(found, "_process", Alive())
    monkeypatch.setattr(found, "_stubs", {"lab": [Dead()]})
    monkeypatch.setattr(found, "_find_stubs", lambda model: iter([Dead()]))
    yield found, clock
    logger.removeHandler(caplog.handler)


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_a_model_that_dies_again_and_again_is_recovered_ever_more_seldom(
    watched: tuple[TritonServer, Clock], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found, clock = watched
    tries: list[float] = []

    def recover(model: str) -> None:
        tries.append(clock.now)
        if len(tries) % 2:
            raise InferenceError("call to Triton failed", where=model)

    monkeypatch.setattr(found, "_recover", recover)
    with pytest.raises(DeployError, match=rf"died again after {MOST_ATTEMPTS} recoveries"):
        for _ in range(1000):
            found.check()
            clock.now += 0.25
    pauses = [after - before for before, after in itertools.pairwise(tries)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30] and len(tries) == MOST_ATTEMPTS
    assert "process of model lab is dead, recovery 3" in caplog.text
    assert "did not come back, next try in 0.5 s: call to Triton failed" in caplog.text


def test_what_ran_for_long_is_recovered_at_once() -> None:
    recovery = Recovery()
    for number in range(3):
        recovery.note(float(number))
    assert not recovery.due(3.0) and recovery.due(4.0)
    assert recovery.due(1000.0) and recovery.attempts == 0 and recovery.pause_seconds == 0


def test_a_fault_of_the_watchdog_is_logged_and_ends_the_watch(
    watched: tuple[TritonServer, Clock], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found, _ = watched

    def recover(model: str) -> None:
        raise OSError("no such file: libpython")

    monkeypatch.setattr(found, "_recover", recover)
    monkeypatch.setattr(server, "_WATCH_SECONDS", 0.0)
    watcher = threading.Thread(target=found._watch)
    watcher.start()
    watcher.join(timeout=10)
    assert not watcher.is_alive() and found.stopped.is_set()
    assert found.failure is not None and "OSError: no such file: libpython" in str(found.failure)
    assert "the watchdog of Triton failed" in caplog.text and "Traceback" in caplog.text
    with pytest.raises(DeployError, match="libpython"):
        server.run_until_signal(found)


def test_a_state_without_our_mark_is_no_state(tmp_path: Path, example: state.ServerState) -> None:
    for prefix in ("", "throughline_", "other_"):
        state.write_state(tmp_path, replace(example, shm_prefix=prefix))
        assert state.read_state(tmp_path) is None and not state.clear_orphans(tmp_path)
        with pytest.raises(ValueError, match="marks no server of ours"):
            state.kill_marked(prefix)


def test_a_server_that_is_being_started_again_is_left_to_its_supervisor(
    tmp_path: Path, example: state.ServerState
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as supervisor:
        created = psutil.Process(supervisor.pid).create_time()
        dead = replace(example, pid=2**22 - 1, supervisor_pid=supervisor.pid, supervisor_created=created)
        state.write_state(tmp_path, dead)
        assert not dead.running
        with pytest.raises(DeployError, match=r"already running.*died and is being started again"):
            state.clear_orphans(tmp_path)
        assert state.read_state(tmp_path) == dead
        supervisor.kill()
    assert state.clear_orphans(tmp_path) and state.read_state(tmp_path) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_starts_stops_it_and_one_more_is_ignored(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Under nohup SIGHUP is ignored, and stays so.
    former = signal.signal(number, signal.SIG_DFL)
    found, stopped = TritonServer(tmp_path, ["lab"], ServeSpec(), run_dir=tmp_path), []

    def start(ports: object) -> None:
        os.kill(os.getpid(), number)
        pytest.fail("the signal was lost")

    def stop() -> None:
        os.kill(os.getpid(), number)
        stopped.append(True)

    monkeypatch.setattr(found, "_start_process", start)
    monkeypatch.setattr(found, "_stop_process", stop)
    try:
        with pytest.raises(SystemExit) as ended, found:
            pytest.fail("it started")
        assert ended.value.code == 128 + number and stopped == [True]
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, former)


def test_a_signal_while_it_serves_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, stopped = TritonServer(tmp_path, [], ServeSpec(), run_dir=tmp_path), []
    monkeypatch.setattr(found, "_start_process", lambda ports: None)
    monkeypatch.setattr(found, "_stop_process", lambda: stopped.append(True))
    with pytest.raises(SystemExit), found:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped == [True]


def test_the_server_waits_as_long_as_its_model_drains() -> None:
    with pytest.raises(ValueError, match="exit_timeout_seconds=10 would kill requests"):
        ServeSpec(exit_timeout_seconds=10)
    assert ServeSpec().exit_timeout_seconds >= ServeSpec().drain_timeout_seconds
