"""Text as it was meant: repaired encodings, no control or invisible characters, NFC."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

from throughline.data.ingest import Record

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_INVISIBLE = re.compile("[\u200b\u2060\ufeff]")
_JOINERS = re.compile("[\u200c\u200d]+")
# What a joiner can follow and mean something: letters without case (Arabic, Indic, …), vowel signs, emoji.
_JOINED = {"Lo", "Mn", "Mc", "So", "Sk"}
# Byte pairs of UTF-8 read as Latin-1 or Windows-1252; without them ftfy has nothing to repair.
_MOJIBAKE_HINT = re.compile("[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u0178\u02c6\u02dc\u2013-\u2122]")


def normalise_text(text: str, repairs: list[str]) -> str:
    """Returns the repaired text and names what was done in `repairs`.

    Idempotent. Repairs: `control_characters`, `invisible_characters`, `mojibake` (by ftfy), `nfc`.
    """
    while True:
        before = text
        for name, repair in _REPAIRS:
            fixed = repair(text)
            if fixed != text:
                repairs.append(name)
                text = fixed
        # One repair can uncover another: a control character may part two halves of mojibake.
        if text == before:
            return text


def _strip_invisible(text: str) -> str:
    """Removes what shows nothing; zero-width joiners stay where Persian, Indic scripts and emoji need them."""
    text = _INVISIBLE.sub("", text)

    def kept(match: re.Match[str]) -> str:
        before = text[match.start() - 1] if match.start() else " "
        return match.group()[0] if unicodedata.category(before) in _JOINED and match.end() < len(text) else ""

    return _JOINERS.sub(kept, text)


def _fix_encoding(text: str) -> str:
    if not _MOJIBAKE_HINT.search(text):
        return text
    import ftfy

    return ftfy.fix_encoding(text)


_REPAIRS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("control_characters", lambda text: _CONTROL.sub("", text)),
    ("invisible_characters", _strip_invisible),
    ("mojibake", _fix_encoding),
    ("nfc", lambda text: unicodedata.normalize("NFC", text)),
)


def map_texts(messages: Iterable[dict[str, Any]], change: Callable[[str], str]) -> None:
    """Applies `change` to every content and to every string inside tool call arguments, in place."""
    for message in messages:
        if message.get("content"):
            message["content"] = change(message["content"])
        for call in message.get("tool_calls") or []:
            function = call["function"]
            arguments = function["arguments"]
            values = json.loads(arguments) if isinstance(arguments, str) else arguments
            # One spelling of JSON for all sources, the one that json.dumps gives.
            function["arguments"] = json.dumps(map_value(values, change), ensure_ascii=False)


def normalise(record: Record) -> None:
    """Normalises all texts of a record in place."""
    repairs: list[str] = []
    map_texts(record.values["messages"], lambda text: normalise_text(text, repairs))
    record.repairs += sorted(set(repairs))


def map_value(value: Any, change: Callable[[str], str]) -> Any:
    """Returns a JSON value with `change` applied to every string in it but the keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [map_value(item, change) for item in value]
    if isinstance(value, dict):
        return {key: map_value(item, change) for key, item in value.items()}
    return value
