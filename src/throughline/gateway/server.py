"""Runs the gateway under uvicorn with uvloop and httptools until it is told to stop, then drains."""

from __future__ import annotations

import asyncio
import contextlib
import math
import resource
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from throughline.contracts.errors import GatewayError
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import logs
from throughline.gateway.app import GatewayApp, create_app
from throughline.gateway.fit import check_fit
from throughline.gateway.signals import ending_signals
from throughline.gateway.workers import Place, supervise

if TYPE_CHECKING:
    pass

_BACKLOG = 1024
# uvicorn ticks every 0.1 s.
_TICKS_PER_SWEEP = 5
# Files beside client connections: the listener, gRPC, the store, the log.
_OTHER_FILES = 256


def serve(
    spec: GatewaySpec,
    *,
    on_ready: Callable[[str], None] | None = None,
    log_stream: TextIO | None = None,
    place: Place | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM, then refuses new requests and lets running ones end.

    Running requests get `drain_seconds`; what is left is cut off, and a second SIGINT does so at once.
    Outside the main thread signals are not seen. With several `spec.workers` this process only watches over them, and
    their log goes to standard error.

    Args:
        spec: What to serve and where.
        on_ready: Called once with `http://host:port` when requests are accepted.
        log_stream: Where log lines go; standard error if None.
        place: Which of several workers this process is.

    Raises:
        EngineError: If an engine folder is none.
        ConfigError: If its `engine.json` does not validate.
        GatewayError: If the address or the key store cannot be used, a folder lacks what a prompt needs, or a model
            on Triton has not the tensors of its contract.
        MissingDependencyError: If the key store needs a package that is not there.
    """
    logs.configure(spec.log_format, log_stream)
    if place is not None:
        listener = socket.socket(fileno=place.listener)
        _serve(create_app(spec, place.board(spec)), spec, listener, on_ready)
        return
    check_fit(spec)
    if spec.workers > 1:
        listener = _listen(spec.host, spec.port)
        supervise(spec, listener, lambda: on_ready(_url(listener)) if on_ready is not None else None)
    else:
        app = create_app(spec)
        _serve(app, spec, _listen(spec.host, spec.port), on_ready)


def _serve(app: GatewayApp, spec: GatewaySpec, listener: socket.socket, on_ready: Callable[[str], None] | None) -> None:
    import uvicorn
    import uvloop

    from throughline.gateway.connections import connection_class

    _allow_files(spec.limits.max_connections)
    config = uvicorn.Config(
        app,
        http=connection_class(spec, app.metrics),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=spec.timeouts.keep_alive_seconds,
        timeout_graceful_shutdown=math.ceil(spec.timeouts.drain_seconds),
    )
    server = _server_class()(config)
    server.on_started = lambda: on_ready(_url(listener)) if on_ready is not None else None
    with contextlib.closing(listener):
        try:
            uvloop.run(server.serve(sockets=[listener]))
        except SystemExit:
            # uvicorn's way to end when the application could not start.
            if not app.startup_error:
                raise
    if app.startup_error:
        raise GatewayError(
            "the key store cannot be opened",
            where="keys.store",
            seen=app.startup_error,
            fix="start the server that it names, or correct it",
        )


def _server_class() -> Any:
    import uvicorn

    from throughline.gateway.connections import sweep

    class Server(uvicorn.Server):
        """Says when it is ready, ends connections that are beyond a limit, and ends normally after a signal."""

        on_started: Callable[[], None]

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if not self.should_exit:
                self.on_started()

        async def on_tick(self, counter: int) -> bool:
            if counter % _TICKS_PER_SWEEP == 0:
                sweep(self.server_state.connections, asyncio.get_running_loop().time())
            return await super().on_tick(counter)

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            # Its own version raises the signal again after the drain, and the process would die of it.
            with ending_signals(self.handle_exit):
                yield

    return Server


def _allow_files(connections: int) -> None:
    """Raises the soft limit of open files, which is often 1,024, to what so many connections need, if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise GatewayError(
            "the host cannot be used", where=f"{host}:{port}", seen=str(error), fix="correct 'host'"
        ) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise GatewayError(
            "the address cannot be used",
            where=f"{host}:{port}",
            seen=error.strerror or str(error),
            fix="stop what uses it, choose another port, or set port=0 to take a free one",
        ) from None
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    # Where it listens on every address, loopback is the one that this machine reaches it by.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
