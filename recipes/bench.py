"""Benchmarks an engine in process, through Triton and through the gateway, interleaved in one run.

python -m recipes.bench
python -m recipes.bench 'targets=[raw]' target=3f2a91 bench.repeats=5
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any, Literal

from pydantic import Field

from recipes import app, inputs, service
from throughline.artifacts import Artifact, code_version
from throughline.contracts.benchmark import BenchSpec
from throughline.contracts.engine import EngineInfo
from throughline.contracts.serving import ServeSpec

NAME = "bench"


class Config(app.RecipeConfig):
    """Settings of `recipes.bench`."""

    bench: BenchSpec
    target: str = "promoted"
    dataset: str = "latest"
    targets: tuple[Literal["raw", "triton", "gateway"], ...] = ("raw", "triton", "gateway")
    pool: int = Field(default=200, ge=1)


def make(config: Config) -> Artifact:
    """Makes the benchmark artifact, or finds it."""
    store = config.store()
    engine = inputs.engine(store, config.target, config.profile)
    dataset = inputs.artifact(store, "dataset", config.dataset, key="dataset")
    inputs.check_rendering(dataset, engine.path)
    packages = [
        "throughline.benchmarking",
        "throughline.engines",
        "throughline.triton",
        "throughline.gateway",
    ]
    stage = store.stage(
        "benchmark",
        engine.manifest.name,
        inputs={"engine": engine, "dataset": dataset},
        config={
            "bench": config.bench.model_dump(mode="json"),
            "targets": list(config.targets),
            "pool": config.pool,
        },
        code_version=code_version(*packages),
        seed=config.seed,
    )
    with stage as run:
        if run.cached:
            return run.cached
        results = measure(config, engine, dataset)
        (run.directory / "benchmark.json").write_text(json.dumps(results, indent=1) + "\n")
        return run.commit(metrics={"cells": results["cells"], "pool": results["pool"]})


def measure(config: Config, engine: Artifact, dataset: Artifact) -> dict[str, Any]:
    """Runs the matrix over the wanted targets; servers live as long as it takes, on free ports."""
    from throughline import engines
    from throughline.benchmarking.matrix import run_matrix
    from throughline.benchmarking.scenario import describe, load_questions
    from throughline.benchmarking.targets import LocustTarget, RawTarget, Target, TritonTarget
    from throughline.reporting.progress import Progress

    spec = config.bench
    pool = load_questions(
        dataset.path / "acceptance.jsonl",
        output_lengths=json.loads((dataset.path / "answer_lengths.json").read_text()),
        max_seq_len=EngineInfo.read(engine.path).spec.max_seq_len,
        size=config.pool,
        seed=spec.seed,
    )
    options: dict[str, Any] = {"ignore_eos": spec.ignore_eos, "timeout_seconds": spec.timeout_seconds}
    targets: list[Target] = []
    pids: dict[str, list[int]] = {}
    with contextlib.ExitStack() as stack:
        # A fixed folder, so that a run after a kill finds the server that was left behind and ends it.
        folder = service.run_dir(config.store()) / "bench"
        folder.mkdir(exist_ok=True)
        if "raw" in config.targets:
            runtime = engines.load(engine.path)
            stack.callback(runtime.close)
            targets.append(RawTarget(runtime, ignore_eos=spec.ignore_eos))
            pids["raw"] = [os.getpid()]
        if {"triton", "gateway"} & set(config.targets):
            serve = ServeSpec()
            server = stack.enter_context(
                service.triton(config.store(), engine, NAME, serve, folder / "model_repository", folder)
            )
            pids["triton"] = [server.pid]
            if "triton" in config.targets:
                targets.append(TritonTarget(server.grpc_url, NAME, **options))
            if "gateway" in config.targets:
                process = stack.enter_context(service.gateway(server, NAME, engine, service.GatewaySettings(port=0)))
                pids["gateway"] = [server.pid, process.pid]
                targets.append(stack.enter_context(LocustTarget(process.url, NAME, **options)))
        with Progress(f"bench {engine.manifest.name}", total=100, unit="%") as progress:
            cells, records = run_matrix(
                targets,
                pool,
                spec,
                pids=pids,
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


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    from recipes.results import ratio_table, serving_table
    from throughline.reporting.terminal import print_table

    known = {item.digest for item in config.store().all("benchmark")}
    artifact = make(config)
    cells = artifact.manifest.metrics["cells"]
    print_table(serving_table(cells))
    if "raw" in config.targets and len(config.targets) > 1:
        print_table(ratio_table(cells))
    app.made(artifact, again=artifact.digest in known, next_command="python -m recipes.serve")


if __name__ == "__main__":
    main()
