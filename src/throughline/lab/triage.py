"""Triage tickets: one component's symptom, one severity cue, one wish, at most one card and one code."""

from __future__ import annotations

import re
from dataclasses import dataclass

from throughline.lab import banks
from throughline.lab.phrases import PhraseSampler
from throughline.lab.task_schema import ABSENT

# How often a part stands in a ticket. Money and accounts rarely come with a card or a code.
_CARD = _CODE = 0.55
_CARD_OFF_TOPIC = _CODE_OFF_TOPIC = 0.2
_OFF_TOPIC = ("access", "billing")
_EXTRAS = {"greeting": 0.7, "noise": 0.4, "closing": 0.6}
_LOWER_CASE = 0.1


@dataclass(frozen=True)
class Ticket:
    """A ticket, the labels that follow from it, and the phrases that decide them."""

    text: str
    labels: dict[str, str]
    phrases: tuple[str, ...]


def write_ticket(s: PhraseSampler) -> Ticket:
    """Writes one ticket with the entities that `s` was begun with."""
    bank, voices = banks.triage(), banks.voices(s.split)
    voice = s.rng.choices(list(voices.values()), [voice.share for voice in voices.values()])[0]
    component = s.rng.choice(list(bank.components))
    rules = bank.components[component]
    severity = s.rng.choice(rules.severities)
    action = s.rng.choice([name for name in rules.actions if name not in bank.never.get(severity, ())])
    off_topic = component in _OFF_TOPIC
    gpu = s.fresh("gpu") if s.chance(_CARD_OFF_TOPIC if off_topic else _CARD) else ABSENT
    code = s.fresh("code") if s.chance(_CODE_OFF_TOPIC if off_topic else _CODE) else ABSENT
    phrases = {
        "symptom": s.pick(voice.symptoms[component]),
        "cue": s.pick(voice.cues[severity]),
        "wish": s.pick(voice.wishes[action]),
    }
    decided_by = tuple(s.used)
    if gpu != ABSENT:
        phrases["card"] = s.pick(voice.card)
    if code != ABSENT:
        phrases["code"] = s.pick(voice.code)
    phrases |= {name: s.pick(getattr(voice, name)) for name, share in _EXTRAS.items() if s.chance(share)}
    lower = s.chance(_LOWER_CASE)
    parts = dict.fromkeys(("card", "code", *_EXTRAS), "")
    for name, phrase in phrases.items():
        parts[name] = s.fill(s.misspell(phrase.lower() if lower else phrase, voice.typos), gpu=gpu, code=code)
    text = _lay_out(s, s.pick(voice.layouts), parts)
    labels = {
        "component": component,
        "severity": severity,
        "requested_action": action,
        "gpu_model": gpu,
        "error_code": code,
    }
    return Ticket(text, labels, decided_by)


def _lay_out(s: PhraseSampler, layout: str, parts: dict[str, str]) -> str:
    """Puts the parts into their places; a line whose parts are all absent falls away, gaps close."""
    lines = []
    for line in layout.splitlines():
        if any(text for name, text in parts.items() if f"{{{name}}}" in line):
            lines.append(re.sub(r" {2,}", " ", s.fill(line, **parts)).strip())
    return "\n".join(lines)
