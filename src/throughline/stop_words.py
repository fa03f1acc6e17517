"""Stop words in a text that comes in pieces: none of them is shown, nor a part of one, and nothing is held longer."""

from __future__ import annotations

from collections.abc import Sequence


class StopWords:
    """Ends a text before the first stop word to be completed; of those that end together the longest counts.

    Args:
        words: The stop words; empty ones are ignored.

    Attributes:
        found: Whether one was found; nothing more comes out then.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(sorted({word for word in words if word}, key=len, reverse=True))
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Adds text and returns what is now certain."""
        if self.found or not self._words:
            return "" if self.found else text
        text = self._held + text
        ends = [(at + len(word), at) for word in self._words if (at := text.find(word)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)[1]]
        most = min(len(self._words[0]) - 1, len(text))
        keep = next((size for size in range(most, 0, -1) if self._begins(text[-size:])), 0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """Returns what was held back because a stop word might have begun; the text has ended."""
        held, self._held = self._held, ""
        return held

    def _begins(self, ending: str) -> bool:
        return any(word.startswith(ending) for word in self._words)
