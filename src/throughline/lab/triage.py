"""Triage tickets: one component's symptom, one severity cue, one wish, at most one code and one card.

The labels follow from the text alone; the order of the parts, their wording, the clutter around them and the
typing habits vary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from throughline.lab import triage_components, triage_cues, triage_foreign, triage_frames
from throughline.lab.grammar import CLOSE, OPEN, Scribe, outside_values, sentence, unfence
from throughline.lab.task_schema import ABSENT
from throughline.lab.triage_components import COMPONENTS
from throughline.lab.triage_cues import SEVERITIES
from throughline.lab.triage_foreign import LANGUAGES

Channel = Literal["email", "forum", "chat", "kb"]

BANKS = triage_components.BANKS | triage_cues.BANKS | triage_frames.BANKS | triage_foreign.BANKS
NO_GPU_SHARE, NO_CODE_SHARE, FOREIGN_SHARE = 0.12, 0.15, 0.07

_WISHES: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "billing": (("refund", "explain", "investigate"), (0.55, 0.25, 0.2)),
    "access": (("grant_access", "investigate", "explain", "restart"), (0.62, 0.14, 0.16, 0.08)),
}
_HARDWARE_WISHES = (
    ("restart", "replace", "investigate", "explain", "refund"),
    (0.27, 0.24, 0.22, 0.19, 0.08),
)


@dataclass(frozen=True)
class Ticket:
    """A ticket's text, the arguments of its `open_ticket` call and what it was made from.

    `values` are the entities that occur in the text by name; `lines` are the divided phrases used.
    """

    text: str
    labels: dict[str, str]
    values: dict[str, str]
    lines: tuple[str, ...]
    style: str


def draw_labels(s: Scribe) -> dict[str, str]:
    """Component, severity, card, code and wish, drawn independently where reality allows it."""
    component = s.pick(COMPONENTS)
    wishes, weights = _WISHES.get(component, _HARDWARE_WISHES)
    return {
        "component": component,
        "severity": s.pick(SEVERITIES),
        "gpu_model": ABSENT if s.chance(NO_GPU_SHARE) else s.get("gpu"),
        "error_code": ABSENT if s.chance(NO_CODE_SHARE) else s.get("code"),
        "requested_action": s.rng.choices(wishes, weights)[0],
    }


def symptom_clause(s: Scribe, component: str, lang: str = "") -> str:
    """A clause that says what is broken, without capital letter and full stop."""
    name = component.upper()
    if lang:
        return f"{s.bank(f'NOUN_{name}_{lang}')} {s.bank(f'PRED_{lang}')}"
    if s.chance(0.3):
        return s.bank(f"CLAUSE_{name}")
    return f"{s.bank(f'NOUN_{name}')} {s.bank(f'PRED_{name}')}"


def bind_card(s: Scribe, gpu: str) -> None:
    """Lets `{card}` stand for the card's name, sometimes in a longer form that contains it."""
    s.texts["card"] = f"{OPEN}{s.e.gpu_long(gpu) if s.chance(0.2) else gpu}{CLOSE}"


def fact_sentences(s: Scribe, code: bool, gpu: bool, lang: str = "") -> list[str]:
    """The sentences or log lines that name the code and the card, or say that there is none."""
    tail = f"_{lang}" if lang else ""
    if code and gpu and not lang and s.chance(0.55):
        return [s.bank("MENTION_BOTH" if s.chance(0.6) else "LOG_BOTH")]
    out: list[str] = []
    if code:
        out.append(s.bank("LOG_CODE" if not lang and s.chance(0.25) else f"MENTION_CODE{tail}"))
    elif not lang and s.chance(0.3):
        out.append(s.bank("NO_CODE"))
    if gpu:
        out.append(s.bank("LOG_GPU" if not lang and s.chance(0.2) else f"MENTION_GPU{tail}"))
    elif not lang and s.chance(0.25):
        out.append(s.bank("NO_GPU"))
    return out


def symptom_sentence(s: Scribe, component: str, lang: str = "") -> str:
    """A whole sentence with the symptom in it."""
    s.texts["S"] = symptom_clause(s, component, lang)
    return sentence(s.bank(f"SYMPTOM_WRAP_{lang}" if lang else "SYMPTOM_WRAP"))


def severity_sentence(s: Scribe, level: str, lang: str = "") -> str:
    """The cue of a severity level, perhaps introduced."""
    if lang:
        return sentence(s.bank(f"SEV_{level.upper()}_{lang}"))
    if s.chance(0.45):
        s.texts["V"] = s.bank(f"LEVEL_{level.upper()}")
        return sentence(s.bank("RATING"))
    s.texts["V"] = s.bank(f"SEV_{level.upper()}")
    return sentence(s.texts["V"] if s.chance(0.3) else s.bank("IMPACT"))


def wish_sentence(s: Scribe, action: str, lang: str = "") -> str:
    """The request of an action: its own sentence, or its verb phrase in a common frame."""
    tail = f"_{lang}" if lang else ""
    if not lang and s.chance(0.45):
        return sentence(s.bank(f"ACT_{action.upper()}"))
    s.texts["V"] = s.bank(f"DO_{action.upper()}{tail}")
    return sentence(s.bank(f"WISH{tail}"))


def _free_text(s: Scribe, labels: dict[str, str], lang: str) -> str:
    tail = f"_{lang}" if lang else ""
    code, gpu = labels["error_code"] != ABSENT, labels["gpu_model"] != ABSENT
    body = [
        symptom_sentence(s, labels["component"], lang),
        severity_sentence(s, labels["severity"], lang),
        wish_sentence(s, labels["requested_action"], lang),
        *fact_sentences(s, code, gpu, lang),
    ]
    if s.chance(0.35):
        s.rng.shuffle(body)
    else:  # a natural order: what happens, with what, how bad, what to do
        first, severity, action, *facts = body
        s.rng.shuffle(facts)
        body = s.pick(
            (
                [first, *facts, severity, action],
                [*facts, first, severity, action],
                [action, first, *facts, severity],
                [severity, first, *facts, action],
                [first, severity, *facts, action],
                [first, *facts, action, severity],
            )
        )
    for _ in range(s.pick((0, 0, 1, 1, 2))):
        body.insert(s.between(0, len(body)), s.bank("DISTRACTOR"))
    if s.chance(0.45):
        body.insert(0, s.bank("OPENING"))
    if s.chance(0.4):
        body.append(s.bank(f"CLOSING{tail}"))
    return s.pick((" ", " ", " ", "\n", "\n\n")).join(body)


def _form(s: Scribe, labels: dict[str, str]) -> str:
    code, gpu = labels["error_code"], labels["gpu_model"]
    empty = s.pick(("none", "-", "unknown", "n/a"))
    s.texts |= {
        "F1": symptom_sentence(s, labels["component"]),
        "F2": empty if gpu == ABSENT else s.texts["card"],
        "F3": empty if code == ABSENT else f"{OPEN}{code}{CLOSE}",
        "F4": severity_sentence(s, labels["severity"]),
        "F5": wish_sentence(s, labels["requested_action"]),
    }
    text = s.bank("FORM")
    return text.replace(" | ", "\n").replace(" / ", "\n") if s.chance(0.5) else text


def _typo(rng: Random) -> Callable[[str], str]:
    """A change that mistypes one of the long words, the same way for one whole text."""
    target = rng.randint(0, 12)
    kind = rng.randint(0, 2)
    seen = 0

    def change(piece: str) -> str:
        nonlocal seen
        words = piece.split(" ")
        for i, word in enumerate(words):
            if len(word) < 6 or not word.isalpha():
                continue
            if seen == target:
                at = 2 + len(word) % 3
                swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
                words[i] = (swapped, word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:])[kind]
            seen += 1
        return " ".join(words)

    return change


def _habits(s: Scribe, text: str, channel: Channel) -> str:
    """How people type: lower case, missing or loud punctuation, a typo; values stay as they are."""
    if s.chance({"chat": 0.35, "forum": 0.12, "email": 0.04, "kb": 0.0}[channel]):
        text = outside_values(text, str.lower)
    if s.chance(0.06):
        text = outside_values(text, lambda t: t.replace(". ", "! "))
    if s.chance(0.08):
        text = outside_values(text, lambda t: t.replace(". ", " ").replace(",", ""))
    if s.chance(0.1):
        text = outside_values(text, _typo(s.rng))
    return text


def write_ticket(s: Scribe, channel: Channel) -> Ticket:
    """One ticket; call `s.begin(...)` before it."""
    labels = draw_labels(s)
    if labels["gpu_model"] != ABSENT:
        bind_card(s, labels["gpu_model"])
    lang = s.pick(LANGUAGES) if s.chance(FOREIGN_SHARE) else ""
    roll = s.rng.random()
    if not lang and roll < 0.12:
        style, text = "form", _form(s, labels)
    else:
        style, text = lang or "text", _free_text(s, labels, lang)
    if not lang and s.chance({"email": 0.4, "forum": 0.35, "chat": 0.2, "kb": 0.0}[channel]):
        text = f"{s.bank('SUBJECT')}\n{text}"
        style += "+subject"
    text = unfence(_habits(s, text, channel))
    values = {k: v for k, v in s.bound.items() if v in text}
    return Ticket(text, labels, values, tuple(s.used), style)
