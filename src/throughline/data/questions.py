"""Held-out questions: what a model is asked, and the answer that is expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from throughline.contracts.data import DataSpec
from throughline.contracts.errors import DataError
from throughline.data.ingest import Record, Reject, read_records, reject
from throughline.data.validate import validate


def asked(messages: Iterable[Mapping[str, Any]]) -> str:
    """Returns what the user says in a conversation: what two records that ask the same have in common."""
    return "\n".join(str(message.get("content") or "") for message in messages if message["role"] == "user")


def as_question(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns a record's conversation without its last answer, which becomes `expected.messages`."""
    *asked, answer = values["messages"]
    return {**values, "id": name, "messages": asked, "expected": {"messages": [answer]}}


def read_questions(files: Sequence[Path], spec: DataSpec) -> list[dict[str, Any]]:
    """Reads held-out files: questions with `expected`, or records in any shape that one can train on.

    Each question has an `id` that no other has.

    Raises:
        DataError: At `file:line`, if a line is neither, or two have the same id.
    """
    rows: dict[str, dict[str, Any]] = {}
    for path in files:
        for item in read_records([path]):
            found = item if isinstance(item, Reject) else _question(item, spec)
            if not isinstance(found, Reject) and found["id"] in rows:
                found = reject(item, "ingest", "repeated_id", found["id"]) if isinstance(item, Record) else found
            if isinstance(found, Reject):
                raise DataError(
                    "held-out question cannot be used",
                    where=f"{path}:{found.line}",
                    seen=f"{found.reason}: {found.detail}",
                    fix="correct the line: a record to train on, or messages that end with the user, and expected",
                )
            rows[found["id"]] = found
    return list(rows.values())


def _question(record: Record, spec: DataSpec) -> dict[str, Any] | Reject:
    if "expected" in record.values:
        messages = record.values.get("messages")
        if not isinstance(messages, list) or not messages:
            return reject(record, "ingest", "missing_field", "messages")
        return {"task": spec.default_task or "chat", **record.values, "id": record.id}
    fault = validate(record, spec)
    return fault or as_question(record.values, record.id)
