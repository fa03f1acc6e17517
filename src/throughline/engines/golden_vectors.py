"""Golden prompts of an embedding engine: vectors recorded when it is built, made again to tell if it is the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from throughline.contracts.embedding import EmbeddingRuntime, VectorReport, VectorResult
from throughline.contracts.golden import GoldenVectors

# bfloat16 keeps 8 bits: a vector whose numbers are all rounded the other way is 2^-8 of its length away.
MOST_DISTANCE = 2 * 2.0**-8


def record_vectors(engine_dir: Path, runtime: EmbeddingRuntime, prompts: Sequence[Sequence[int]], machine: str) -> None:
    """Writes the golden prompts' vectors; `machine` names the processor and types used."""
    vectors = [runtime.embed([prompt])[0].tolist() for prompt in prompts]
    GoldenVectors(machine, tuple(map(tuple, prompts)), tuple(map(tuple, vectors))).write(engine_dir)


def replay_vectors(engine_dir: Path, runtime: EmbeddingRuntime, machine: str) -> VectorReport:
    """Compares the runtime's vectors with the recorded ones and closes the runtime.

    Raises:
        EngineError: If the golden vectors are missing or damaged.
    """
    golden = GoldenVectors.read(engine_dir)
    try:
        results = compare(golden, runtime)
    finally:
        runtime.close()
    ok = all(result.distance <= MOST_DISTANCE for result in results)
    return VectorReport(ok, results, golden.machine == machine)


def compare(golden: GoldenVectors, runtime: EmbeddingRuntime) -> tuple[VectorResult, ...]:
    """Embeds the golden prompts, one after the other as when they were recorded."""
    found = []
    for prompt, vector in zip(golden.prompts, golden.vectors, strict=True):
        recorded = np.array(vector, np.float32)
        difference = np.linalg.norm(runtime.embed([prompt])[0] - recorded)
        found.append(VectorResult(len(prompt), float(difference / np.linalg.norm(recorded))))
    return tuple(found)
