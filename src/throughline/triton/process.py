"""The process of one Triton server: started, seen live, asked for its metrics, and ended with all of its children."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path

import psutil

from throughline.contracts.errors import DeployError
from throughline.contracts.serving import ServeSpec
from throughline.triton import metrics_page, tracing
from throughline.triton import state as states
from throughline.triton.client import TritonClient
from throughline.triton.installation import assemble_backends, command, environment, find_installation
from throughline.triton.ports import connects, reached_at

# An idle exit takes 2 to 3 seconds, most of it Triton's own one-second polling.
_IDLE_EXIT_SECONDS = 6.0


class TritonProcess:
    """A running server and its state file.

    Args:
        repository: Model repository.
        models: Models that the state file names.
        spec: Addresses and time limits.
        ports: HTTP, gRPC and metrics port.
        run_dir: Folder for the state file and the backend links.
        log_path: Where the server's output goes.

    Attributes:
        pid: Its process id.

    Raises:
        MissingDependencyError: If the server's wheel or libpython is missing.
    """

    def __init__(
        self,
        repository: Path,
        models: Sequence[str],
        spec: ServeSpec,
        ports: tuple[int, int, int],
        *,
        run_dir: Path,
        log_path: Path,
    ) -> None:
        self._spec = spec
        self._ports = ports
        self._log_path = log_path
        self._shm_prefix = f"{states.MARK}{os.getpid()}_{secrets.token_hex(4)}_"
        installation = find_installation()
        arguments = command(
            installation,
            repository=repository,
            backends=assemble_backends(installation, run_dir / "backends"),
            host=spec.host,
            http_port=ports[0],
            grpc_port=ports[1],
            metrics_port=ports[2],
            shm_prefix=self._shm_prefix,
            exit_timeout_seconds=spec.exit_timeout_seconds,
            trace_flags=tracing.flags(spec.tracing),
        )
        with log_path.open("ab") as log:
            # Its own session: Ctrl-C in a terminal must reach the supervisor first, which then drains.
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(installation),
                start_new_session=True,
            )
        self.pid = self._process.pid
        states.write_state(run_dir, self._state(repository, models))

    def _state(self, repository: Path, models: Sequence[str]) -> states.ServerState:
        return states.ServerState(
            pid=self.pid,
            pid_created=psutil.Process(self.pid).create_time(),
            supervisor_pid=os.getpid(),
            supervisor_created=psutil.Process().create_time(),
            http_port=self._ports[0],
            grpc_port=self._ports[1],
            metrics_port=self._ports[2],
            repository=str(repository),
            models=tuple(models),
            shm_prefix=self._shm_prefix,
            log_path=str(self._log_path),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            host=reached_at(self._spec.host),
        )

    def wait_until_live(self) -> None:
        """Waits until the server answers.

        Raises:
            DeployError: If it ends, or does not answer within `ready_timeout_seconds`.
        """
        host, port = reached_at(self._spec.host), self._ports[1]
        deadline = time.monotonic() + self._spec.ready_timeout_seconds
        while time.monotonic() < deadline:
            if self.poll() is not None:
                raise DeployError(
                    "Triton ended while it was starting",
                    where=str(self._log_path),
                    seen=log_tail(self._log_path, 5).strip() or "an empty log",
                    fix="read the log",
                )
            # A plain connect first: a gRPC channel that fails once waits a second before it tries again.
            if connects(host, port):
                with TritonClient(f"{host}:{port}") as client:
                    if client.is_live():
                        return
            time.sleep(0.05)
        raise DeployError(
            "Triton did not answer in time",
            where=f"{host}:{port}",
            seen=f"{self._spec.ready_timeout_seconds} s",
            fix=f"read {self._log_path}, or raise ready_timeout_seconds",
        )

    def poll(self) -> int | None:
        """Returns the exit code, None while it runs."""
        return self._process.poll()

    def exit_code(self, timeout: float) -> int | None:
        """Returns the exit code if the server ends within `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def metrics(self) -> str:
        """Returns the Prometheus page; raises as `metrics_page.fetch`."""
        return metrics_page.fetch(reached_at(self._spec.host), self._ports[2])

    def stop(self, *, models_live: bool) -> None:
        """Lets running requests end within the exit timeout, then kills what is left.

        Args:
            models_live: Whether the processes of all models live.
        """
        if self.poll() is None:
            patience = self._patience(models_live)
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self.clear()
        self._process.wait()

    def clear(self) -> None:
        """Kills what is left of the server and its children, and removes their shared memory."""
        states.kill_marked(self._shm_prefix)

    def _patience(self, models_live: bool) -> float:
        """Seconds that Triton gets after SIGTERM."""
        if not models_live:
            # With a dead stub Triton only ever waits its whole timeout and then hangs.
            return 1.0
        longest = self._spec.exit_timeout_seconds + 5.0
        try:
            # A request that was cancelled in the moment it ended is never released by Triton 2.51, which
            # then waits for it in vain: with nothing running, no more is due than a normal exit takes.
            return longest if metrics_page.active_requests(self.metrics()) else min(longest, _IDLE_EXIT_SECONDS)
        except (OSError, HTTPException):
            return longest


def log_tail(path: Path, lines: int) -> str:
    """Returns the end of a log, empty if there is none."""
    if not path.exists():
        return ""
    with path.open(encoding="utf-8", errors="replace") as log:
        return "".join(deque(log, maxlen=lines))
