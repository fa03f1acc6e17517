"""Starts what a benchmark loads: an engine alone, Triton, or Triton with the gateway before it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from recipes import service
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.config import parse
from throughline.contracts.engine import EngineInfo
from throughline.contracts.errors import ConfigError
from throughline.contracts.measurement import Target
from throughline.contracts.serving import ServeSpec

if TYPE_CHECKING:
    from throughline.benchmarking import targets
    from throughline.benchmarking.spans import SpanReceiver
    from throughline.triton.server import TritonServer

MODEL = "bench"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
Settings = Mapping[str, Any]
Pids = Callable[[], Sequence[int]]
_PARTS = {"raw": {"engine"}, "triton": {"serve"}, "gateway": {"serve", "gateway"}}


@dataclass(frozen=True)
class Opened:
    """A target that runs.

    Attributes:
        name: Which one.
        target: Takes loads.
        groups: Ids of its processes, by what they do.
        gauges: Reads the server's gauges; None where nothing has any.
        spec: The engine's settings as it runs; `max_seq_len` at least.
        settings: Those and the ones that it was opened with, by dotted key.
        tokenizer: Folder of what counts its tokens.
        engine: What answers; None where others run it.
        spans: Takes the gateway's spans; None for a target without it.
        here: Whether it works on this machine, so that this machine's GPUs are its.
    """

    name: Target
    target: targets.Target
    groups: Mapping[str, Pids]
    gauges: Callable[[], Mapping[str, float]] | None
    spec: Mapping[str, Any]
    settings: Settings
    tokenizer: Path
    engine: Artifact | None = None
    spans: SpanReceiver | None = None
    here: bool = True


@contextlib.contextmanager
def opened(
    target: Target,
    *,
    store: ArtifactStore,
    engine: Artifact,
    settings: Settings,
    timeout_seconds: float,
    web_port: int | None = None,
) -> Iterator[Opened]:
    """Runs a target for the length of the block.

    Raises:
        ConfigError: If a setting is unknown, or not the target's.
        EngineError: If the engine refuses one.
    """
    from throughline.benchmarking.spans import SpanReceiver

    parts = _parts(target, settings)
    options: dict[str, Any] = {"ignore_eos": True, "timeout_seconds": timeout_seconds}
    with contextlib.ExitStack() as stack:
        if target == "raw":
            yield stack.enter_context(_raw(engine, parts["engine"], settings, options))
            return
        serve = parse(ServeSpec, _nested(parts["serve"]), where="serve")
        spans = stack.enter_context(SpanReceiver()) if target == "gateway" else None
        gateway = _gateway_settings(parts["gateway"], spans)
        # A fixed folder, so that a run after a kill finds the server that was left behind and ends it.
        folder = service.run_dir(store) / "bench"
        folder.mkdir(exist_ok=True)
        server = stack.enter_context(service.triton(store, {MODEL: engine}, serve, folder / "model_repository", folder))
        spec = EngineInfo.read(engine.path).spec.model_dump(mode="json")
        groups: dict[str, Pids] = {
            "engine": lambda: _family(server.pid)[1],
            "triton": lambda: _family(server.pid)[0],
        }
        loaded: targets.Target
        if target == "triton":
            loaded = _triton(server, groups, options)
        else:
            process = stack.enter_context(service.gateway(server, MODEL, engine, gateway))
            groups["gateway"] = lambda: process_tree(process.pid)
            loaded = stack.enter_context(_locust(process.url, (server.pid, process.pid), groups, options, web_port))
        gauges = _gauges(server)
        yield Opened(
            target, loaded, groups, gauges, spec, _flat(spec) | dict(settings), engine.path, engine=engine, spans=spans
        )


def _gateway_settings(values: Settings, spans: SpanReceiver | None) -> service.GatewaySettings:
    """The gateway's settings on a free port; of the requests of a load those are traced that say so."""
    tracing = {"endpoint": spans.endpoint, "sample_ratio": 0.0} if spans is not None else {}
    return parse(service.GatewaySettings, {"port": 0, "tracing": tracing, **_nested(values)}, where="gateway")


@contextlib.contextmanager
def _raw(engine: Artifact, overrides: Settings, settings: Settings, options: Mapping[str, Any]) -> Iterator[Opened]:
    from throughline.benchmarking.targets import RawTarget

    command = ("recipes.raw_engine", str(engine.path.absolute()), json.dumps(dict(overrides)))
    with RawTarget(command, timed=True, **options) as alone:
        # Loads the engine, so that what it refuses is said now.
        spec = alone.settings()
        groups = {"engine": lambda: alone.processes.servers}
        yield Opened("raw", alone, groups, None, spec, _flat(spec) | dict(settings), engine.path, engine=engine)


def _triton(server: TritonServer, groups: dict[str, Pids], options: Mapping[str, Any]) -> targets.Target:
    from throughline.benchmarking.targets import TritonTarget

    groups["generator"] = lambda: [os.getpid()]
    return TritonTarget(server.grpc_url, MODEL, server_pid=server.pid, **options)


@contextlib.contextmanager
def _locust(
    url: str, pids: tuple[int, ...], groups: dict[str, Pids], options: Mapping[str, Any], web_port: int | None
) -> Iterator[targets.Target]:
    from throughline.benchmarking.targets import LocustTarget

    with LocustTarget(url, MODEL, server_pids=pids, web_port=web_port, **options) as locust:
        groups["generator"] = lambda: locust.processes.generators
        yield locust


def _gauges(server: TritonServer) -> Callable[[], Mapping[str, float]]:
    from throughline.triton.metrics_page import engine_gauges, fetch

    host, _, port = server.metrics_url.rpartition(":")

    def read() -> Mapping[str, float]:
        return engine_gauges(fetch(host.rpartition("/")[2], int(port.partition("/")[0])), MODEL)

    return read


def _family(pid: int) -> tuple[list[int], list[int]]:
    """Processes of Triton, and of the engine's worker below it."""
    server: list[int] = []
    engine: list[int] = []
    for each in process_tree(pid):
        with contextlib.suppress(psutil.Error):
            line = psutil.Process(each).cmdline()
            (engine if any(part.endswith("engine_worker") for part in line) else server).append(each)
    return server, engine


def process_tree(pid: int) -> list[int]:
    """Returns a process and all that it has started; what has ended counts as nothing."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.Error:
        return []


def _parts(target: Target, settings: Settings) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {"engine": {}, "serve": {}, "gateway": {}}
    for key, value in settings.items():
        part, _, name = key.partition(".")
        if part not in found or not name or part not in _PARTS[target]:
            raise ConfigError(
                f"setting is none of the target '{target}'",
                where=key,
                seen=value,
                fix=f"{target} takes {' and '.join(f'{each}.…' for each in sorted(_PARTS[target]))}"
                + ("; Triton loads an engine as it was built" if part == "engine" else ""),
            )
        found[part][name] = value
    return found


def _nested(flat: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        inner = found
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return found


def _flat(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {f"engine.{name}": value for name, value in spec.items()}
