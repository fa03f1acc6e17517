"""Small text helpers that error messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Returns the known word that is most like one, None if none is."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return near[0] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns `did you mean 'x'?` for the nearest known word, else the sorted list of known words."""
    choices = sorted(known)
    near = nearest(word, choices)
    if near:
        return f"did you mean '{near}'?"
    return f"known: {', '.join(choices)}" if choices else "nothing is known here"


def shorten(value: object, limit: int = 80) -> str:
    """Returns `repr(value)` cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
