"""Fills phrases: chooses between alternatives and puts a set's own names and numbers into the slots."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from random import Random
from typing import TypeVar

from throughline.contracts.errors import ConfigError
from throughline.contracts.text import did_you_mean
from throughline.lab import banks
from throughline.lab.banks import SetName

T = TypeVar("T")

_CHOICE = re.compile(r"\(([^()|]*(?:\|[^()|]*)+)\)")
_SLOT = re.compile(r"\{(\w+)\}")
_WORD = re.compile(r"\{\w+\}|[^\W\d_]{5,}")
_SIGNS = re.compile(r"[#@^%]")


class PhraseSampler:
    """Writes the texts of one set.

    `{slot}` is a value given to `fill`, else an entity, which stays the same until `begin`.
    `used` holds the phrases picked since then.
    """

    def __init__(self, rng: Random, split: SetName) -> None:
        self.rng = rng
        self.split = split
        self.used: list[str] = []
        self._bound: dict[str, str] = {}
        self._bank = banks.entities()

    def begin(self, **bound: str) -> None:
        """Starts a new text, with these entities given."""
        self.used = []
        self._bound = dict(bound)

    def chance(self, share: float) -> bool:
        """Returns true in `share` of all calls."""
        return self.rng.random() < share

    def pick(self, phrases: Sequence[str]) -> str:
        """Chooses a phrase and notes it in `used`."""
        phrase = self.rng.choice(phrases)
        self.used.append(phrase)
        return phrase

    def fill(self, phrase: str, /, **slots: str) -> str:
        """Returns the phrase with its alternatives chosen and its slots filled."""
        phrase = _CHOICE.sub(lambda match: self.rng.choice(match.group(1).split("|")), phrase)
        return _SLOT.sub(lambda match: slots[m] if (m := match.group(1)) in slots else self.entity(m), phrase)

    def entity(self, name: str) -> str:
        """Returns the text's value of an entity; `other_<name>` is a second one, different from the first."""
        if name not in self._bound:
            value = self.fresh(name.removeprefix("other_"))
            while value in self._bound.values():
                value = self.fresh(name.removeprefix("other_"))
            self._bound[name] = value
        return self._bound[name]

    def fresh(self, name: str) -> str:
        """Returns a new value of an entity.

        Raises:
            ConfigError: If entities.yaml has neither a list nor a pattern of that name.
        """
        if name in self._bank.patterns:
            pattern = self.rng.choice(self._bank.patterns[name])
            return _SLOT.sub(lambda match: self.fresh(match.group(1)), _SIGNS.sub(self._sign, pattern))
        lists = self._bank.lists.get(name)
        if lists is None:
            raise ConfigError(
                "a phrase has a slot that nothing fills",
                where="lab/banks/entities.yaml",
                seen=f"{{{name}}}",
                fix=did_you_mean(name, [*self._bank.lists, *self._bank.patterns]),
            )
        return self.rng.choice(lists["all"] if "all" in lists else lists[self.split])

    def _sign(self, match: re.Match[str]) -> str:
        signs = {"#": string.digits, "@": string.ascii_uppercase, "^": "0123456789ABCDEF"}
        return self.rng.choice(signs.get(match.group()) or self._bank.digits[self.split])

    def misspell(self, phrase: str, share: float) -> str:
        """Returns the phrase with two inner letters swapped in `share` of its longer words, slots untouched."""

        def swap(match: re.Match[str]) -> str:
            word = match.group()
            if word.startswith("{") or not self.chance(share):
                return word
            at = self.rng.randint(1, len(word) - 3)
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]

        return _WORD.sub(swap, phrase) if share else phrase
