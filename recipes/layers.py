"""What layers cost: an engine alone, through Triton and through the gateway, interleaved in one run; see `bench`."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field

from recipes import app, references, service
from throughline.artifacts import Artifact, code_version
from throughline.contracts.benchmark import BenchRequest, BenchSpec
from throughline.contracts.engine import EngineInfo
from throughline.contracts.serving import ServeSpec

if TYPE_CHECKING:
    from throughline.benchmarking.scenario import Render
    from throughline.benchmarking.targets import RawTarget

NAME = "bench"
# What a serving benchmark measures, and what measures it.
MEASURED = (
    "throughline.benchmarking",
    "throughline.engines",
    "throughline.vocabulary",
    "throughline.triton",
    "throughline.gateway",
    "recipes.layers",
    "recipes.raw_engine",
)

EXTRAS = ("cpu", "triton", "gateway", "bench")


class HasPool(Protocol):
    """A recipe's config that draws requests from a dataset's questions."""

    @property
    def bench(self) -> BenchSpec:
        """Sizes of the matrix."""

    @property
    def pool(self) -> int:
        """Questions in the pool."""


class LayersConfig(app.RecipeConfig):
    """What the comparison of layers takes of `recipes.bench`'s settings."""

    bench: BenchSpec
    target: str = "promoted"
    dataset: str = "latest"
    targets: tuple[Literal["raw", "triton", "gateway"], ...] = ("raw", "triton", "gateway")
    pool: int = Field(default=200, ge=1)


def make(config: LayersConfig) -> Artifact:
    """Makes the benchmark artifact, or finds it."""
    store = config.store()
    engine = references.engine(store, config.target, config.profile)
    dataset = references.dataset(store, config.dataset, engine.path, engine)
    stage = store.stage(
        "benchmark",
        engine.manifest.name,
        inputs={"engine": engine, "dataset": dataset},
        config={
            "bench": config.bench.model_dump(mode="json"),
            "targets": list(config.targets),
            "pool": config.pool,
        },
        code_version=code_version(*MEASURED, extras=EXTRAS),
        seed=config.seed,
    )
    with stage as run:
        if run.cached:
            return run.cached
        results = measure(config, engine, dataset)
        (run.directory / "benchmark.json").write_text(json.dumps(results, indent=1) + "\n")
        return run.commit(metrics={"cells": results["cells"], "pool": results["pool"]})


def measure(config: LayersConfig, engine: Artifact, dataset: Artifact) -> dict[str, Any]:
    """Runs the matrix over the wanted targets; servers live as long as it takes, on free ports."""
    from throughline.benchmarking.matrix import run_matrix
    from throughline.benchmarking.scenario import describe
    from throughline.benchmarking.targets import LocustTarget, Target, TritonTarget
    from throughline.reporting.progress import Progress

    spec = config.bench
    pool, render = questions(config, engine, dataset)
    options: dict[str, Any] = {"ignore_eos": spec.ignore_eos, "timeout_seconds": spec.timeout_seconds}
    targets: list[Target] = []
    with contextlib.ExitStack() as stack:
        # A fixed folder, so that a run after a kill finds the server that was left behind and ends it.
        folder = service.run_dir(config.store()) / "bench"
        folder.mkdir(exist_ok=True)
        if "raw" in config.targets:
            targets.append(stack.enter_context(raw_target(engine, spec)))
        if {"triton", "gateway"} & set(config.targets):
            serve = ServeSpec()
            server = stack.enter_context(
                service.triton(config.store(), {NAME: engine}, serve, folder / "model_repository", folder)
            )
            if "triton" in config.targets:
                targets.append(TritonTarget(server.grpc_url, NAME, server_pid=server.pid, **options))
            if "gateway" in config.targets:
                process = stack.enter_context(service.gateway(server, NAME, engine, service.GatewaySettings(port=0)))
                pids = (server.pid, process.pid)
                targets.append(stack.enter_context(LocustTarget(process.url, NAME, server_pids=pids, **options)))
        with Progress(f"bench {engine.manifest.name}", total=100, unit="%") as progress:
            cells, records = run_matrix(
                targets,
                pool,
                spec,
                render=render,
                on_progress=lambda phase, fraction: progress.update(int(100 * fraction), cell=phase),
            )
    first_tokens = {
        name: [round(record.time_to_first_token, 6) for record in found if record.ok] for name, found in records.items()
    }
    return {
        "engine": engine.manifest.name,
        "cells": [cell.as_dict() for cell in cells],
        "time_to_first_token_seconds": first_tokens,
        "pool": describe(pool),
    }


def questions(config: HasPool, engine: Artifact, dataset: Artifact) -> tuple[list[BenchRequest], Render]:
    """Returns the requests to draw from, and what renders them for the engine once they are marked."""
    from throughline.benchmarking.scenario import load_questions
    from throughline.data.render import Renderer

    pool = load_questions(
        dataset.path / "acceptance.jsonl",
        output_lengths=json.loads((dataset.path / "answer_lengths.json").read_text()),
        max_seq_len=EngineInfo.read(engine.path).spec.max_seq_len,
        size=config.pool,
        seed=config.bench.seed,
    )
    renderer = Renderer(engine.path)
    return pool, lambda messages, tools: renderer.prompt(messages, tools)[1]


def raw_target(engine: Artifact, spec: BenchSpec, name: str = "raw", *, resident: bool = True) -> RawTarget:
    """Returns the engine alone, in a process that the target starts."""
    from throughline.benchmarking.targets import RawTarget

    return RawTarget(
        ("recipes.raw_engine", str(engine.path.absolute())),
        ignore_eos=spec.ignore_eos,
        timeout_seconds=spec.timeout_seconds,
        name=name,
        resident=resident,
    )
