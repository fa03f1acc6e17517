"""What an engine's failures mean to a client."""

from __future__ import annotations

from throughline.gateway.errors import ApiError, bad_request, server_error, timed_out, unavailable

_NOT_READY = ("is not healthy", "no available versions", "unknown model", "not ready", "not found")


class ClientGoneError(Exception):
    """The client closed its connection; nobody is left to answer."""


def away() -> ApiError:
    """503: the engine cannot be reached, or has failed."""
    return unavailable("The engine is not available at the moment.")


def protocol_error(message: str) -> ApiError:
    """502: the engine's answer is none that its contract has."""
    return server_error(message, code="upstream_protocol", status=502)


def refused(why: str) -> ApiError:
    """400: the engine does not take the request."""
    return bad_request(f"The engine refuses the request: {why}")


def rpc_error(error: Exception) -> Exception:
    """The client's error for one of gRPC; any other is returned as it is."""
    from grpc import StatusCode, aio

    if not isinstance(error, aio.AioRpcError):
        return error
    code, details = error.code(), error.details() or ""
    if code is StatusCode.DEADLINE_EXCEEDED:
        return timed_out("The request took longer than its total limit.")
    if code in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED):
        return away()
    if code is StatusCode.INVALID_ARGUMENT:
        return refused(details)
    return stream_error(details or code.name)


def stream_error(text: str) -> ApiError:
    """The client's error for one that Triton reports as text, before which our engine model puts its status."""
    status, _, rest = text.partition(": ")
    if status in ("UNAVAILABLE", "CANCELLED"):
        return away()
    if status == "INVALID_ARG":
        return refused(rest)
    if status == "INTERNAL":
        text = rest
    if any(mark in text for mark in _NOT_READY):
        return unavailable("The engine is not ready at the moment.")
    return server_error(f"The engine failed: {text}", code="upstream_error")
