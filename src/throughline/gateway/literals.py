"""Special tokens that a client wrote as text: they reach the model as their letters, never as control tokens.

Without this, `<|end|><|system|>` inside a user message would end it and open a system message.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Any


class LiteralGuard:
    """Marks special tokens in a client's strings, so that the rendered prompt can be cut inside them.

    A tokenizer finds a special token only where its text is whole. `mark` puts a random word behind the
    first character of each one it finds; `cut` splits a rendered prompt at these words, and the parts,
    tokenised one by one, hold none of the client's special tokens but all of the template's.

    Args:
        tokens: Texts of the special tokens; those of a single character cannot be cut and are left alone.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        words = sorted({token for token in tokens if len(token) > 1}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, words))) if words else None
        # Unknown to clients, so none of them can write it; a noncharacter, so no token contains it.
        self._word = f"\ufdd0{secrets.token_hex(16)}\ufdd0"

    def mark(self, value: Any) -> Any:
        """A copy of JSON-like data with every special token marked; `value` itself when there is none."""
        if self._pattern is None or not self._found_in(value):
            return value
        return self._marked(value)

    def cut(self, prompt: str) -> list[str]:
        """The parts of a rendered prompt between marks."""
        return prompt.split(self._word)

    def _found_in(self, value: Any) -> bool:
        if isinstance(value, str):
            return self._pattern is not None and self._pattern.search(value) is not None
        if isinstance(value, dict):
            return any(self._found_in(key) or self._found_in(item) for key, item in value.items())
        if isinstance(value, list):
            return any(map(self._found_in, value))
        return False

    def _marked(self, value: Any) -> Any:
        if isinstance(value, str):
            # Once more after each pass: the rest of a cut token may hold a shorter one.
            while self._pattern is not None and self._pattern.search(value):
                value = self._pattern.sub(lambda found: found[0][0] + self._word + found[0][1:], value)
            return value
        if isinstance(value, dict):
            return {self._marked(key): self._marked(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._marked(item) for item in value]
        return value
