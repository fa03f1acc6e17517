"""The scenario mix: real prompts of a dataset with output lengths drawn from its own distribution."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from throughline.contracts.benchmark import BenchRequest
from throughline.contracts.errors import DataError


def load_questions(
    path: Path, *, output_lengths: Sequence[int], max_seq_len: int, size: int, seed: int
) -> list[BenchRequest]:
    """Draws a pool of requests.

    Args:
        path: JSONL file with `task`, `messages`, `tools` and `prompt_token_ids`, as the data stage writes it.
        output_lengths: Observed answer lengths in tokens, sampled with replacement.
        max_seq_len: Context of the engine; longer requests are left out.
        size: Size of the pool.
        seed: Seed of the draw.

    Raises:
        DataError: If no record fits the context.
    """
    rows = [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    rng = random.Random(seed)
    rng.shuffle(rows)
    pool: list[BenchRequest] = []
    for row in rows[:size]:
        ids = tuple(int(token) for token in row["prompt_token_ids"])
        max_tokens = max(2, int(rng.choice(output_lengths)))
        if len(ids) + max_tokens <= max_seq_len:
            task = str(row.get("task", "chat"))
            pool.append(BenchRequest(task, row["messages"], list(row.get("tools") or []), ids, max_tokens))
    if not pool:
        raise DataError(
            "no record of the scenario mix fits the engine's context",
            where=str(path),
            seen=f"{len(rows)} records, max_seq_len={max_seq_len}",
            fix="give shorter records or an engine with a larger max_seq_len",
        )
    return pool


def describe(pool: Sequence[BenchRequest]) -> dict[str, Any]:
    """Returns the mix for reports: share of each scenario, and input and output length quantiles in tokens."""
    inputs = sorted(len(request.prompt_token_ids) for request in pool)
    outputs = sorted(request.max_tokens for request in pool)
    shares = Counter(request.scenario for request in pool)
    return {
        "requests": len(pool),
        "scenarios": {name: count / len(pool) for name, count in sorted(shares.items())},
        "input_tokens": _quantiles(inputs),
        "output_tokens": _quantiles(outputs),
    }


def _quantiles(values: Sequence[int]) -> dict[str, int]:
    last = len(values) - 1
    return {"min": values[0], "p50": values[last // 2], "p95": values[int(last * 0.95)], "max": values[-1]}
