"""When things happen in a gevent client: moments that are met, and stamps taken at the socket.

gevent's own timers come late by up to a millisecond, since epoll waits in whole ones; and what is noted after the
parsing of an answer has the parser's time in it. Imported by processes that gevent has patched.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any, Self

import gevent
import gevent.socket
from geventhttpclient import HTTPClient
from geventhttpclient.connectionpool import ConnectionPool

# Linux: `TFD_TIMER_ABSTIME` of timerfd_settime(2); the flags of timerfd_create(2) are those of open(2).
_ABSOLUTE = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Alarm:
    """Lets a greenlet wait until a moment of `time.perf_counter`, which is Linux's monotonic clock; a context manager.

    Raises:
        OSError: If the kernel gives no timer.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = self._checked(self._libc.timerfd_create(time.CLOCK_MONOTONIC, _FLAGS))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._timer)

    def wait_until(self, moment: float) -> None:
        """Returns as soon after the moment as the kernel wakes a sleeper, at once if it is over.

        Other greenlets run meanwhile.
        """
        if moment <= time.perf_counter():
            return
        seconds, nanoseconds = divmod(int(moment * 1e9), 10**9)
        wanted = _TimerSpec(_TimeSpec(0, 0), _TimeSpec(seconds, nanoseconds))
        self._checked(self._libc.timerfd_settime(self._timer, _ABSOLUTE, ctypes.byref(wanted), None))
        gevent.socket.wait_read(self._timer)
        os.read(self._timer, 8)

    def _checked(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


class Stamps:
    """When a connection's bytes are to go out, went out and came in, seconds of `time.perf_counter`.

    Attributes:
        due: Before it the first byte of a request does not leave.
        sent: Before that byte; 0 where nobody has noted it, as over TLS.
        came: After the newest bytes; 0 likewise.
    """

    def __init__(self) -> None:
        self.due = self.sent = self.came = 0.0

    def begin(self, due: float) -> None:
        """Begins a request."""
        self.due, self.sent, self.came = due, 0.0, 0.0


class StampedClient(HTTPClient):
    """A client of one connection whose requests leave when they are due, with `stamps` taken at its socket.

    Over TLS no stamps are taken, and a request is due before it is written.
    """

    def __init__(self, host: str, *, timeout_seconds: float, **options: Any) -> None:
        timeouts: dict[str, Any] = {"connection_timeout": timeout_seconds, "network_timeout": timeout_seconds}
        super().__init__(host, concurrency=1, **timeouts, **options)
        self.stamps = Stamps()
        if not self.ssl:
            port = int(self.port or 80)
            pool = _StampedPool(host, port, host, port, size=1, **timeouts)
            pool.stamps = self.stamps
            self._connection_pool = pool

    def begin(self, due: float) -> None:
        """Begins a request that leaves no earlier than `due`, seconds of `time.perf_counter`."""
        self.stamps.begin(due)
        if self.ssl:
            _wait(due)


class _StampedPool(ConnectionPool):
    stamps: Stamps

    def _create_tcp_socket(self, family: int, socktype: int, protocol: int) -> Any:
        return _StampedSocket(super()._create_tcp_socket(family, socktype, protocol), self.stamps)


class _StampedSocket:
    """A socket that a pool keeps; `sendall` waits until the request is due."""

    def __init__(self, socket: Any, stamps: Stamps) -> None:
        self._socket, self._stamps = socket, stamps

    def sendall(self, data: bytes) -> None:
        _wait(self._stamps.due)
        self._stamps.sent = self._stamps.sent or time.perf_counter()
        self._socket.sendall(data)

    def recv(self, size: int) -> bytes:
        data: bytes = self._socket.recv(size)
        self._stamps.came = time.perf_counter()
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def _wait(moment: float) -> None:
    """Waits in turns of the event loop, in which others are served; a timer would be late."""
    while time.perf_counter() < moment:
        gevent.sleep(0)
