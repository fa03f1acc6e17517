"""The gateway as a supervised child process."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from throughline.contracts.errors import GatewayError
from throughline.contracts.gateway import GatewaySpec

_READY = "ready "
_LAST_LINES = 8
_EXIT_SECONDS = 5.0


class GatewayProcess:
    """Starts `python -m throughline.gateway` and ends it with the `with` block.

    Args:
        spec: What to serve; port 0 takes a free one.
        ready_seconds: How long it may take until it accepts requests.
        log_path: Where its log goes; by default a temporary file that ends with it.
    """

    def __init__(self, spec: GatewaySpec, *, ready_seconds: float = 60.0, log_path: Path | None = None) -> None:
        self.spec = spec
        self._ready_seconds = ready_seconds
        self._log_path = log_path
        self._resources = contextlib.ExitStack()
        self._log: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """`http://host:port`.

        Raises:
            GatewayError: If it is not running.
        """
        self._running()
        return self._url

    @property
    def pid(self) -> int:
        """The child's process id.

        Raises:
            GatewayError: If it is not running.
        """
        return self._running().pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the child and waits until it accepts requests.

        Raises:
            GatewayError: With its last lines, if it ends first or takes too long.
        """
        try:
            self._start()
        except BaseException:
            self._kill_and_clean(0.0)
            raise

    def stop(self) -> None:
        """Asks it to drain (SIGTERM), and kills it (SIGKILL) when its own time for that is over."""
        self._kill_and_clean(self.spec.timeouts.drain_seconds + _EXIT_SECONDS)

    def wait(self, seconds: float) -> int:
        """The child's exit code, once it has ended by itself.

        Raises:
            GatewayError: If it is not running, or still is after `seconds`.
        """
        process = self._running()
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise GatewayError(
                "the gateway still runs", where=f"process {process.pid}", seen=f"{seconds:g} s"
            ) from None

    def log_tail(self, lines: int = _LAST_LINES) -> str:
        """The last lines of its log."""
        if self._log is None:
            return ""
        # Through a file of its own: the child writes where the offset of ours stands.
        return "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-lines:])

    def _start(self) -> None:
        folder = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="gateway-")))
        spec_path = folder / "gateway.json"
        spec_path.write_text(self.spec.model_dump_json(), encoding="utf-8")
        log_path = self._log_path or folder / "gateway.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        # A file and not a pipe: nobody reads a pipe while the child serves, and a full one would stop it.
        log = self._resources.enter_context(log_path.open("wb"))
        self._log = log_path
        self._process = subprocess.Popen(
            [sys.executable, "-m", "throughline.gateway", "--spec", str(spec_path), "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            # Its own session: Ctrl-C in a terminal must reach the supervisor first, which then drains.
            start_new_session=True,
        )
        self._url = self._ready_line(time.monotonic() + self._ready_seconds)

    def _ready_line(self, deadline: float) -> str:
        process = self._running()
        if process.stdout is None:
            raise GatewayError("the gateway has no standard output", where=f"process {process.pid}")
        line = b""
        while not line.endswith(b"\n"):
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([process.stdout], [], [], remaining)[0]:
                raise GatewayError(
                    "the gateway was not ready in time",
                    where=f"process {process.pid}",
                    seen=f"{self._ready_seconds:g} s; its last lines: {self.log_tail() or 'none'}",
                    fix="read its log, or raise ready_seconds",
                )
            read = os.read(process.stdout.fileno(), 1024)
            if not read:
                raise GatewayError(
                    "the gateway ended while it was starting",
                    where=f"exit code {process.wait(_EXIT_SECONDS)}",
                    seen=self.log_tail() or "an empty log",
                    fix="correct what its last line names",
                )
            line += read
        return line.decode().strip().removeprefix(_READY)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise GatewayError("the gateway is not running", fix="start it first")
        return self._process

    def _kill_and_clean(self, seconds: float) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None and seconds:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._log = None
        self._resources.close()
