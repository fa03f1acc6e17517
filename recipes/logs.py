"""Our own log records: lines for people, or one JSON object a line."""

from __future__ import annotations

import logging

from recipes.config import LogSpec
from throughline.reporting import console


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        import orjson

        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        extra = getattr(record, "data", None)
        if isinstance(extra, dict):
            entry |= extra
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(entry, default=str).decode()


class _ConsoleHandler(logging.Handler):
    """Our own records, through whatever stands on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            console.complain(self.format(record))
        except Exception:
            self.handleError(record)


def set_up_logging(spec: LogSpec) -> None:
    """Sends our own records to the console, in the format and from the level that `spec` says."""
    handler: logging.Handler = _ConsoleHandler()
    if spec.format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(levelname).1s %(name)s: %(message)s"))
    logger = logging.getLogger("throughline")
    logger.handlers[:] = [handler]
    logger.setLevel(spec.level)
    logger.propagate = False
