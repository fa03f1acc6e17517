"""What a person sees, kept apart from what libraries print: theirs goes to a log file while a capture is open."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self, TextIO

_TAIL_BYTES = 16_384


class Display(Protocol):
    """What stands on the screen at the moment, such as a table of stages: lines go through it, not over it."""

    def note(self, line: str) -> None:
        """Shows a line above what stands."""

    def advance(self, label: str, share: float | None, text: str) -> None:
        """Notes how far the step `label` is, 0 to 1, and what is to be shown beside it."""


class Capture:
    """Sends what this process and its children print to a log; `out()` and `err()` still reach the person.

    File descriptors 1 and 2 are redirected, and `sys.stdout` and `sys.stderr` with them, so that native code,
    loggers with handlers of their own and child processes are caught too. Until `move_to` names the log it is
    a file without a name. A killed process loses nothing: the log is written without a buffer of its own.

    Args:
        silent: Whether `echo` and progress print nothing (ranks other than the first).
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.silent = silent
        self.path: Path | None = None
        self.shown = False
        self._log: IO[bytes] | None = None
        self._saved: dict[int, int] = {}
        self._former: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)
        self.out: TextIO = sys.stdout
        self.err: TextIO = sys.stderr

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begins; nothing happens if this one runs already."""
        if self._log is not None:
            return
        self._former = (sys.stdout, sys.stderr)
        _flush(*self._former)
        self._log = tempfile.TemporaryFile("w+b", buffering=0)  # noqa: SIM115 - lives until `stop`
        for number in (1, 2):
            # A daemon may have closed them.
            with contextlib.suppress(OSError):
                self._saved[number] = os.dup(number)
        self.out, self.err = self._person(1, self._former[0]), self._person(2, self._former[1])
        self._point(self._log)
        if 1 in self._saved:
            sys.stdout = _writer(1)
        if 2 in self._saved:
            sys.stderr = _writer(2)
        _open.append(self)

    def move_to(self, path: Path) -> None:
        """Gives the log its name and place; what was caught before comes with it. Later calls change nothing."""
        if self._log is None or self.path is not None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        _flush(sys.stdout, sys.stderr)
        named = path.open("a+b", buffering=0)
        self._log.seek(0)
        shutil.copyfileobj(self._log, named)
        self._log.close()
        self._log, self.path = named, path
        self._point(named)

    def stop(self, *, replay: bool = False) -> None:
        """Ends: everything goes to where it went before. An empty log is removed.

        Args:
            replay: Print what was caught so far; it is no longer kept apart.
        """
        if self._log is None:
            return
        _open.remove(self)
        # Objects from before the start may still hold text of libraries that keep them.
        _flush(sys.stdout, sys.stderr, self.out, self.err, *self._former)
        caught = self._text(whole=True) if replay else ""
        sys.stdout, sys.stderr = self._former
        for number, copy in self._saved.items():
            os.dup2(copy, number)
        for stream in (self.out, self.err):
            if stream not in self._former:
                stream.close()
        for copy in self._saved.values():
            os.close(copy)
        self._saved.clear()
        self.out, self.err = self._former
        self._log.close()
        self._log = None
        if self.path is not None and not self.path.stat().st_size:
            self.path.unlink()
            self.path = None
        if caught:
            write(sys.stderr, caught)

    @property
    def empty(self) -> bool:
        """Whether nothing was caught so far."""
        _flush(sys.stdout, sys.stderr)
        return self._log is None or not os.fstat(self._log.fileno()).st_size

    def tail(self, lines: int = 20) -> str:
        """Returns the last lines caught."""
        _flush(sys.stdout, sys.stderr)
        return "\n".join(self._text().splitlines()[-lines:]) if self._log is not None else ""

    def _text(self, *, whole: bool = False) -> str:
        if self._log is None:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        start = 0 if whole else max(0, size - _TAIL_BYTES)
        return os.pread(self._log.fileno(), size - start, start).decode("utf-8", "replace")

    def _person(self, number: int, stream: TextIO) -> TextIO:
        """The stream that reaches the person: the object itself where it is not the process's own descriptor."""
        try:
            own = stream.fileno() == number
        except (OSError, ValueError, AttributeError):
            own = False
        if not own or number not in self._saved:
            return stream
        raw = os.fdopen(self._saved[number], "wb", closefd=False)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        return io.TextIOWrapper(raw, encoding=encoding, errors="replace", line_buffering=True)

    def _point(self, log: IO[bytes]) -> None:
        for number in self._saved:
            os.dup2(log.fileno(), number)


# Innermost last; a stack, so that a test may open one inside another.
_open: list[Capture] = []
_displays: list[Display] = []


def capture() -> Capture | None:
    """Returns the capture that is open."""
    return _open[-1] if _open else None


def out() -> TextIO:
    """Returns the stream for results."""
    return _open[-1].out if _open else sys.stdout


def err() -> TextIO:
    """Returns the stream for progress and errors."""
    return _open[-1].err if _open else sys.stderr


def silent() -> bool:
    """Returns whether nobody is to be told anything but errors."""
    return bool(_open) and _open[-1].silent


def display() -> Display | None:
    """Returns what stands on the screen, None if nothing does."""
    return _displays[-1] if _displays else None


@contextlib.contextmanager
def showing(shown: Display) -> Iterator[None]:
    """Makes `shown` the display for the length of the block."""
    _displays.append(shown)
    try:
        yield
    finally:
        _displays.remove(shown)


def echo(line: str = "") -> None:
    """Shows one line for people, at once."""
    standing = display()
    if silent():
        return
    if standing is not None:
        standing.note(line)
    else:
        write(out(), f"{line}\n")


def complain(line: str) -> None:
    """Shows one line that is no result: a warning, an error."""
    standing = display()
    if standing is not None:
        standing.note(line)
    else:
        write(err(), f"{line}\n")


def write(stream: TextIO, text: str) -> None:
    """Writes text at once; what the stream's encoding lacks becomes a question mark."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


def _writer(number: int) -> TextIO:
    raw = os.fdopen(number, "wb", buffering=0, closefd=False)
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True, write_through=True)


def _flush(*streams: TextIO) -> None:
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
