"""Golden prompts of an engine directory: what its build asked, and what it answered greedily."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

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
        path = engine_dir / GOLDEN_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            pairs = [(tuple(item["prompt_token_ids"]), tuple(item["token_ids"])) for item in values["prompts"]]
            return cls(str(values.get("machine", "")), tuple(p for p, _ in pairs), tuple(a for _, a in pairs))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineError(
                "golden prompts cannot be read", where=str(path), seen=repr(error), fix="build again"
            ) from None

    def write(self, engine_dir: Path) -> None:
        """Writes `golden.json`."""
        pairs = zip(self.prompts, self.answers, strict=True)
        items = [{"prompt_token_ids": list(prompt), "token_ids": list(answer)} for prompt, answer in pairs]
        text = json.dumps({"machine": self.machine, "prompts": items}) + "\n"
        (engine_dir / GOLDEN_FILE).write_text(text, encoding="utf-8")


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the longest common start."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
