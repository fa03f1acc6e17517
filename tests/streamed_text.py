"""The slow, obvious twin of all that streams text: every byte is there, then it is decoded, then it is cut."""

from __future__ import annotations

from collections.abc import Sequence


def decode(data: bytes) -> str:
    """All bytes at once, without a character that they leave unfinished."""
    for cut in (1, 2, 3):
        tail = data[len(data) - cut :] if cut <= len(data) else b""
        if tail and _unfinished(tail):
            return data[: len(data) - cut].decode("utf-8", "replace")
    return data.decode("utf-8", "replace")


def _unfinished(tail: bytes) -> bool:
    """Whether some continuation makes these bytes exactly one character or surrogate."""
    if len(tail) == 2 and tail[0] == 0xED and 0xA0 <= tail[1] <= 0xBF:
        return True
    try:
        tail.decode()
    except UnicodeDecodeError as error:
        return error.start == 0 and error.reason == "unexpected end of data"
    return False


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """Reads on character by character until a stop string is complete, of which the longest counts.

    Returns:
        The text before it, and whether there was one.
    """
    for end in range(1, len(text) + 1):
        done = [word for word in stop if word and text[:end].endswith(word)]
        if done:
            return text[: end - max(map(len, done))], True
    return text, False
