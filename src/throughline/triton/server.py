"""The real Triton server as a supervised child process; ready means that every model has answered."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from throughline.contracts.errors import DeployError
from throughline.contracts.serving import ServeSpec
from throughline.triton import metrics_page
from throughline.triton import state as states
from throughline.triton.client import InferenceError, TritonClient
from throughline.triton.heartbeat import Heartbeat
from throughline.triton.ports import choose_ports, reached_at
from throughline.triton.process import TritonProcess, log_tail
from throughline.triton.recovery import Recovery
from throughline.triton.signals import EndingSignals, ending_signals
from throughline.triton.switching import check_answer

_logger = logging.getLogger("throughline.triton")
_WATCH_SECONDS = 0.5
# Between two looks at the models' own counters.
_LOOK_SECONDS = 1.0
# Between a crash closing the sockets and the process's end lies the printing of its stack.
_DYING_SECONDS = 5.0
_MAX_RESTARTS = 3
_RESTART_WINDOW_SECONDS = 300.0


class TritonServer:
    """One server and its watchdog; a context manager, which in the main thread ends it on SIGTERM and SIGHUP too.

    The watchdog loads a model again when its Python process dies or answers no more (Triton never does, and
    reports the model ready meanwhile) and starts the server again on the same ports when it dies itself.

    Args:
        repository: Model repository with a rendered model for each name.
        models: Models to load.
        spec: Ports and time limits; a port of 0 takes a free one.
        run_dir: Folder for the state file, the backend links and the log.
        log_path: The server's log; `run_dir/tritonserver.log` by default.
    """

    def __init__(
        self,
        repository: Path,
        models: Sequence[str],
        spec: ServeSpec,
        *,
        run_dir: Path,
        log_path: Path | None = None,
    ) -> None:
        self.repository = repository.resolve()
        self.models = list(models)
        self.spec = spec
        self.run_dir = run_dir.resolve()
        self.log_path = (log_path or self.run_dir / "tritonserver.log").resolve()
        self.recoveries = 0
        self.restarts = 0
        self.hangs = 0
        self.failure: DeployError | None = None
        self.stopped = threading.Event()
        self._process: TritonProcess | None = None
        self._ports = (0, 0, 0)
        self._stubs: dict[str, list[psutil.Process]] = {}
        self._attempts: dict[str, Recovery] = {}
        self._heartbeats: dict[str, Heartbeat] = {}
        self._looked = float("-inf")
        self._restart_times: deque[float] = deque(maxlen=_MAX_RESTARTS)
        self._lock = threading.RLock()
        self._watcher: threading.Thread | None = None
        self._signals = EndingSignals()

    @property
    def http_url(self) -> str:
        """`host:port` of the HTTP endpoint."""
        return f"{reached_at(self.spec.host)}:{self._ports[0]}"

    @property
    def grpc_url(self) -> str:
        """`host:port` of the gRPC endpoint."""
        return f"{reached_at(self.spec.host)}:{self._ports[1]}"

    @property
    def metrics_url(self) -> str:
        """`host:port` of the Prometheus endpoint; its path is `/metrics`."""
        return f"{reached_at(self.spec.host)}:{self._ports[2]}"

    @property
    def pid(self) -> int:
        """The server's process id.

        Raises:
            DeployError: If the server is not running.
        """
        if self._process is None:
            raise DeployError("Triton is not running", where=str(self.run_dir), fix="start it first")
        return self._process.pid

    def __enter__(self) -> Self:
        self._signals.__enter__()
        try:
            self.start()
        except BaseException:
            self._signals.__exit__()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._signals.quiet = True
        try:
            self.stop()
        finally:
            self._signals.__exit__()

    def start(self) -> None:
        """Starts the server, loads the models and waits until each has answered.

        Raises:
            DeployError: If a port is taken, the server or a model does not come up, or another
                supervisor runs a server from the same folder.
            MissingDependencyError: If the server's wheel or libpython is missing.
        """
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        states.clear_orphans(self.run_dir)
        self.stopped.clear()
        self.failure = None
        try:
            self._start_process(choose_ports(self.spec))
            for model in self.models:
                self._load(model)
        except BaseException:
            self.stop()
            raise
        self._watcher = threading.Thread(target=self._watch, name="triton-watchdog", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Lets running requests end within the exit timeout, then kills what is left and cleans up."""
        self.stopped.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join()
        self._watcher = None
        with self._lock:
            self._stop_process()
            states.remove_state(self.run_dir)

    def load(self, model: str) -> None:
        """Loads a model or switches it to the version that its configuration selects; waits for an answer.

        Raises:
            DeployError: If it does not load or does not answer.
        """
        with self._lock:
            self._load(model)
            if model not in self.models:
                self.models.append(model)

    def unload(self, model: str) -> None:
        """Unloads a model; its running requests finish."""
        with self._lock:
            if model in self.models:
                self.models.remove(model)
            self._stubs.pop(model, None)
            with TritonClient(self.grpc_url) as client:
                client.unload(model)

    def check(self) -> None:
        """Runs one round of the watchdog.

        Raises:
            DeployError: If something died and could not be brought back, a model not in several attempts.
        """
        with self._lock:
            if self._process is None:
                return
            code = self._process.poll()
            if code is not None:
                self._restart(code)
                return
            self._end_what_hangs(time.monotonic())
            for model in list(self.models):
                if not all(_lives(stub) for stub in self._stubs.get(model, [])) and not self._adopt(model):
                    self._try_recovery(model, time.monotonic())

    def stub_pids(self, model: str) -> list[int]:
        """Returns the process ids that run a model."""
        return [stub.pid for stub in self._stubs.get(model, [])]

    def log_tail(self, lines: int = 20) -> str:
        """Returns the end of the server's log."""
        return log_tail(self.log_path, lines)

    def _watch(self) -> None:
        while not self.stopped.wait(_WATCH_SECONDS):
            try:
                self.check()
            except DeployError as error:
                self._give_up(error)
            except Exception as error:
                # Without this thread nobody would notice what dies: a server that is not watched is not left running.
                _logger.exception("the watchdog of Triton failed")
                self._give_up(
                    DeployError(
                        "the watchdog of Triton failed",
                        where=str(self.run_dir),
                        seen=f"{type(error).__name__}: {error}",
                        fix="mend what it says and start the server again",
                    )
                )

    def _give_up(self, failure: DeployError) -> None:
        _logger.error("giving up: %s", failure)
        self.failure = failure
        self.stopped.set()

    def _start_process(self, ports: tuple[int, int, int]) -> None:
        self._ports = ports
        self._process = TritonProcess(
            self.repository, self.models, self.spec, ports, run_dir=self.run_dir, log_path=self.log_path
        )
        self._process.wait_until_live()

    def _load(self, model: str) -> None:
        with TritonClient(self.grpc_url, timeout_seconds=self.spec.ready_timeout_seconds) as client:
            former = set(self._find_stubs(model))
            client.load(model)
            self._heartbeats.pop(model, None)
            # Those of a version that is being replaced soon end by themselves; a load that changes nothing
            # leaves the processes as they are.
            stubs = list(self._find_stubs(model))
            self._stubs[model] = [stub for stub in stubs if stub not in former] or stubs
            check_answer(client, self.repository, model)

    def _adopt(self, model: str) -> bool:
        """Takes over the processes of a version that somebody else had loaded (`recipes.deploy`), if there are some."""
        living = [stub for stub in self._find_stubs(model) if _lives(stub)]
        if living:
            self._stubs[model] = living
        return bool(living)

    def _end_what_hangs(self, now: float) -> None:
        """Kills the processes of models that answer nothing; they are then dead, and recovered as such."""
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        try:
            page = self._process.metrics() if self._process else ""
        except (OSError, HTTPException) as error:
            _logger.warning("the metrics of Triton cannot be read: %s", error)
            return
        for model in self.models:
            if not all(_lives(stub) for stub in self._stubs.get(model, [])):
                # Dead is another matter than silent.
                self._heartbeats.pop(model, None)
                continue
            beat = self._heartbeats.setdefault(model, self._heartbeat(model, now))
            if not beat.hangs(metrics_page.iterations(page, model), now):
                continue
            self.hangs += 1
            _logger.warning(
                "model %s has answered nothing for %.0f s: its process is killed", model, self.spec.hang_seconds
            )
            for stub in self._stubs.get(model, []):
                with contextlib.suppress(psutil.NoSuchProcess):
                    stub.kill()
            _wait_until_dead(self._stubs.get(model, []))
            del self._heartbeats[model]

    def _heartbeat(self, model: str, now: float) -> Heartbeat:
        def ask() -> None:
            with TritonClient(self.grpc_url, timeout_seconds=self.spec.hang_seconds) as client:
                check_answer(client, self.repository, model)

        return Heartbeat(ask, seconds=self.spec.heartbeat_seconds, patience=self.spec.hang_seconds, now=now)

    def _find_stubs(self, model: str) -> Iterator[psutil.Process]:
        mark = f"{self.repository / model}{os.sep}"
        for child in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if any(mark in part for part in child.cmdline()):
                    yield child

    def _try_recovery(self, model: str, now: float) -> None:
        """Brings a model back, unless that was tried a moment ago; the next round tries again what fails."""
        recovery = self._attempts.setdefault(model, Recovery())
        if not recovery.due(now):
            return
        if recovery.exhausted:
            raise DeployError(
                f"the model's process died again after {recovery.attempts} recoveries",
                where=model,
                seen=self.log_tail(5).strip(),
                fix=f"read {self.log_path}",
            )
        recovery.note(now)
        _logger.warning("process of model %s is dead, recovery %d", model, recovery.attempts)
        try:
            self._recover(model)
        except InferenceError as error:
            _logger.warning("model %s did not come back, next try in %.1f s: %s", model, recovery.pause_seconds, error)

    def _recover(self, model: str) -> None:
        self.recoveries += 1
        try:
            with TritonClient(self.grpc_url, timeout_seconds=self.spec.ready_timeout_seconds) as client:
                # A load alone is a no-op: for Triton the model is loaded, dead or not.
                client.unload(model)
            self._load(model)
        except InferenceError:
            # A model process that dies inside a lock of Triton's shared memory takes the server with it.
            code = self._process.exit_code(_DYING_SECONDS) if self._process else None
            if code is None:
                raise
            self._restart(code)

    def _restart(self, code: int) -> None:
        self.restarts += 1
        _logger.warning("Triton died with exit code %d, restart %d", code, self.restarts)
        now = time.monotonic()
        oldest = self._restart_times[0] if len(self._restart_times) == _MAX_RESTARTS else float("-inf")
        if now - oldest < _RESTART_WINDOW_SECONDS:
            raise DeployError(
                f"Triton died {_MAX_RESTARTS + 1} times within {_RESTART_WINDOW_SECONDS:.0f} s",
                where=str(self.log_path),
                seen=f"exit code {code}",
                fix="read the log",
            )
        self._restart_times.append(now)
        if self._process is not None:
            self._process.clear()
        self._start_process(self._ports)
        for model in self.models:
            self._load(model)

    def _stop_process(self) -> None:
        if self._process is None:
            return
        self._process.stop(models_live=all(_lives(stub) for stubs in self._stubs.values() for stub in stubs))
        self._process = None
        self._stubs.clear()


def run_until_signal(server: TritonServer) -> None:
    """Blocks until SIGINT, SIGTERM or SIGHUP, or until the watchdog gives up; the caller stops the server.

    Must be called from the main thread; the former signal handlers come back on return.

    Raises:
        DeployError: If the watchdog gave up.
    """
    asked = threading.Event()
    former = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, *ending_signals())}
    try:
        while not asked.wait(_WATCH_SECONDS) and not server.stopped.is_set():
            pass
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if server.failure is not None:
        raise server.failure


def _wait_until_dead(processes: Sequence[psutil.Process]) -> None:
    """Waits a few seconds; a zombie is dead, and Triton never takes the exit code of a stub (psutil would wait on)."""
    deadline = time.monotonic() + _DYING_SECONDS
    while any(map(_lives, processes)) and time.monotonic() < deadline:
        time.sleep(0.01)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
