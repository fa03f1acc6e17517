"""The cheapest changes of a plan that make it fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# How many changes are tried together.
_TOGETHER = 3


@dataclass(frozen=True)
class Change:
    """A change of the plan that makes it fit: what to set, and what it costs."""

    settings: dict[str, Any]
    cost: str


def cheapest(single: Sequence[Change], fits: Callable[[Mapping[str, Any]], bool], count: int) -> list[Change]:
    """Returns changes that fit, none of them in vain: fewer settings first, then in the order given.

    Args:
        single: Changes of one kind each, those that cost least first.
        fits: Whether a plan with these settings fits.
        count: Most changes to return.
    """
    found: list[Change] = []
    for size in range(1, _TOGETHER + 1):
        for chosen in itertools.combinations(single, size):
            settings: dict[str, Any] = {}
            for change in chosen:
                settings |= change.settings
            overwritten = len(settings) < sum(len(change.settings) for change in chosen)
            if overwritten or any(set(other.settings.items()) <= set(settings.items()) for other in found):
                continue
            if fits(settings):
                found.append(Change(settings, "; ".join(change.cost for change in chosen)))
            if len(found) == count:
                return found
    return found
