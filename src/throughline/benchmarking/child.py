"""A child process that answers one JSON line with another: engines and load generators live in one of their own."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from throughline.contracts.errors import EngineError, InternalError

_EXIT_SECONDS = 10.0


class Child:
    """Starts `python -m <module>` and ends it with the `with` block; its standard error is ours.

    Args:
        module: A module that serves `Answers`.
        arguments: Its command line.
    """

    def __init__(self, module: str, arguments: Sequence[str] = ()) -> None:
        self._module = module
        self._arguments = tuple(arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    @property
    def pid(self) -> int:
        """The child's process id.

        Raises:
            InternalError: If it is not running.
        """
        return self._running().pid

    def __enter__(self) -> Self:
        self._rest = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if error is None and process.stdin is not None:
            # The end of its input ends it.
            process.stdin.close()
            try:
                process.wait(_EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        else:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def ask(self, message: Any, *, timeout_seconds: float) -> Any:
        """Sends one message and returns the answer; both are plain JSON types.

        Raises:
            EngineError: If the child ends first, gives no answer in time, or answers with nothing but an `error`.
        """
        process = self._running()
        if process.stdin is None:
            raise InternalError("child has no standard input", where=self._module)
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._ended(process) from None
        answer = json.loads(self._line(process, time.monotonic() + timeout_seconds, timeout_seconds))
        if isinstance(answer, dict) and set(answer) == {"error"}:
            raise EngineError(answer["error"])
        return answer

    def _line(self, process: subprocess.Popen[bytes], deadline: float, timeout_seconds: float) -> bytes:
        if process.stdout is None:
            raise InternalError("child has no standard output", where=self._module)
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                process.kill()
                raise EngineError(
                    f"{self._module} gave no answer in time",
                    where=f"process {process.pid}, which was ended",
                    seen=f"{timeout_seconds:g} s",
                    fix="raise bench.timeout_seconds, or ask for fewer requests",
                )
            read = os.read(process.stdout.fileno(), 2**16)
            if not read:
                raise self._ended(process)
            self._rest += read
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    def _ended(self, process: subprocess.Popen[bytes]) -> EngineError:
        return EngineError(
            f"{self._module} ended early",
            where=f"process {process.pid}",
            seen=f"exit code {process.wait()}",
            fix="read its last lines in the log",
        )

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise InternalError("child is used outside `with`", where=self._module)
        return self._process


class Answers:
    """The child's side: answers each line of standard input.

    From its making on, what libraries print goes to standard error, so make it before they are loaded.
    """

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def serve(self, answer: Callable[[Any], Any]) -> None:
        """Answers until standard input ends."""
        for line in sys.stdin:
            self._out.write(json.dumps(answer(json.loads(line))) + "\n")
            self._out.flush()
