"""Puts certain cures into files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from throughline.contracts.linting import Edit, Finding


def apply(findings: Iterable[Finding]) -> list[Edit]:
    """Writes the edits of findings, each file at once or not at all.

    Returns:
        The edits made; one whose line has changed since is left out.

    Raises:
        OSError: If a file cannot be written; it is as it was then.
    """
    edits: dict[Path, list[Edit]] = {}
    for finding in findings:
        if finding.edit is not None:
            edits.setdefault(finding.edit.path, []).append(finding.edit)
    made: list[Edit] = []
    for path, wanted in edits.items():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        fitting = []
        for edit in wanted:
            if edit.line <= len(lines) and lines[edit.line - 1].count(edit.old) == 1:
                lines[edit.line - 1] = lines[edit.line - 1].replace(edit.old, edit.new)
                fitting.append(edit)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            beside.write_text("".join(lines), encoding="utf-8")
            beside.chmod(path.stat().st_mode)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        made += fitting
    return made
