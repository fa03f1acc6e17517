"""What deploy, serve and bench share: an engine on Triton, with or without the gateway before it."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.config import StrictModel, parse
from throughline.contracts.gateway import (
    GatewayLimits,
    GatewaySpec,
    GatewayTimeouts,
    KeySettings,
    ModelRoute,
    UpstreamSettings,
    check_open,
)
from throughline.contracts.serving import ServeSpec
from throughline.contracts.tracing import GatewayTracing

if TYPE_CHECKING:
    from throughline.gateway.process import GatewayProcess
    from throughline.triton.server import TritonServer


class GatewaySettings(StrictModel):
    """The gateway's settings but for its models; see `GatewaySpec`."""

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    keys: KeySettings = KeySettings()
    allow_open: bool = False
    unknown_fields: str = "refuse"
    limits: GatewayLimits = GatewayLimits()
    timeouts: GatewayTimeouts = GatewayTimeouts()
    upstream: UpstreamSettings = UpstreamSettings()
    tracing: GatewayTracing = GatewayTracing()

    @model_validator(mode="after")
    def _open_only_on_loopback(self) -> Self:
        # Before Triton is started for it.
        check_open(self.host, self.keys, allow_open=self.allow_open)
        return self

    def route(self, name: str, upstream: str, engine_dir: Path) -> ModelRoute:
        """Returns the route of one model, which our engine model serves under its own name."""
        return ModelRoute(id=name, upstream=upstream, triton_model=name, engine_dir=engine_dir)

    def spec(self, route: ModelRoute, log_format: str) -> GatewaySpec:
        """Returns the full spec for one model.

        Raises:
            ConfigError: If the settings contradict one another.
        """
        shared = self.model_dump(include=set(GatewaySettings.model_fields))
        values = {**shared, "models": (route.model_dump(),), "log_format": log_format}
        return parse(GatewaySpec, values, where="gateway")


def run_dir(store: ArtifactStore) -> Path:
    """Returns the folder of the running server's state and log."""
    folder = store.home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def render(engine: Artifact, name: str, serve: ServeSpec, repository: Path) -> int:
    """Renders the model repository for an engine and returns the version that is served."""
    from throughline.triton.repository import render as render_repository

    return render_repository(repository, name, engine.path, serve, engine_digest=engine.digest)


@contextlib.contextmanager
def triton(
    store: ArtifactStore,
    engine: Artifact,
    name: str,
    serve: ServeSpec,
    repository: Path,
    folder: Path | None = None,
) -> Iterator[TritonServer]:
    """Serves an engine on Triton for the length of the block; `folder` holds its state and log."""
    from throughline.triton.server import TritonServer

    render(engine, name, serve, repository)
    with TritonServer(repository, [name], serve, run_dir=folder or run_dir(store)) as server:
        yield server


@contextlib.contextmanager
def gateway(server: TritonServer, name: str, engine: Artifact, settings: GatewaySettings) -> Iterator[GatewayProcess]:
    """Runs the gateway in a process of its own before a server."""
    from throughline.gateway.process import GatewayProcess

    with GatewayProcess(settings.spec(settings.route(name, server.grpc_url, engine.path), "human")) as process:
        yield process


def curl(url: str, name: str, question: str, *, lead: str = "", keys: bool = False) -> str:
    """Returns a command that asks the gateway one question; greedy, since sampling leads a small model astray.

    With `keys` it sends the one in the shell's variable KEY.
    """
    messages = [{"role": "user", "content": question}]
    body = json.dumps({"model": name, "temperature": 0, "messages": messages}, ensure_ascii=False)
    key = ' -H "Authorization: Bearer $KEY"' if keys else ""
    return f"{lead}curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d {shlex.quote(body)}"
