"""Triton's addresses: which ports to take, and how this machine reaches them."""

from __future__ import annotations

import contextlib
import socket

from throughline.contracts.errors import DeployError
from throughline.contracts.serving import LOOPBACK, ServeSpec

_ANY_ADDRESS = "0.0.0.0"  # noqa: S104  # compared with, never bound by default


def choose_ports(spec: ServeSpec) -> tuple[int, int, int]:
    """Returns the HTTP, gRPC and metrics ports: the wanted ones after a look, free ones for 0.

    Raises:
        DeployError: If a wanted port is taken.
    """
    with contextlib.ExitStack() as stack:
        chosen = []
        for name in ("http_port", "grpc_port", "metrics_port"):
            wanted = getattr(spec, name)
            listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((spec.host, wanted))
            except OSError:
                raise DeployError(
                    "port is taken",
                    where=name,
                    seen=f"{spec.host}:{wanted}",
                    fix=f"stop what uses it, or set {name}=0 to take a free one",
                ) from None
            chosen.append(int(listener.getsockname()[1]))
        return chosen[0], chosen[1], chosen[2]


def reached_at(host: str) -> str:
    """Returns the address at which this machine reaches what is bound to `host`."""
    return LOOPBACK if host == _ANY_ADDRESS else host


def connects(host: str, port: int) -> bool:
    """Returns whether something listens there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
