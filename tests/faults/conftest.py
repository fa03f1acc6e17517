"""Collects what each fault came to, prints it as a table, and writes it where `THROUGHLINE_FAULTS` says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

Record = Callable[[str, Mapping[str, int], float | None, float | None], None]
_rows: list[dict[str, object]] = []


@pytest.fixture(scope="session")
def record() -> Iterator[Record]:
    """Takes a fault, the ends of its streams, the seconds until the last was told, and until all was well again."""

    def add(fault: str, ends: Mapping[str, int], told: float | None, recovered: float | None) -> None:
        _rows.append({"fault": fault, "ends": dict(ends), "told_seconds": told, "recovered_seconds": recovered})

    yield add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table."""
    if not _rows:
        return
    terminalreporter.section("faults")
    for row in _rows:
        seconds = [
            f"{row[key]:.2f} s" if isinstance(row[key], float) else "-" for key in ("told_seconds", "recovered_seconds")
        ]
        ends = row["ends"] if isinstance(row["ends"], dict) else {}
        told = ", ".join(f"{count} {end}" for end, count in sorted(ends.items())) or "-"
        terminalreporter.write_line(f"{row['fault']:36} {seconds[0]:>9} {seconds[1]:>9}  {told}")
    if path := os.environ.get("THROUGHLINE_FAULTS"):
        Path(path).write_text(json.dumps(_rows, indent=1) + "\n", encoding="utf-8")
