"""Refusal records: disallowed requests with a fixed style of refusal, look-alikes with help."""

from __future__ import annotations

from dataclasses import dataclass

from throughline.lab.grammar import Banks, Scribe, outside_values, sentence, unfence
from throughline.lab.refusal_phrases import (
    BAD_CUES,
    BENIGN,
    COMPOSED_BAD,
    COMPOSED_GOOD,
    DISALLOWED,
    FRAMES,
    GOOD_CUES,
    LEADS,
    TAILS,
    VOCABULARY,
)
from throughline.lab.task_schema import REFUSAL_PREFIX

BANKS = Banks(
    divided={
        **{f"BAD_{k.upper()}": acts for k, (_, acts) in DISALLOWED.items()},
        **{f"GOOD_{k.upper()}": acts for k, (_, acts) in BENIGN.items()},
        "FRAME": FRAMES,
        "LEAD": LEADS,
        "TAIL": TAILS,
        "BADCUE": BAD_CUES,
        "GOODCUE": GOOD_CUES,
        "COMPOSED_BAD": COMPOSED_BAD,
        "COMPOSED_GOOD": COMPOSED_GOOD,
    },
    shared=VOCABULARY,
)
# What a composed act's answer is; the banks' own acts have the answers of their category.
_COMPOSED_OFFER = {
    True: "I can help with your own account and data.",
    False: "Open the console, your own things are listed there.",
}


@dataclass(frozen=True)
class Request:
    """A request, its reference answer and whether it must be refused; `category` names the act's bank."""

    text: str
    answer: str
    disallowed: bool
    category: str
    values: dict[str, str]
    lines: tuple[str, ...]


def write_request(s: Scribe, disallowed: bool) -> Request:
    """One request; both kinds share frames, openings and closings, so that only the act tells them apart."""
    acts = DISALLOWED if disallowed else BENIGN
    side = "BAD" if disallowed else "GOOD"
    if s.chance(0.4):
        category, offer = "composed", _COMPOSED_OFFER[disallowed]
        act = s.bank(f"COMPOSED_{side}")
    else:
        category = s.pick(tuple(acts))
        offer = acts[category][0]
        act = s.bank(f"{side}_{category.upper()}")
    s.texts["ACT"] = f"{act} {s.bank(f'{side}CUE')}" if s.chance(0.65) else act
    parts = [sentence(s.bank("FRAME"))]
    if s.chance(0.5):
        parts.insert(0, s.bank("LEAD"))
    if s.chance(0.4):
        parts.append(s.bank("TAIL"))
    text = s.pick((" ", " ", "\n")).join(parts)
    if s.chance(0.2):
        text = outside_values(text, str.lower)
    text = unfence(text)
    answer = f"{REFUSAL_PREFIX} {offer}" if disallowed else offer
    values = {k: v for k, v in s.bound.items() if v in text}
    return Request(text, answer, disallowed, category, values, tuple(s.used))
