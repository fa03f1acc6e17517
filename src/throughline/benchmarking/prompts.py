"""Synthetic prompts of exactly the wanted length in the engine's own tokens, random words that no cache has seen."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from throughline.benchmarking.scenario import Render
from throughline.contracts.errors import ConfigError, DataError

Messages = list[dict[str, Any]]
# Marks of a word's begin in byte-level BPE and in SentencePiece.
_BEGINS = ("\u0120", "\u2581")
_MOST_WORDS = 4096
_TRIES = 8


def words_of(tokenizer_file: Path, *, seed: int = 0) -> list[str]:
    """Returns lower-case words that are one token each, wherever in a text they stand.

    Raises:
        DataError: If the tokenizer has none.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    known = [token[1:] for token in tokenizer.get_vocab() if token.startswith(_BEGINS)]
    words = sorted({word for word in known if word.isascii() and word.isalpha() and word.islower() and len(word) > 1})
    random.Random(seed).shuffle(words)
    pairs = tokenizer.encode_batch([f"so {word} {word}" for word in words], add_special_tokens=False)
    lone = len(tokenizer.encode("so", add_special_tokens=False).ids)
    found = [word for word, pair in zip(words, pairs, strict=True) if len(pair.ids) == lone + 2]
    if len(found) < 2:
        raise DataError(
            "tokenizer has no words of one token",
            where=str(tokenizer_file),
            seen=f"{len(words)} words",
            fix="measure with a dataset's questions: workload.source=dataset",
        )
    return found[:_MOST_WORDS]


class Prompts:
    """Writes messages.

    Args:
        render: The engine's chat template and tokenizer.
        words: See `words_of`.
    """

    def __init__(self, render: Render, words: Sequence[str]) -> None:
        self._render = render
        self._words = list(words)

    def words(self, count: int, seed: str) -> list[str]:
        """Returns random words, the same for the same seed."""
        return random.Random(seed).choices(self._words, k=count)

    def text(self, count: int, seed: str) -> str:
        """Returns a text of so many tokens."""
        return " ".join(self.words(count, seed))

    def fitted(self, before: Messages, tokens: int, words: Sequence[str]) -> tuple[Messages, tuple[int, ...]]:
        """Adds a user's message, as many of the words as make the whole prompt `tokens` long.

        Returns:
            The messages, and the tokens of the prompt.

        Raises:
            ConfigError: If what stands before the message is as long already.
        """
        for count in self._counts(before, tokens, words):
            messages = [*before, {"role": "user", "content": " ".join(words[:count])}]
            ids = tuple(self._render(messages, ()))
            if len(ids) == tokens:
                return messages, ids
            self._missing = tokens - len(ids)
        raise ConfigError(
            "no prompt of this length can be written",
            where="workload.input_tokens",
            seen=f"{tokens} tokens, with chat template and earlier turns {self.shortest(before)} at least",
            fix="ask for longer prompts, or for longer turns: workload.turn_tokens",
        )

    def shortest(self, before: Messages) -> int:
        """Returns the tokens of a prompt with a message of one word."""
        return len(self._render([*before, {"role": "user", "content": self._words[0]}], ()))

    def _counts(self, before: Messages, tokens: int, words: Sequence[str]) -> Iterator[int]:
        """Numbers of words to try, each corrected by what the last one missed."""
        count = tokens - self.shortest(before) + 1
        for _ in range(_TRIES):
            if not 1 <= count <= len(words):
                return
            yield count
            count += self._missing
