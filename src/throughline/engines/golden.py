"""Golden prompts: greedy answers recorded when an engine is built, replayed to tell whether it still says the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from throughline.contracts.engine import EngineRuntime, GoldenResult, SamplingParams, VerifyReport
from throughline.contracts.errors import EngineError
from throughline.contracts.golden import Golden, common_prefix

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
    Golden(machine, tuple(map(tuple, prompts)), tuple(map(tuple, answers))).write(engine_dir)


def replay(engine_dir: Path, runtime: EngineRuntime, machine: str) -> VerifyReport:
    """Compares the runtime's answers with the recorded ones and closes the runtime.

    Raises:
        EngineError: If `golden.json` is missing or damaged.
    """
    golden = Golden.read(engine_dir)
    try:
        found = answer(runtime, golden.prompts, max(map(len, golden.answers), default=1))
    finally:
        runtime.close()
    results = tuple(
        GoldenResult(len(prompt), common_prefix(expected, seen), len(expected))
        for prompt, expected, seen in zip(golden.prompts, golden.answers, found, strict=True)
    )
    return VerifyReport(all(r.matched == r.expected for r in results), results, golden.machine == machine)
