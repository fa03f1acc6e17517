"""An engine answers its golden prompts before the model counts as loaded, so that Triton routes to one that works."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from throughline.contracts.embedding import EmbeddingRuntime
from throughline.contracts.engine import EngineRuntime, SamplingParams
from throughline.contracts.errors import EngineError
from throughline.contracts.golden import GOLDEN_FILE, Golden, GoldenVectors, common_prefix

# Enough to run prefill and decoding; more would only make recoveries longer.
WARM_UP_TOKENS = 4


def warm_up(runtime: EngineRuntime, engine_dir: Path) -> str:
    """Asks all golden prompts at once.

    Returns:
        What came of it, for the log. Answers may differ from the build's on another processor, so that they decide
        nothing. Engines without golden prompts are not asked.

    Raises:
        EngineError: If a prompt gets no answer, or the golden prompts cannot be read.
    """
    if not (engine_dir / GOLDEN_FILE).is_file():
        return f"no {GOLDEN_FILE}: not warmed up"
    golden = Golden.read(engine_dir)
    for number, prompt in enumerate(golden.prompts):
        runtime.submit(f"golden-{number}", prompt, SamplingParams(max_tokens=WARM_UP_TOKENS, ignore_eos=True))
    found: dict[str, list[int]] = {f"golden-{number}": [] for number in range(len(golden.prompts))}
    while runtime.has_work():
        for output in runtime.step():
            if output.finish_reason == "error":
                raise EngineError(
                    "the engine does not answer a golden prompt",
                    where=f"{engine_dir / GOLDEN_FILE}: {output.request_id}",
                    seen=output.error,
                    fix="build the engine again",
                )
            found[output.request_id] += output.token_ids
    silent = [name for name, tokens in found.items() if not tokens]
    if silent:
        raise EngineError("the engine makes no token", where=", ".join(silent), fix="build the engine again")
    same = sum(
        common_prefix(tokens, answer) >= min(len(tokens), len(answer))
        for tokens, answer in zip(found.values(), golden.answers, strict=True)
    )
    return f"warmed up: {same} of {len(found)} golden prompts answered as when the engine was built"


def warm_up_vectors(runtime: EmbeddingRuntime, engine_dir: Path) -> str:
    """Embeds all golden prompts at once; see `warm_up`.

    Raises:
        EngineError: If a vector has numbers that are none, or the golden prompts cannot be read.
    """
    if not (engine_dir / GOLDEN_FILE).is_file():
        return f"no {GOLDEN_FILE}: not warmed up"
    golden = GoldenVectors.read(engine_dir)
    vectors = runtime.embed(golden.prompts)
    if not np.isfinite(vectors).all():
        raise EngineError(
            "the engine's vectors are not all finite numbers",
            where=str(engine_dir / GOLDEN_FILE),
            fix="build the engine again",
        )
    recorded = np.array(golden.vectors, np.float32)
    distances = np.linalg.norm(vectors - recorded, axis=1) / np.linalg.norm(recorded, axis=1)
    return f"warmed up: vectors of {len(vectors)} golden prompts are up to {distances.max():.1e} of their length away"
