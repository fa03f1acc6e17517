"""Grounded questions: numbered passages of one fact each, a question, an answer with the passage's number.

A document is a handful of facts about two subjects; a question shows some of its passages, of which one at most
names the attribute asked for. Where none does, the answer is the fixed sentence.
"""

from __future__ import annotations

from dataclasses import dataclass

from throughline.lab import banks
from throughline.lab.phrases import PhraseSampler
from throughline.lab.task_schema import NOT_FOUND

UNANSWERABLE_SHARE = 0.35
# Passages shown, drawn from these: with fewer fours the last number would hardly ever be cited.
_SHOWN = (2, 3, 4, 4)


@dataclass(frozen=True)
class Fact:
    """One fact of a document; `text` is the passage that states it."""

    attribute: str
    subject: str
    value: str
    text: str


@dataclass(frozen=True)
class Question:
    """A prompt of numbered passages and a question; `citation` and `value` are None where no passage answers."""

    text: str
    answer: str
    citation: int | None
    value: str | None
    passages: int


def write_document(s: PhraseSampler) -> list[Fact]:
    """Writes six facts about two subjects, each with an attribute of its own."""
    bank = banks.grounded(s.split)
    theme = s.rng.choice(list(bank.themes.values()))
    subjects = [_fresh(s, phrase, set()) for phrase in s.rng.sample(theme.subjects, 2)]
    names = s.rng.sample(list(theme.attributes), 6)
    facts: list[Fact] = []
    for subject, chosen in zip(subjects, (names[:3], names[3:]), strict=True):
        for attribute in chosen:
            value = _fresh(s, theme.attributes[attribute], {*subjects, *(fact.value for fact in facts)})
            phrase = s.pick(bank.passages)
            starts = "subject" if phrase.startswith("{subject}") else "attribute"
            slots = {"attribute": attribute, "subject": subject, "value": value}
            if phrase.startswith(f"{{{starts}}}"):
                slots[starts] = slots[starts][0].upper() + slots[starts][1:]
            facts.append(Fact(attribute, subject, value, s.fill(phrase, **slots)))
    return facts


def _fresh(s: PhraseSampler, form: str, taken: set[str]) -> str:
    while True:
        s.begin()
        value = s.fill(form)
        if value not in taken:
            return value


def ask(s: PhraseSampler, document: list[Fact]) -> Question:
    """Writes a question on the document, with two to four of its passages in random order."""
    asked, *others = s.rng.sample(document, len(document))
    answerable = not s.chance(UNANSWERABLE_SHARE)
    count = s.rng.choice(_SHOWN)
    shown = [*others[: count - 1], asked] if answerable else others[:count]
    s.rng.shuffle(shown)
    phrase = s.pick(banks.grounded(s.split).questions)
    question = s.fill(phrase, attribute=asked.attribute, subject=asked.subject)
    passages = "\n".join(f"[{number}] {fact.text}" for number, fact in enumerate(shown, 1))
    text = f"{passages}\n{question[0].upper()}{question[1:]}"
    if not answerable:
        return Question(text, NOT_FOUND, None, None, len(shown))
    number = shown.index(asked) + 1
    answer = f"The {asked.attribute} of {asked.subject} is {asked.value}. [{number}]"
    return Question(text, answer, number, asked.value, len(shown))
