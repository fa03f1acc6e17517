"""Tool calls in assistant text: `<tool_call>{"name": "...", "arguments": {...}}</tool_call>`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

START, END = "<tool_call>", "</tool_call>"
_SPACE = re.compile(r"[ \t\n\r]*")
# Enough to name a call whose arguments are broken.
_NAME = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]+)"\s*,\s*"arguments"\s*:\s*')


@dataclass(frozen=True)
class ToolCall:
    """One call.

    Attributes:
        name: The function's name.
        raw: The arguments as the model wrote them.
        arguments: The same, parsed; None when they are no JSON object.
    """

    name: str
    raw: str
    arguments: dict[str, Any] | None


@dataclass(frozen=True)
class ToolCallParse:
    """Assistant text, taken apart.

    Attributes:
        content: The text outside the calls; a block that names no call stays in it, tags included.
        calls: The calls in order.
        error: What is wrong with the first broken block, else None.
    """

    content: str
    calls: tuple[ToolCall, ...]
    error: str | None

    @property
    def single(self) -> ToolCall | None:
        """The call, if the text is exactly one sound call and nothing else but white space; else None."""
        if self.error is not None or len(self.calls) != 1 or self.content.strip():
            return None
        return self.calls[0]


class _BrokenBlockError(ValueError):
    """A block that is not in the wire form."""


def _no_constant(name: str) -> NoReturn:
    raise _BrokenBlockError(f"{name} is not JSON")


# Python takes NaN and Infinity, RFC 8259 does not.
_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def parse_tool_calls(text: str) -> ToolCallParse:
    """Takes assistant text apart into content and tool calls; never raises.

    A block is a JSON object between the tags with a string `name` and an object `arguments`, in any order and
    with nothing else. Arguments may also be a JSON string that holds the object, as some models write them.
    End tags inside JSON strings are text. A block without an end tag is an error.
    """
    content: list[str] = []
    calls: list[ToolCall] = []
    error: str | None = None
    at = 0
    while (start := text.find(START, at)) >= 0:
        content.append(text[at:start])
        body = start + len(START)
        try:
            call, at = _block(text, body)
            calls.append(call)
        except (ValueError, RecursionError) as fault:
            error = error or _reason(fault)
            end = text.find(END, body)
            stop, at = (end, end + len(END)) if end >= 0 else (len(text), len(text))
            named = _NAME.match(text, body, stop)
            if named:
                calls.append(ToolCall(named[1], text[named.end() : stop], None))
            else:
                content.append(text[start:at])
    content.append(text[at:])
    return ToolCallParse("".join(content), tuple(calls), error)


def _reason(fault: Exception) -> str:
    return "JSON is nested too deep" if isinstance(fault, RecursionError) else str(fault)


def _block(text: str, at: int) -> tuple[ToolCall, int]:
    """Reads the block behind the start tag; returns the call and the index behind the end tag.

    Raises:
        ValueError: If it is not in the wire form.
        RecursionError: If it is nested too deep for Python's decoder.
    """
    values, spans, at = _object(text, at)
    at = _skip(text, at)
    if not text.startswith(END, at):
        raise _BrokenBlockError(f"no {END} after the object")
    if set(values) != {"name", "arguments"}:
        raise _BrokenBlockError(f"a call has name and arguments, not {sorted(values)}")
    name, arguments = values["name"], values["arguments"]
    if not isinstance(name, str) or not name:
        raise _BrokenBlockError("the name is no string")
    raw = text[slice(*spans["arguments"])]
    if isinstance(arguments, str):
        raw, arguments = arguments, _DECODER.decode(arguments)
    if not isinstance(arguments, dict):
        raise _BrokenBlockError("the arguments are no object")
    return ToolCall(name, raw, arguments), at + len(END)


def _object(text: str, at: int) -> tuple[dict[str, Any], dict[str, tuple[int, int]], int]:
    """Reads a JSON object; also returns where each value stands, and the index behind the object."""
    values: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    at = _expect(text, at, "{")
    while True:
        key, at = _value(text, at)
        if not isinstance(key, str) or key in values:
            raise _BrokenBlockError(f"a key is no string or stands twice at character {at}")
        start = _skip(text, _expect(text, at, ":"))
        values[key], at = _value(text, start)
        spans[key] = (start, at)
        at = _skip(text, at)
        if not text.startswith(",", at):
            return values, spans, _expect(text, at, "}")
        at += 1


def _value(text: str, at: int) -> tuple[Any, int]:
    value, end = _DECODER.raw_decode(text, _skip(text, at))
    return value, end


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, char: str) -> int:
    at = _skip(text, at)
    if not text.startswith(char, at):
        raise _BrokenBlockError(f"expected '{char}' at character {at}")
    return at + 1
