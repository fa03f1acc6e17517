"""What the data stage did, in figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class DataReport:
    """What the stage did, in plain JSON types.

    `tokens` counts train and validation tokens and how many of them carry loss; `split_off` says how an
    acceptance set was made of the records, if none was given.
    """

    lines: int = 0
    kept: int = 0
    train: int = 0
    validation: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    repairs: dict[str, int] = field(default_factory=dict)
    personal: dict[str, int] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    licences: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    answer_lengths: list[int] = field(default_factory=list)
    questions: int = 0
    overlap: int = 0
    split_off: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns the report without the list of lengths."""
        return {key: value for key, value in vars(self).items() if key != "answer_lengths"}
