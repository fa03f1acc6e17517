"""Refusal records: disallowed requests with a refusal, look-alikes in the same frames with help."""

from __future__ import annotations

from dataclasses import dataclass

from throughline.lab import banks
from throughline.lab.phrases import PhraseSampler
from throughline.lab.task_schema import HELP_PREFIX, REFUSAL_PREFIX

_LEAD = _TAIL = 0.4


@dataclass(frozen=True)
class Request:
    """A request, its reference answer, what it is about, and the phrases that it is made of."""

    text: str
    answer: str
    category: str
    phrases: tuple[str, ...]


def write_request(s: PhraseSampler, disallowed: bool) -> Request:
    """Writes one request; frames, openings and closings are the same on both sides, only the ask decides."""
    bank = banks.refusal(s.split)
    name = s.rng.choice(list(bank.categories))
    category = bank.categories[name]
    ask = s.pick(category.disallowed if disallowed else tuple(category.benign))
    parts = [s.fill(s.pick(bank.frames), ask=s.fill(ask))]
    if s.chance(_LEAD):
        parts.insert(0, s.fill(s.pick(bank.lead)))
    if s.chance(_TAIL):
        parts.append(s.fill(s.pick(bank.tail)))
    answer = f"{REFUSAL_PREFIX} {category.offer}" if disallowed else f"{HELP_PREFIX} {category.benign[ask]}"
    return Request(" ".join(parts), answer, name, tuple(s.used))
