"""Golden prompts: greedy answers recorded when an engine is built, replayed to tell whether it still says the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from throughline.contracts.engine import EngineRuntime, GoldenResult, SamplingParams, VerifyReport
from throughline.contracts.errors import EngineError

GOLDEN_FILE = "golden.json"
GOLDEN_TOKENS = 16
PROMPTS = (
    "The server has stopped.",
    "GPU 3 reports Xid 79 after the driver update, please advise.",
    'def total(values):\n    return sum(values)\n\n{"component": ',
    "La carte ne répond plus — 温度が高すぎます.",
)


def tokenize_prompts(tokenizer_file: Path, max_seq_len: int) -> list[list[int]]:
    """Tokenises the golden texts, cut so that their answers fit `max_seq_len`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    room = max(1, max_seq_len - GOLDEN_TOKENS)
    return [list(tokenizer.encode(text).ids)[:room] for text in PROMPTS]


def answer(runtime: EngineRuntime, prompts: Iterable[Sequence[int]], tokens: int) -> list[list[int]]:
    """Generates greedily, one prompt after the other, so that batching cannot change a rounding.

    Raises:
        EngineError: If a request fails.
    """
    answers = []
    for index, prompt in enumerate(prompts):
        found: list[int] = []
        runtime.submit(f"golden-{index}", prompt, SamplingParams(max_tokens=tokens, ignore_eos=True))
        while runtime.has_work():
            for output in runtime.step():
                if output.finish_reason == "error":
                    raise EngineError(
                        "golden prompt failed", where=output.request_id, seen=output.error, fix="build again"
                    )
                found += output.token_ids
        answers.append(found)
    return answers


def record(
    engine_dir: Path, runtime: EngineRuntime, prompts: Sequence[Sequence[int]], tokens: int, machine: str
) -> None:
    """Writes `golden.json` with the runtime's answers; `machine` names the processor and types used."""
    answers = answer(runtime, prompts, tokens)
    items = [{"prompt_token_ids": list(p), "token_ids": a} for p, a in zip(prompts, answers, strict=True)]
    (engine_dir / GOLDEN_FILE).write_text(json.dumps({"machine": machine, "prompts": items}) + "\n", encoding="utf-8")


def replay(engine_dir: Path, runtime: EngineRuntime, machine: str) -> VerifyReport:
    """Compares the runtime's answers with the recorded ones and closes the runtime.

    Raises:
        EngineError: If `golden.json` is missing or damaged.
    """
    path = engine_dir / GOLDEN_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(item["prompt_token_ids"], item["token_ids"]) for item in values["prompts"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            "golden prompts cannot be read", where=str(path), seen=repr(error), fix="build again"
        ) from None
    try:
        found = answer(runtime, [prompt for prompt, _ in pairs], max((len(a) for _, a in pairs), default=1))
    finally:
        runtime.close()
    results = tuple(
        GoldenResult(len(prompt), common_prefix(expected, seen), len(expected))
        for (prompt, expected), seen in zip(pairs, found, strict=True)
    )
    return VerifyReport(all(r.matched == r.expected for r in results), results, values.get("machine") == machine)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the longest common start."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
