"""Golden prompts of an engine directory: what its build asked, and the greedy answers or the vectors that came."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from throughline.contracts.errors import EngineError

GOLDEN_FILE = "golden.json"


@dataclass(frozen=True)
class Golden:
    """Prompts and answers.

    Attributes:
        machine: Processor and types that the answers were computed with; others may round otherwise.
        prompts: Token ids of each prompt.
        answers: Token ids of each answer.
    """

    machine: str
    prompts: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]

    @classmethod
    def read(cls, engine_dir: Path) -> Self:
        """Reads `golden.json`.

        Raises:
            EngineError: If it is missing or damaged.
        """
        machine, pairs = _read(engine_dir, "token_ids")
        return cls(machine, tuple(prompt for prompt, _ in pairs), tuple(answer for _, answer in pairs))

    def write(self, engine_dir: Path) -> None:
        """Writes `golden.json`."""
        _write(engine_dir, self.machine, "token_ids", self.prompts, self.answers)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the longest common start."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


@dataclass(frozen=True)
class GoldenVectors:
    """Golden prompts of an embedding engine and their vectors; see `Golden`."""

    machine: str
    prompts: tuple[tuple[int, ...], ...]
    vectors: tuple[tuple[float, ...], ...]

    @classmethod
    def read(cls, engine_dir: Path) -> Self:
        """Reads `golden.json`.

        Raises:
            EngineError: If it is missing or damaged, or of an engine that makes tokens.
        """
        machine, pairs = _read(engine_dir, "embedding")
        return cls(machine, tuple(prompt for prompt, _ in pairs), tuple(vector for _, vector in pairs))

    def write(self, engine_dir: Path) -> None:
        """Writes `golden.json`."""
        _write(engine_dir, self.machine, "embedding", self.prompts, self.vectors)


def _read(engine_dir: Path, answer: str) -> tuple[str, list[tuple[tuple[int, ...], tuple[Any, ...]]]]:
    path = engine_dir / GOLDEN_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(tuple(item["prompt_token_ids"]), tuple(item[answer])) for item in values["prompts"]]
        return str(values.get("machine", "")), pairs
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(
            "golden prompts cannot be read", where=str(path), seen=repr(error), fix="build again"
        ) from None


def _write(
    engine_dir: Path, machine: str, answer: str, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[float]]
) -> None:
    pairs = zip(prompts, answers, strict=True)
    items = [{"prompt_token_ids": list(prompt), answer: list(found)} for prompt, found in pairs]
    text = json.dumps({"machine": machine, "prompts": items}) + "\n"
    (engine_dir / GOLDEN_FILE).write_text(text, encoding="utf-8")
