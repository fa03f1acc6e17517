"""The scenario mix: real prompts of a dataset with output lengths drawn from its own distribution."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from throughline.contracts.benchmark import BenchRequest
from throughline.contracts.errors import DataError

# Messages and tools to the tokens of the prompt.
Render = Callable[[Sequence[Mapping[str, Any]], Sequence[Any]], Sequence[int]]
# Eight digits and a space, by tokenizers that split digits; a ninth token where the word behind it splits otherwise.
_MARK_TOKENS = 12


def load_questions(
    path: Path, *, output_lengths: Sequence[int], max_seq_len: int, size: int, seed: int
) -> list[BenchRequest]:
    """Draws a pool of requests.

    Args:
        path: JSONL file with `task`, `messages`, `tools` and `prompt_token_ids`, as the data stage writes it.
        output_lengths: Observed answer lengths in tokens, sampled with replacement.
        max_seq_len: Context of the engine; requests that would be longer once they are marked are left out.
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
        if len(ids) + _MARK_TOKENS + max_tokens <= max_seq_len:
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


def marks(seed: int) -> Iterator[int]:
    """Yields numbers of eight digits in random order."""
    rng = random.Random(seed)
    while True:
        yield rng.randrange(10_000_000, 100_000_000)


def marked(request: BenchRequest, mark: int, render: Render) -> BenchRequest:
    """Returns the same request with a number before its last user message.

    What stands before that message (system prompt, tools, earlier turns) an engine finds in its prefix cache, as it
    does in production; the message itself is new to it, however often the request was sent before.

    Args:
        request: From the pool.
        mark: A number that no request had before, of as many digits as the others'.
        render: The engine's chat template and tokenizer.
    """
    messages = [dict(message) for message in request.messages]
    last = next((message for message in reversed(messages) if message.get("role") == "user"), messages[-1])
    last["content"] = f"{mark} {last.get('content') or ''}"
    return replace(request, messages=messages, prompt_token_ids=tuple(render(messages, request.tools)))


def one_of_each(pool: Sequence[BenchRequest]) -> list[BenchRequest]:
    """Returns the first request of every scenario: what a warm-up has to send so that common prefixes are known."""
    return list({request.scenario: request for request in reversed(pool)}.values())


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
