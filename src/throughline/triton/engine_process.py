"""An engine in a process of its own: OpenVINO's `step()` holds the interpreter, and requests would wait for it."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from throughline.contracts.engine import EngineStats, SamplingParams, StepOutput
from throughline.contracts.errors import EngineError
from throughline.triton import engine_worker
from throughline.triton.frames import Cancel, FromEngine, Load, Loaded, Step, Submit, ToEngine, Wire, from_engine

_EXIT_SECONDS = 5.0
# A scheduler has more to do than to wait for steps: cancelled requests, deadlines, metrics.
_LONGEST_WAIT_SECONDS = 0.05


class Wakeup:
    """Makes a scheduler that waits for its engine look at its inbox; any thread may `set` it."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """For selectors."""
        return self._fd

    def set(self) -> None:
        """Wakes."""
        os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Forgets what woke."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return


class EngineProcess:
    """`EngineRuntime` of an engine in a child process, which steps on while its outputs are sent.

    `step` waits for the next step's outputs, but no longer than 50 ms or until the wake-up is set: then it returns
    nothing. A child that ends on its own makes it raise. The child is killed with the thread that started it.

    Args:
        runtime: `module:function` that loads the engine, within the child.
        engine_dir: The engine.
        wakeup: What ends a wait early.

    Raises:
        EngineError: If the engine cannot be loaded.
    """

    def __init__(self, runtime: str, engine_dir: Path, wakeup: Wakeup) -> None:
        self._wakeup = wakeup
        self._engine_dir = engine_dir
        self._sent = 0
        self._live: set[str] = set()
        self._steps: deque[Step] = deque()
        self._stats = EngineStats(0, 0, 0.0, 0, 0, iterations=0)
        ours, theirs = socket.socketpair()
        self._wire = Wire(ours)
        with theirs:
            self._child = subprocess.Popen(
                [python(), "-P", "-m", engine_worker.__name__, str(theirs.fileno()), str(engine_dir)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(_import_path()),
                    engine_worker.PARENT: str(os.getpid()),
                },
            )
        self.pid = self._child.pid
        try:
            self._send(Load(runtime, str(engine_dir)))
            self._wait_until_loaded()
        except BaseException:
            self.close()
            raise

    def submit(self, request_id: str, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        """See `EngineRuntime.submit`."""
        if request_id in self._live:
            raise EngineError("request id is live already", where="request_id", seen=request_id, fix="use a fresh id")
        self._live.add(request_id)
        self._send(Submit(request_id, tuple(prompt_token_ids), params))

    def cancel(self, request_id: str) -> None:
        """See `EngineRuntime.cancel`."""
        if request_id in self._live:
            self._send(Cancel(request_id))

    def step(self) -> list[StepOutput]:
        """See `EngineRuntime.step`.

        Raises:
            EngineError: If the child has ended.
        """
        if not self._steps:
            self._receive(_LONGEST_WAIT_SECONDS if self._live else 0.0)
        if not self._steps:
            if self._wire.closed:
                raise self._ended()
            return []
        step = self._steps.popleft()
        self._stats = step.stats
        self._live.difference_update(output.request_id for output in step.outputs if output.finish_reason is not None)
        if not step.has_work and step.taken == self._sent:
            self._live.clear()
        return step.outputs

    def has_work(self) -> bool:
        """See `EngineRuntime.has_work`."""
        return bool(self._live or self._steps)

    def stats(self) -> EngineStats:
        """Returns the state after the step whose outputs were returned last."""
        return self._stats

    def close(self) -> None:
        """Ends the child; one that does not end within five seconds is killed."""
        self._wire.close()
        try:
            self._child.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _send(self, frame: ToEngine) -> None:
        self._sent += 1
        self._wire.send(frame)

    def _receive(self, timeout: float) -> list[FromEngine]:
        """Waits for something to do and returns frames that are no steps."""
        writing = [self._wire] if self._wire.unsent else []
        ends: list[Wire | Wakeup] = [self._wire, self._wakeup]
        readable, _, _ = select.select(ends, writing, [], timeout)
        if self._wakeup in readable:
            self._wakeup.clear()
        self._wire.flush()
        others: list[FromEngine] = []
        for body in self._wire.receive():
            frame = from_engine.decode(body)
            if isinstance(frame, Step):
                self._steps.append(frame)
            else:
                others.append(frame)
        return others

    def _wait_until_loaded(self) -> None:
        while not self._wire.closed:
            for frame in self._receive(_LONGEST_WAIT_SECONDS):
                if isinstance(frame, Loaded) and frame.error:
                    raise EngineError("engine cannot be loaded", where=str(self._engine_dir), seen=frame.error)
                return
        raise self._ended()

    def _ended(self) -> EngineError:
        try:
            code = self._child.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        return EngineError(
            "the engine's process ended",
            where=f"pid {self.pid}, engine {self._engine_dir}",
            seen="an open process without a connection" if code is None else f"exit code {code}",
            fix="read the server's log above this line",
        )


def python() -> str:
    """Returns this environment's interpreter; `sys.executable` is the stub within Triton."""
    own = Path(sys.prefix, "bin", "python3")
    return str(own) if own.is_file() else shutil.which("python3") or sys.executable


def _import_path() -> list[str]:
    """The folders that this process was given to import from, so that the child runs the same code."""
    return [entry for entry in sys.path if entry and not _is_standard(Path(entry))]


def _is_standard(path: Path) -> bool:
    return path.suffix == ".zip" or path.name in ("lib-dynload", "site-packages") or path == Path(os.__file__).parent
