"""What a linter finds: a rule, a place, what is seen, the cure, and the edit where the cure is certain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Edit:
    """Replaces `old` by `new` in one line of a file.

    Attributes:
        path: The file.
        line: Its line, from 1.
        old: Text that stands there once.
        new: What stands there afterwards.
    """

    path: Path
    line: int
    old: str
    new: str


@dataclass(frozen=True)
class Rule:
    """What is checked.

    Attributes:
        id: Short name in words and dashes, e.g. `scheduler-policy`.
        severity: `error` if it fails or is silently ignored, `warning` if it costs speed or may be meant.
        summary: What must hold, in one sentence.
    """

    id: str
    severity: Severity
    summary: str


@dataclass(frozen=True)
class Finding:
    """One contradiction.

    Attributes:
        rule: The rule that is broken.
        path: The file.
        line: Its line, from 1; 1 where the fault is what is not there.
        key: The setting, e.g. `parameters.batch_scheduler_policy`.
        seen: What stands there.
        cure: What to do.
        edit: The cure as an edit, where there is only one.
    """

    rule: Rule
    path: Path
    line: int
    key: str
    seen: str
    cure: str
    edit: Edit | None = None
