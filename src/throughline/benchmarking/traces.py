"""Reads traces of requests: times and lengths in tokens, never what anybody wrote.

Formats, told apart by their first line:

- Azure's LLM inference traces (AzurePublicDataset): CSV with TIMESTAMP, ContextTokens, GeneratedTokens.
- Mooncake's (kvcache-ai/Mooncake, FAST25-release): JSON lines with timestamp in milliseconds, input_length,
  output_length, and hash_ids, one for each block of 512 tokens of the prompt; equal ids are equal beginnings.
- The gateway's own log (`log.format=json`): lines with time, prompt_tokens, completion_tokens, seconds; others are
  passed over.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from throughline.contracts.errors import DataError
from throughline.contracts.text import shorten

_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True)
class TraceRow:
    """One request.

    Attributes:
        seconds: When it came, from the trace's first one.
        input_tokens: Of its prompt.
        output_tokens: Of its answer.
        blocks: Ids of the prompt's blocks of 512 tokens, where the trace names them.
    """

    seconds: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Reject:
    """A line that cannot be sent again: its number, why, and how it begins."""

    line: int
    reason: str
    text: str


@dataclass(frozen=True)
class Trace:
    """What a file holds: rows by time, and what was left out."""

    rows: tuple[TraceRow, ...]
    rejects: tuple[Reject, ...]

    def write_rejects(self, path: Path) -> None:
        """Writes the lines left out as JSON lines of `line`, `reason` and `text`."""
        path.write_text("".join(json.dumps(vars(reject)) + "\n" for reject in self.rejects), encoding="utf-8")


def read_trace(path: Path, *, longest_input: int, longest_output: int) -> Trace:
    """Reads a trace; broken lines and requests that are too long are rejects.

    Args:
        path: The file.
        longest_input: Longest prompt that is sent.
        longest_output: Longest answer.

    Raises:
        DataError: If the file is missing, of no known format, or has no request that can be sent.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError("trace cannot be read", where=str(path), seen=error.strerror, fix="give a file") from None
    rows: list[TraceRow] = []
    rejects: list[Reject] = []
    for number, text, parse in _lines(path, lines):
        try:
            row = parse(text)
            if row is None:
                continue
            _check(row, longest_input, longest_output)
        except (ValueError, KeyError, TypeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            rejects.append(Reject(number, reason, shorten(text)))
        else:
            rows.append(row)
    if not rows:
        raise DataError(
            "trace has no request that can be sent",
            where=str(path),
            seen=f"{len(rejects)} lines left out" + (f", the first: {rejects[0].reason}" if rejects else ""),
            fix="raise workload.longest_input_tokens and longest_output_tokens, or give another file",
        )
    rows.sort(key=lambda row: row.seconds)
    first = rows[0].seconds
    return Trace(tuple(replace(row, seconds=row.seconds - first) for row in rows), tuple(rejects))


Parse = Callable[[str], TraceRow | None]


def _lines(path: Path, lines: list[str]) -> Iterator[tuple[int, str, Parse]]:
    """Line numbers, lines and what reads them."""
    head = next((line for line in lines if line.strip()), "")
    start = lines.index(head) + 1 if head else 1
    parse: Parse
    if head.startswith("{"):
        parse, first = _object, start
    else:
        columns = [name.strip() for name in head.split(",")]
        if not set(_AZURE) <= set(columns):
            raise DataError(
                "trace is of no known format",
                where=f"{path}:{start}",
                seen=shorten(head),
                fix=f"give a CSV with {', '.join(_AZURE)}, or JSON lines as Mooncake or our gateway writes them",
            )
        parse, first = _csv(columns), start + 1
    for number, text in enumerate(lines[first - 1 :], first):
        if text.strip():
            yield number, text, parse


def _csv(columns: list[str]) -> Parse:
    def parse(text: str) -> TraceRow:
        values = next(csv.reader([text]))
        if len(values) != len(columns):
            raise ValueError(f"{len(values)} fields for {len(columns)} columns")
        row = dict(zip(columns, values, strict=True))
        return TraceRow(_time(row["TIMESTAMP"]), int(row["ContextTokens"]), int(row["GeneratedTokens"]))

    return parse


def _object(text: str) -> TraceRow | None:
    try:
        row = json.loads(text)
    except ValueError:
        raise ValueError("no JSON") from None
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    if "time" in row and "message" in row:
        return _logged(row)
    blocks = tuple(int(block) for block in row.get("hash_ids", ()))
    return TraceRow(float(row["timestamp"]) / 1000, int(row["input_length"]), int(row["output_length"]), blocks)


def _logged(row: Mapping[str, Any]) -> TraceRow | None:
    """A line of the gateway's log, which is written when the request has ended."""
    if "prompt_tokens" not in row:
        return None
    return TraceRow(
        _time(row["time"]) - float(row["seconds"]), int(row["prompt_tokens"]), int(row["completion_tokens"])
    )


def _time(text: str) -> float:
    # Azure writes seven digits behind the seconds, of which Python reads six; a time without a zone is one of UTC.
    whole, _, rest = text.strip().partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    zone = rest[len(digits) :] or ("" if "+" in whole or whole.endswith("Z") else "+00:00")
    return datetime.fromisoformat(whole + (zone if digits else rest or zone)).timestamp() + float(f"0.{digits or 0}")


def _check(row: TraceRow, longest_input: int, longest_output: int) -> None:
    if row.input_tokens < 1 or row.output_tokens < 1:
        raise ValueError(f"{row.input_tokens} prompt tokens and {row.output_tokens} output tokens")
    if row.input_tokens > longest_input:
        raise ValueError(f"{row.input_tokens} prompt tokens, longer than workload.longest_input_tokens={longest_input}")
    if row.output_tokens > longest_output:
        raise ValueError(
            f"{row.output_tokens} output tokens, longer than workload.longest_output_tokens={longest_output}"
        )
