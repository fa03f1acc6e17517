"""Raw JSONL lines to records; what cannot be read becomes a reject with its place and reason."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from throughline.contracts.errors import DataError

MAX_LINE_BYTES = 16 * 2**20


@dataclass
class Record:
    """A record on its way: where it came from, its values, and what was repaired."""

    file: str
    line: int
    raw: bytes
    values: dict[str, Any]
    repairs: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Its own id, else file and line."""
        return str(self.values.get("id") or f"{self.file}:{self.line}")


@dataclass(frozen=True)
class Reject:
    """A record that was left out.

    Attributes:
        stage: Stage that rejected it.
        reason: Short machine-readable reason.
        detail: What was seen, for people.
        raw: The line as it was.
    """

    file: str
    line: int
    id: str
    stage: str
    reason: str
    detail: str
    raw: bytes

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON types; bytes that are no UTF-8 come as base64 so that nothing is lost."""
        values: dict[str, Any] = {
            "file": self.file,
            "line": self.line,
            "id": self.id,
            "stage": self.stage,
            "reason": self.reason,
            "detail": self.detail,
        }
        try:
            return values | {"raw": self.raw.decode("utf-8")}
        except UnicodeDecodeError:
            return values | {"raw_base64": base64.b64encode(self.raw).decode()}


def reject(record: Record, stage: str, reason: str, detail: str) -> Reject:
    """Makes the reject of a record."""
    return Reject(record.file, record.line, record.id, stage, reason, detail, record.raw)


def source_files(source: str) -> list[Path]:
    """Returns the files of a `data.source` value.

    Raises:
        DataError: If one is missing or a folder has no `.jsonl` file.
    """
    files: list[Path] = []
    for part in filter(None, (piece.strip() for piece in source.split(","))):
        path = Path(part)
        found = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not found or not all(item.is_file() for item in found):
            raise DataError(
                "no raw records here",
                where="data.source",
                seen=str(path) + (" has no *.jsonl" if path.is_dir() else " does not exist"),
                fix="give a JSONL file or a folder with some",
            )
        files += found
    return files


def read_records(files: Sequence[Path]) -> Iterator[Record | Reject]:
    """Reads files line by line; blank lines are passed over.

    Reasons for rejects: `line_too_long`, `invalid_utf8`, `invalid_json`, `not_an_object`.
    """
    for path in files:
        with path.open("rb") as handle:
            for number, raw in enumerate(handle, 1):
                line = raw.rstrip(b"\r\n")
                if line.strip():
                    yield _parse(path.name, number, line)


def _parse(file: str, number: int, line: bytes) -> Record | Reject:
    where = f"{file}:{number}"
    if len(line) > MAX_LINE_BYTES:
        return Reject(file, number, where, "ingest", "line_too_long", f"{len(line)} bytes", line)
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"byte 0x{line[error.start]:02x} at column {error.start + 1}: {error.reason}"
        return Reject(file, number, where, "ingest", "invalid_utf8", detail, line)
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        detail = f"{error.msg} at column {error.colno}"
        return Reject(file, number, where, "ingest", "invalid_json", detail, line)
    if not isinstance(values, dict):
        return Reject(file, number, where, "ingest", "not_an_object", type(values).__name__, line)
    return Record(file, number, line, values)
