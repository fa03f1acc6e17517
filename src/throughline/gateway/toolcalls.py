"""Splits assistant text into content and `<tool_call>{json}</tool_call>` calls while it streams.

One parser serves streams and whole answers, so both say the same for any split of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto

import orjson

START, END = "<tool_call>", "</tool_call>"
# Up to the first brace of the arguments. A name has no '<', so a match never reaches over the end tag.
_HEADER = re.compile(r'\s*\{\s*"name"\s*:\s*"([A-Za-z0-9_.\-]{1,64})"\s*,\s*"arguments"\s*:\s*(?=\{)')
_STRUCTURE = re.compile(r'["{}\\]')


@dataclass
class Piece:
    """A part of the answer: content, or something about tool call number `index`.

    `name` is set in the first piece of a call; `arguments` pieces of a call join to its JSON text.
    """

    content: str = ""
    index: int = -1
    name: str | None = None
    arguments: str = ""


class _State(Enum):
    CONTENT = auto()
    HEADER = auto()
    ARGUMENTS = auto()
    TAIL = auto()


@dataclass
class _Arguments:
    """Where we are inside the JSON text of the arguments."""

    depth: int = 0
    in_string: bool = False
    escaped: bool = False

    def end_in(self, text: str) -> int | None:
        """Index after the brace that closes the object, or None; remembers where it was."""
        at = 0
        if self.escaped and text:
            self.escaped = False
            at = 1
        while (match := _STRUCTURE.search(text, at)) is not None:
            at = match.end()
            char = match.group()
            if char == "\\":
                if self.in_string:
                    self.escaped = at == len(text)
                    at += 1
            elif char == '"':
                self.in_string = not self.in_string
            elif not self.in_string:
                self.depth += 1 if char == "{" else -1
                if self.depth == 0:
                    return at
        return None


@dataclass
class ToolCallParser:
    """Feeds on text, returns pieces; arguments stream as they come.

    A block that is no call (no name, no JSON object) stays content, tags included. The newline that chat templates
    write before a call belongs to the call.

    Args:
        inside: Start inside a block, because the prompt ended with the opening tag.
    """

    inside: bool = False
    calls: int = 0
    _state: _State = field(init=False)
    _held: str = ""
    _newline: str = ""
    _arguments: _Arguments = field(default_factory=_Arguments)

    def __post_init__(self) -> None:
        self._state = _State.HEADER if self.inside else _State.CONTENT

    def feed(self, text: str) -> list[Piece]:
        """Returns the pieces that `text` completes."""
        pieces: list[Piece] = []
        self._held += text
        while self._step(pieces):
            pass
        return pieces

    def flush(self) -> list[Piece]:
        """Returns what was held back, once the text has ended."""
        held, self._held = self._held, ""
        if self._state is _State.CONTENT:
            return [Piece(content=held)] if held else []
        if self._state is _State.HEADER:
            text = self._opened() + held
            return [Piece(content=text)] if text else []
        if self._state is _State.ARGUMENTS and held:
            return [Piece(index=self.calls - 1, arguments=held)]
        return []

    def _step(self, pieces: list[Piece]) -> bool:
        """One state's work on the held text; True when the state changed and more may follow."""
        if self._state is _State.CONTENT:
            return self._content(pieces)
        if self._state is _State.HEADER:
            return self._header(pieces)
        if self._state is _State.ARGUMENTS:
            return self._in_arguments(pieces)
        return self._tail()

    def _content(self, pieces: list[Piece]) -> bool:
        before, found, rest = self._cut(START, hold="\n" + START)
        if found:
            self._held, self._state = rest, _State.HEADER
            self._newline = before[len(before.removesuffix("\n")) :]
            before = before.removesuffix("\n")
        if before:
            pieces.append(Piece(content=before))
        return found

    def _header(self, pieces: list[Piece]) -> bool:
        match = _HEADER.match(self._held)
        if match is not None:
            self._begin(pieces, match.group(1))
            self._held = self._held[match.end() :]
            self._arguments = _Arguments()
            self._state = _State.ARGUMENTS
            return True
        end = self._held.find(END)
        if end < 0:
            return False
        block, self._held = self._held[:end], self._held[end + len(END) :]
        self._state = _State.CONTENT
        call = _whole_call(block)
        if call is None:
            pieces.append(Piece(content=self._opened() + block + END))
            self.inside = False
        else:
            self._begin(pieces, call[0])
            pieces.append(Piece(index=self.calls - 1, arguments=call[1]))
        return True

    def _in_arguments(self, pieces: list[Piece]) -> bool:
        before, found, rest = self._cut(END)
        end = self._arguments.end_in(before)
        text = before if end is None else before[:end]
        if text:
            pieces.append(Piece(index=self.calls - 1, arguments=text))
        if end is not None:
            self._held = before[end:] + (END + rest if found else self._held)
            self._state = _State.TAIL
            return True
        if found:
            self._held, self._state = rest, _State.CONTENT
        return found

    def _tail(self) -> bool:
        _, found, rest = self._cut(END)
        if found:
            self._held, self._state = rest, _State.CONTENT
        return found

    def _begin(self, pieces: list[Piece], name: str) -> None:
        self.calls += 1
        pieces.append(Piece(index=self.calls - 1, name=name))

    def _opened(self) -> str:
        """What stood before the block in hand: its opening tag, unless that was in the prompt."""
        return "" if self.inside and self.calls == 0 else self._newline + START

    def _cut(self, tag: str, hold: str = "") -> tuple[str, bool, str]:
        """Splits the held text at `tag`; without one, all but a possible beginning of it or of `hold` is let go."""
        at = self._held.find(tag)
        if at >= 0:
            return self._held[:at], True, self._held[at + len(tag) :]
        cut = len(self._held) - max(partial_suffix(self._held, tag), partial_suffix(self._held, hold))
        before, self._held = self._held[:cut], self._held[cut:]
        return before, False, ""


def partial_suffix(text: str, word: str) -> int:
    """Length of the longest proper prefix of `word` that `text` ends with."""
    for length in range(min(len(word) - 1, len(text)), 0, -1):
        if text.endswith(word[:length]):
            return length
    return 0


def _whole_call(block: str) -> tuple[str, str] | None:
    """Name and arguments of a block in another key order or with arguments as a JSON string."""
    try:
        data = orjson.loads(block)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        return None
    arguments = data.get("arguments", data.get("parameters", {}))
    if isinstance(arguments, str):
        return data["name"], arguments
    return data["name"], orjson.dumps(arguments).decode()
