"""Collects what each attack came to, prints it as a table, and writes it where `THROUGHLINE_HOSTILE` says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

Record = Callable[[str, Mapping[str, object]], None]
_rows: list[dict[str, object]] = []
_COLUMNS = ("connections", "longest_seconds", "others_p50_ms", "others_p99_ms", "grew_mib")


@pytest.fixture(scope="session")
def record() -> Iterator[Record]:
    """Takes an attack and what was measured while it went on."""

    def add(attack: str, found: Mapping[str, object]) -> None:
        _rows.append({"attack": attack, **found})

    yield add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table."""
    if not _rows:
        return
    terminalreporter.section("hostile clients")
    terminalreporter.write_line(f"{'':28}" + "".join(f"{name:>17}" for name in _COLUMNS) + "  answers")
    for row in _rows:
        values = "".join(f"{row[name]!s:>17}" for name in _COLUMNS)
        terminalreporter.write_line(f"{row['attack']:28}{values}  {row['answers']}")
    if path := os.environ.get("THROUGHLINE_HOSTILE"):
        Path(path).write_text(json.dumps(_rows, indent=1) + "\n", encoding="utf-8")
