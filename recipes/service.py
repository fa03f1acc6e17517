"""What deploy, serve and bench share: an engine on Triton, with or without the gateway before it."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from pydantic import model_validator

from recipes import references
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.config import StrictModel, parse
from throughline.contracts.engine import EngineInfo
from throughline.contracts.errors import EngineError
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

    def routes(self, engines: Mapping[str, Path], upstream: str) -> list[ModelRoute]:
        """Returns the routes of engine folders by name of the model, which is its name on a Triton of ours too."""
        return [
            ModelRoute(id=name, upstream=upstream, triton_model=name, engine_dir=folder)
            for name, folder in engines.items()
        ]

    def spec(self, routes: Sequence[ModelRoute], log_format: str) -> GatewaySpec:
        """Returns the full spec.

        Raises:
            ConfigError: If the settings contradict one another.
        """
        shared = self.model_dump(include=set(GatewaySettings.model_fields))
        models = tuple(route.model_dump() for route in routes)
        values = {**shared, "models": models, "log_format": log_format}
        return parse(GatewaySpec, values, where="gateway")


class EmbeddingTarget(StrictModel):
    """An embedding engine that is served beside the generating one.

    Attributes:
        target: Its digest, or what else `recipes.references` reads; empty for none.
        name: Name of its model.
    """

    target: str = ""
    name: str = "embedding"

    def engines(self, store: ArtifactStore, profile: str) -> dict[str, Artifact]:
        """The engine by its name; empty without one.

        Raises:
            ArtifactError: If there is no such engine.
            EngineError: If it makes tokens.
        """
        if not self.target:
            return {}
        engine = references.engine(store, self.target, profile, key="embedding.target", embeds=True)
        if EngineInfo.read(engine.path).embedding is None:
            raise EngineError(
                "this engine makes tokens, no vectors",
                where=f"embedding.target={self.target}",
                seen=str(engine.path),
                fix="give one of `python -m recipes.build engine=embedding`",
            )
        return {self.name: engine}


class _Named(Protocol):
    name: str
    embedding: EmbeddingTarget


N = TypeVar("N", bound=_Named)


def names_differ(config: N) -> N:
    """Validates that both models have names of their own."""
    if config.embedding.target and config.embedding.name == config.name:
        raise ValueError(f"embedding.name and name are both {config.name}: give each model its own")
    return config


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
    engines: Mapping[str, Artifact],
    serve: ServeSpec,
    repository: Path,
    folder: Path | None = None,
) -> Iterator[TritonServer]:
    """Serves engines by name on Triton for the length of the block; `folder` holds its state and log."""
    from throughline.triton.server import TritonServer

    for name, engine in engines.items():
        render(engine, name, serve, repository)
    with TritonServer(repository, list(engines), serve, run_dir=folder or run_dir(store)) as server:
        yield server


@contextlib.contextmanager
def gateway(server: TritonServer, name: str, engine: Artifact, settings: GatewaySettings) -> Iterator[GatewayProcess]:
    """Runs the gateway in a process of its own before a server."""
    from throughline.gateway.process import GatewayProcess

    with GatewayProcess(settings.spec(settings.routes({name: engine.path}, server.grpc_url), "human")) as process:
        yield process


def curl(url: str, name: str, question: str, *, lead: str = "", keys: bool = False) -> str:
    """Returns a command that asks the gateway one question; greedy, since sampling leads a small model astray.

    With `keys` it sends the one in the shell's variable KEY.
    """
    messages = [{"role": "user", "content": question}]
    return _curl(f"{url}/v1/chat/completions", {"model": name, "temperature": 0, "messages": messages}, lead, keys)


def curl_embedding(url: str, name: str, text: str, *, lead: str = "", keys: bool = False) -> str:
    """Returns a command that asks the gateway for a vector; see `curl`."""
    return _curl(f"{url}/v1/embeddings", {"model": name, "input": text}, lead, keys)


def _curl(url: str, body: Mapping[str, object], lead: str, keys: bool) -> str:
    key = ' -H "Authorization: Bearer $KEY"' if keys else ""
    text = json.dumps(body, ensure_ascii=False)
    return f"{lead}curl {url}{key} -H 'Content-Type: application/json' -d {shlex.quote(text)}"
