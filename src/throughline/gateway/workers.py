"""Several worker processes behind one listening socket: started, watched, started again when they die, and drained."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from throughline.contracts.errors import GatewayError
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway.board import Board
from throughline.gateway.metrics import row_length
from throughline.gateway.signals import ending_signals

logger = logging.getLogger("throughline.gateway")
# Beyond their own time to drain; `GatewayProcess` waits a little longer for us.
_EXIT_SECONDS = 3.0
# A worker that lived shorter than the first is started again after the second, lest one that cannot live takes a core.
_LIVED_SECONDS, _PAUSE_SECONDS = 10.0, 1.0
_EXIT_AT_ONCE = 2


@dataclass(frozen=True)
class Place:
    """What a worker needs to be one of several.

    Attributes:
        worker: Which one, from 0.
        listener: Descriptor of the listening socket.
        file: Descriptor of the shared board.
    """

    worker: int
    listener: int
    file: int

    def board(self, spec: GatewaySpec) -> Board:
        """The numbers that the workers share."""
        length = row_length(len(spec.models))
        return Board.shared(self.file, workers=spec.workers, own=self.worker, length=length)


@dataclass
class _Worker:
    """One process; None before its time to start has come."""

    number: int
    start_at: float = 0.0
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    ready: bool = False


def supervise(spec: GatewaySpec, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Runs `spec.workers` processes until SIGINT or SIGTERM, then lets them drain; a second signal ends them at once.

    Args:
        spec: What to serve.
        listener: Bound; it is closed on return.
        on_ready: Called once all of them accept requests.

    Raises:
        GatewayError: If a worker ends while all start for the first time.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(listener))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-workers-")))
        (folder / "gateway.json").write_text(spec.model_dump_json(), encoding="utf-8")
        supervisor = _Supervisor(spec, folder, listener)
        stack.callback(supervisor.kill)
        stack.enter_context(ending_signals(supervisor.signalled))
        supervisor.run(on_ready)


class _Supervisor:
    def __init__(self, spec: GatewaySpec, folder: Path, listener: socket.socket) -> None:
        self._spec, self._folder, self._listener = spec, folder, listener
        length = row_length(len(spec.models))
        # Open as long as the process, as is the memory behind it.
        self._file = (folder / "board").open("w+b")
        self._file.truncate(Board.size(spec.workers, length))
        self._board = Board.shared(self._file.fileno(), workers=spec.workers, own=0, length=length)
        self._workers = [_Worker(number) for number in range(spec.workers)]
        self._wake, self._woken = os.pipe()
        self._signals = 0
        self._announced = False
        self._kill_at = float("inf")

    def signalled(self, *_: object) -> None:
        """Counts a signal that asks to end."""
        self._signals += 1
        os.write(self._woken, b"x")

    def kill(self) -> None:
        """Ends what is left and closes the files."""
        for worker in self._workers:
            if worker.process is not None:
                worker.process.kill()
                worker.process.wait()
                _close(worker.process)
        self._file.close()
        os.close(self._wake)
        os.close(self._woken)

    def run(self, on_ready: Callable[[], None]) -> None:
        """Returns when all workers have ended because a signal asked for it."""
        while True:
            self._start_due()
            self._wait()
            if self._signals and self._kill_at == float("inf"):
                self._drain()
            if self._signals:
                if all(worker.process is None for worker in self._workers):
                    return
                if self._signals >= _EXIT_AT_ONCE or time.monotonic() >= self._kill_at:
                    return
            elif not self._announced and all(worker.ready for worker in self._workers):
                self._announced = True
                on_ready()

    def _wait(self) -> None:
        """Until a worker speaks or ends, a signal comes, or something is due."""
        outputs = {
            worker.process.stdout.fileno(): worker
            for worker in self._workers
            if worker.process is not None and worker.process.stdout is not None
        }
        due = [worker.start_at for worker in self._workers if worker.process is None] if not self._signals else []
        pause = min([*due, self._kill_at]) - time.monotonic()
        found, _, _ = select.select([self._wake, *outputs], [], [], None if pause == float("inf") else max(0.0, pause))
        for file in found:
            if file == self._wake:
                os.read(self._wake, 64)
            elif os.read(file, 1024):
                outputs[file].ready = True
            else:
                self._ended(outputs[file])

    def _start_due(self) -> None:
        for worker in self._workers:
            if worker.process is None and not self._signals and time.monotonic() >= worker.start_at:
                self._start(worker)

    def _start(self, worker: _Worker) -> None:
        listener, board = self._listener.fileno(), self._file.fileno()
        command = [sys.executable, "-m", "throughline.gateway", "--spec", str(self._folder / "gateway.json")]
        command += ["--parent", str(os.getpid()), "--worker", str(worker.number)]
        command += ["--listener", str(listener), "--board", str(board)]
        worker.ready, worker.started = False, time.monotonic()
        worker.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=(listener, board),
            # Its own session: Ctrl-C in a terminal must reach us alone.
            start_new_session=True,
        )

    def _ended(self, worker: _Worker) -> None:
        process, worker.process = worker.process, None
        if process is None:
            return
        # Its output ends with it; one that closed it while it lives is of no use any more.
        process.kill()
        code = process.wait()
        _close(process)
        self._board.forget(worker.number)
        if self._signals:
            return
        if not self._announced:
            raise GatewayError(
                "a worker ended while it was starting",
                where=f"worker {worker.number}",
                seen=f"exit code {code}",
                fix="correct what it wrote to the log",
            )
        logger.error("worker %d ended with exit code %d and is started again", worker.number, code)
        lived = time.monotonic() - worker.started
        worker.start_at = 0.0 if lived >= _LIVED_SECONDS else time.monotonic() + _PAUSE_SECONDS

    def _drain(self) -> None:
        # Ours too, so that clients are refused once the workers' are closed.
        self._listener.close()
        self._kill_at = time.monotonic() + self._spec.timeouts.drain_seconds + _EXIT_SECONDS
        for worker in self._workers:
            if worker.process is not None:
                worker.process.terminate()


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdout is not None:
        process.stdout.close()
