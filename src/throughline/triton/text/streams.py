"""Text from token ids as they come: never half a character, never a piece of a stop word."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from throughline.stop_words import StopWords

Decode = Callable[[Sequence[int]], str]
REPLACEMENT = "\ufffd"


class TextStream:
    """The text of one sequence.

    A token is decoded together with those before it that its text may depend on (a leading space, the first bytes of
    a character), and no others. A character that the last token leaves unfinished is dropped; bytes that are none at
    all are U+FFFD, which come out with the next character and not at the end.

    Args:
        decode: Token ids to text; what it makes of more ids must begin with what it made of fewer, but for a
            character that is not complete.
        stop: Texts before the first of which the text ends; empty ones are ignored.
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._whole = 0
        self._shown = 0
        self._stop = StopWords(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop word was found; nothing more comes out then."""
        return self._stop.found

    def push(self, token_ids: Sequence[int]) -> str:
        """Adds tokens and returns the text that is now certain."""
        if self.stopped or not len(token_ids):
            return ""
        self._window += token_ids
        text = self._decode(self._window)
        certain = _without_part(text)
        new = certain[self._shown :]
        self._shown = max(self._shown, len(certain))
        if new and len(certain) == len(text):
            # What follows needs the tokens since the last text beside it, and none before; those without text, such as
            # skipped control tokens, are not enough.
            self._window = self._window[self._whole :]
            self._whole = len(self._window)
            self._shown = len(self._decode(self._window))
        return self._stop.push(new)

    def finish(self) -> str:
        """Returns what was held back because a stop word might have begun; the sequence has ended."""
        return self._stop.finish()


def whole_text(decode: Decode, token_ids: Sequence[int]) -> str:
    """Returns the text of a sequence that has ended, as `TextStream` gives it in pieces."""
    return _without_part(decode(token_ids))


def _without_part(text: str) -> str:
    """The text without what may be a character that is not complete.

    All of the U+FFFD at the end, since decoders show a part of a character as one of them or as several, and some of
    them (SentencePiece's byte tokens) whole characters before it too as long as it is not complete.
    """
    return text.rstrip(REPLACEMENT)
