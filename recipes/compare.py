"""Compares the raw speed of engines, interleaved in one run, with the interval of every ratio.

python -m recipes.compare 'engines=[3f2a91,77ab12]'
python -m recipes.compare 'engines=[3f2a91,77ab12]' 'bench.concurrency=[1]' bench.repeats=12

The engines must come from checkpoints with one tokenizer and chat template, since they answer the same requests.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field

from recipes import app, inputs, layers, references
from throughline.artifacts import Artifact, code_version
from throughline.contracts.benchmark import BenchSpec
from throughline.contracts.errors import ConfigError

# Memory of a loaded engine over its weights on disk; from the float copies that a CPU back end makes.
_MEMORY_FACTOR = 4


class Config(app.RecipeConfig):
    """Settings of `recipes.compare`.

    Attributes:
        bench: Sizes of the matrix; one concurrency.
        engines: Digests or folders of engine artifacts.
        dataset: Whose questions are asked.
        pool: Requests drawn from them.
        resident: Whether all engines stay loaded; None if four times their weights are free.
    """

    bench: BenchSpec
    engines: tuple[str, ...] = ()
    dataset: str = "latest"
    pool: int = Field(default=200, ge=1)
    resident: bool | None = None


def make(config: Config) -> Artifact:
    """Makes the benchmark artifact, or finds it; its metrics have a cell an engine, by the names in `engines`."""
    store = config.store()
    if len(config.bench.concurrency) != 1:
        raise ConfigError(
            "engines are compared at one concurrency",
            where="bench.concurrency",
            seen=list(config.bench.concurrency),
            fix="give one number, or run it once for each",
        )
    found = {item.digest: item for item in (store.get(name, "engine") for name in config.engines)}
    if not found:
        raise ConfigError("no engines to compare", where="engines", fix="give digests: 'engines=[3f2a91,77ab12]'")
    engines = _named(list(found.values()))
    first = next(iter(engines.values()))
    dataset = references.dataset(store, config.dataset, first.path, first)
    for engine in engines.values():
        inputs.check_rendering(dataset, engine.path)
    stage = store.stage(
        "benchmark",
        "comparison",
        inputs={f"engine-{name}": engine for name, engine in engines.items()} | {"dataset": dataset},
        config={"bench": config.bench.model_dump(mode="json"), "pool": config.pool},
        code_version=code_version(*layers.MEASURED, "recipes.compare", extras=layers.EXTRAS),
        seed=config.seed,
    )
    with stage as run:
        if run.cached:
            return run.cached
        results = measure(config, engines, dataset)
        (run.directory / "benchmark.json").write_text(json.dumps(results, indent=1) + "\n")
        return run.commit(metrics=results)


def measure(config: Config, engines: Mapping[str, Artifact], dataset: Artifact) -> dict[str, Any]:
    """Runs every engine alone, in processes that take turns."""
    from throughline.benchmarking.matrix import run_matrix
    from throughline.benchmarking.scenario import describe
    from throughline.reporting.progress import Progress

    resident = _fit(engines.values()) if config.resident is None else config.resident
    pool, render = layers.questions(config, next(iter(engines.values())), dataset)
    with contextlib.ExitStack() as stack, Progress("compare", total=100, unit="%") as progress:
        targets = [
            stack.enter_context(layers.raw_target(engine, config.bench, name, resident=resident))
            for name, engine in engines.items()
        ]
        cells, _ = run_matrix(
            targets,
            pool,
            config.bench,
            render=render,
            on_progress=lambda phase, fraction: progress.update(int(100 * fraction), cell=phase),
        )
    return {
        "engines": {name: engine.digest for name, engine in engines.items()},
        "cells": [cell.as_dict() for cell in cells],
        "pool": describe(pool),
    }


def _named(engines: Sequence[Artifact]) -> dict[str, Artifact]:
    """Engines by name; of the same name by name and digest."""
    names = Counter(engine.manifest.name for engine in engines)
    return {
        engine.manifest.name
        if names[engine.manifest.name] == 1
        else f"{engine.manifest.name} {engine.digest[:12]}": engine
        for engine in engines
    }


def _fit(engines: Iterable[Artifact]) -> bool:
    import psutil

    weights = sum(int(engine.manifest.metrics["weight_bytes"]) for engine in engines)
    return bool(weights * _MEMORY_FACTOR < psutil.virtual_memory().available)


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    from recipes.results import comparison_table
    from throughline.reporting.terminal import print_table

    known = {item.digest for item in config.store().all("benchmark")}
    artifact = make(config)
    print_table(comparison_table(artifact.manifest.metrics["cells"]))
    app.made(artifact, again=artifact.digest in known, next_command="python -m recipes.lifecycle")


if __name__ == "__main__":
    main()
