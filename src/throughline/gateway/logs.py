"""Log lines on standard error: one JSON object each, or text for people."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import orjson


class _Formatter(logging.Formatter):
    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields: dict[str, Any] = getattr(record, "fields", {})
        return fields

    def _time(self, record: logging.LogRecord) -> str:
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class JsonFormatter(_Formatter):
    """One JSON object a line: time, level, message, the record's `fields` and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line = {"time": self._time(record), "level": record.levelname, "message": record.getMessage()}
        line |= self._fields(record)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class HumanFormatter(_Formatter):
    """Time, level, message and `key=value` pairs."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        pairs = [f"{key}={value}" for key, value in self._fields(record).items()]
        line = " ".join([self._time(record), record.levelname, record.getMessage(), *pairs])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(log_format: Literal["human", "json"], stream: TextIO | None = None) -> None:
    """Sends the gateway's records, and warnings of the libraries below it, to `stream` or else standard error."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else HumanFormatter())
    levels = {"throughline.gateway": logging.INFO, "uvicorn.error": logging.WARNING, "opentelemetry": logging.WARNING}
    for name, level in levels.items():
        log = logging.getLogger(name)
        log.handlers[:] = [handler]
        log.setLevel(level)
        log.propagate = False
