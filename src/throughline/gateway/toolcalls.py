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
_STRUCTURE = re.compile(r'["{}\\<]')


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
    # Between the arguments and the call's own closing brace.
    TAIL = auto()
    REST = auto()
    # After that brace.
    CLOSED = auto()


@dataclass
class _Object:
    """Where we are inside the JSON text of an object; `depth` counts its open braces."""

    depth: int = 0
    in_string: bool = False
    escaped: bool = False

    def scan(self, text: str) -> tuple[int, str]:
        """Reads on; returns how much of the text was read, and what stands there.

        That is `}` after the brace that closes the object, a tag outside of strings, `<` for what may become one, or
        nothing at the end of the text.
        """
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
            elif self.in_string:
                continue
            elif char == "<":
                if tag := _tag_at(text, match.start()):
                    return match.start(), tag
            else:
                self.depth += 1 if char == "{" else -1
                if self.depth == 0:
                    return at, "}"
        return len(text), ""


def _tag_at(text: str, at: int) -> str:
    """The tag at a place, `<` for the beginning of one at the end of the text, else nothing."""
    for tag in (START, END):
        if text.startswith(tag, at):
            return tag
    rest = text[at:]
    return "<" if START.startswith(rest) or END.startswith(rest) else ""


@dataclass
class ToolCallParser:
    """Feeds on text, returns pieces; arguments stream as they come.

    A block that is no call (no name, no JSON object) stays content, tags included. The newline that chat templates
    write before a call belongs to the call. A call that is not closed ends where the next one is opened, or where text
    follows that is no part of it.
    """

    calls: int = 0
    _state: _State = _State.CONTENT
    _held: str = ""
    _newline: str = ""
    _object: _Object = field(default_factory=_Object)

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
            return [Piece(content=self._newline + START + held)]
        if self._state is _State.ARGUMENTS and held:
            return [Piece(index=self.calls - 1, arguments=held)]
        if self._state in (_State.TAIL, _State.CLOSED) and held.strip():
            return [Piece(content=held)]
        return []

    def _step(self, pieces: list[Piece]) -> bool:
        """One state's work on the held text; True when the state changed and more may follow."""
        if self._state is _State.CONTENT:
            return self._content(pieces)
        if self._state is _State.HEADER:
            return self._header(pieces)
        if self._state is _State.ARGUMENTS:
            return self._in_arguments(pieces)
        if self._state is _State.REST:
            return self._rest()
        return self._after_object()

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
        held = self._held
        match = _HEADER.match(held)
        if match is not None:
            self._begin(pieces, match.group(1))
            self._held = held[match.end() :]
            self._object = _Object()
            self._state = _State.ARGUMENTS
            return True
        at = len(held) - len(held.lstrip())
        if held.startswith("{", at):
            read, stop = _Object().scan(held[at:])
            at += read
            if stop == "}" and (call := _whole_call(held[:at])) is not None:
                self._begin(pieces, call[0])
                pieces.append(Piece(index=self.calls - 1, arguments=call[1]))
                self._held, self._state = held[at:], _State.CLOSED
                return True
            if stop in ("", "<"):
                return False
        return self._no_call(pieces, at)

    def _no_call(self, pieces: list[Piece], at: int) -> bool:
        """Lets a block that is no call go as content, as soon as it ends; its tags are looked for from `at` on."""
        found = [(place, tag) for tag in (START, END) if (place := self._held.find(tag, at)) >= 0]
        if not found:
            return False
        end, tag = min(found)
        after = end + len(tag)
        pieces.append(Piece(content=self._newline + START + self._held[: end if tag == START else after]))
        self._held = self._held[after:]
        self._newline = ""
        self._state = _State.HEADER if tag == START else _State.CONTENT
        return True

    def _in_arguments(self, pieces: list[Piece]) -> bool:
        read, stop = self._object.scan(self._held)
        if read:
            pieces.append(Piece(index=self.calls - 1, arguments=self._held[:read]))
        self._held = self._held[read:]
        if stop == "}":
            self._state = _State.TAIL
            return True
        return self._at_tag(stop)

    def _after_object(self) -> bool:
        """What follows the arguments, or the whole call: braces, keys, tags, or text that is no part of it."""
        rest = self._held.lstrip()
        if not rest:
            return False
        if self._state is _State.TAIL and rest[0] in ",}":
            self._object = _Object(depth=1)
            self._state = _State.REST
            return True
        stop = _tag_at(rest, 0)
        if not stop:
            self._state = _State.CONTENT
            return True
        if stop != "<":
            self._held = rest
        return self._at_tag(stop)

    def _rest(self) -> bool:
        read, stop = self._object.scan(self._held)
        self._held = self._held[read:]
        if stop == "}":
            self._state = _State.CLOSED
            return True
        return self._at_tag(stop)

    def _at_tag(self, stop: str) -> bool:
        """Goes over a tag that the held text begins with; True if there is one."""
        if stop not in (START, END):
            return False
        self._held = self._held[len(stop) :]
        self._newline = ""
        self._state = _State.HEADER if stop == START else _State.CONTENT
        return True

    def _begin(self, pieces: list[Piece], name: str) -> None:
        self.calls += 1
        pieces.append(Piece(index=self.calls - 1, name=name))

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
    arguments = data.get("arguments", data.get("parameters"))
    if isinstance(arguments, str):
        return data["name"], arguments
    return data["name"], orjson.dumps({} if arguments is None else arguments).decode()
