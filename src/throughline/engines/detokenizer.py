"""Text from a stream of tokens: never half a character, never a piece of a stop string, no longer held than needed."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from throughline.vocabulary import Vocabulary


class Detokenizer:
    """The text of one request.

    Bytes that are no UTF-8 become U+FFFD. A character that the last token leaves unfinished is dropped; as in
    Python's incremental decoder, the first two bytes of a surrogate (ED A0 to ED BF) count as unfinished.
    Of several stop strings the one completed first counts, the longest of them if they end together, so
    the text does not depend on how it was split into tokens. What is held back is the longest ending of
    the text that begins a stop string.

    Args:
        vocabulary: Bytes of the tokens.
        stop: Strings that end the text before their first occurrence; empty ones are ignored.
    """

    __slots__ = ("_decoder", "_held", "_longest", "_stop", "_vocabulary", "stopped")

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str] = ()) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(sorted({text for text in stop if text}, key=len, reverse=True))
        self._longest = len(self._stop[0]) if self._stop else 0
        self._held = ""
        self.stopped = False

    def push(self, token_ids: Iterable[int], *, allow_stop: bool = True) -> str:
        """Adds tokens and returns the text that is now certain.

        After a stop string was found `stopped` is true and nothing more comes out. With `allow_stop=False`
        no stop string counts that has a character up to here.
        """
        if self.stopped:
            return ""
        text = self._decoder.decode(self._vocabulary.bytes_of(token_ids))
        if not self._stop:
            return text
        text = self._held + text
        if not allow_stop:
            self._held = ""
            return text
        end = self._first_stop(text)
        if end is not None:
            self.stopped = True
            self._held = ""
            return text[:end]
        keep = self._stop_prefix_length(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """Returns what was held back; the request has ended."""
        held, self._held = self._held, ""
        return "" if self.stopped else held

    def _first_stop(self, text: str) -> int | None:
        """Start of the stop string whose end comes first; the longest of them wins a tie."""
        best: tuple[int, int] | None = None
        for stop in self._stop:
            start = text.find(stop)
            if start >= 0 and (best is None or (start + len(stop), start) < best):
                best = (start + len(stop), start)
        return None if best is None else best[1]

    def _stop_prefix_length(self, text: str) -> int:
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            ending = text[-length:]
            if any(len(stop) > length and stop.startswith(ending) for stop in self._stop):
                return length
        return 0
