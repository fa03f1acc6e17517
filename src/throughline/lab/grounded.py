"""Grounded questions: numbered passages of platform facts, a question, an answer with the passage's number.

A document is a handful of facts about one or two subjects; a question shows some of its passages. Where the
fact asked for is not among them, the answer is the fixed sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from throughline.lab.grammar import CLOSE, OPEN, Banks, Scribe, bars, lines, sentence, unfence
from throughline.lab.task_schema import NOT_FOUND

UNANSWERABLE_SHARE = 0.25

_ATTRIBUTES: dict[str, Callable[[Scribe], str]] = {
    "port": lambda s: str(s.between(1024, 65000)),
    "timeout": lambda s: f"{s.between(2, 900)} {s.pick(('seconds', 'minutes', 'ms'))}",
    "quota": lambda s: f"{s.between(2, 512)} {s.pick(('GPUs', 'TB', 'jobs', 'cores'))}",
    "owner": lambda s: s.e.person(),
    "version": lambda s: s.e.version(),
    "region": lambda s: s.e.region(),
    "retention": lambda s: f"{s.between(2, 400)} days",
    "rate limit": lambda s: f"{s.between(2, 900)} requests per second",
    "log file": lambda s: s.e.path(),
    "backup host": lambda s: s.e.host(),
    "contact": lambda s: s.e.person(),
    "support channel": lambda s: f"#{s.e.cluster()}",
    "price": lambda s: f"{s.between(1, 90)}.{s.between(10, 99)} euros",
    "start date": lambda s: s.e.date(),
    "card": lambda s: s.e.gpu() if s.chance(0.6) else s.e.synthetic_gpu(),
    "customer": lambda s: s.e.company(),
    "batch size": lambda s: str(s.between(2, 4096)),
    "fault code": lambda s: s.e.code(),
    "memory limit": lambda s: f"{s.between(2, 960)} GB",
    "maintenance window": lambda s: f"{s.e.clock()[:5]} to {s.e.clock()[:5]}",
}

_PASSAGE = lines("""
    The {attr} of {subj} is {value}.
    {subj} has the {attr} {value}.
    For {subj} the {attr} is {value}.
    For {subj}, the {attr} was set to {value}.
    The {attr} (for|at) {subj} is (now|currently|) {value}.
    {attr} of {subj}: {value}
    {subj} - {attr}: {value}
    We set the {attr} of {subj} to {value}.
    As {attr} of {subj} we use {value}.
    On {subj} the {attr} is {value}.
    {value} is the {attr} of {subj}.
    The {attr} of {subj} was changed to {value}.
    With {subj}, the {attr} is {value}.
    Since the last release the {attr} of {subj} is {value}.
    By default, the {attr} of {subj} is {value}.
    (Note|Please note|Remember): the {attr} of {subj} is {value}.
    The handbook gives {value} as {attr} of {subj}.
    {subj} uses {value} as its {attr}.
    {subj} was delivered with the {attr} {value}.
    The team agreed on {value} as {attr} for {subj}.
    In the contract the {attr} of {subj} is {value}.
    {subj}: the {attr} is {value}.
    The {attr} {value} belongs to {subj}.
    Its {attr} is {value}; this holds for {subj}.
    The current {attr} of {subj} reads {value}.
    Operations fixed the {attr} of {subj} at {value}.""")
_EXTRA = lines("""
    It was checked by the night shift.
    This applies to all users.
    Ask the desk before you change it.
    It is reviewed every quarter.
    The page is up to date.
    See the handbook for details.
    Changes are announced by mail.
    This has been so for years.
    Exceptions need approval.
    Most teams never notice it.
    The web page shows the same.
    It may change with the next release.
    No action is needed.
    The rule is old but valid.
    Please do not share it outside.
    A mail was sent about it.
    New staff should read this first.
    The old page is no longer valid.
    It was confirmed in the weekly meeting.
    Nobody has complained so far.
    A form for changes is on the intranet.
    The setting survives a restart.
    Customers can see it in the console.
    It was copied from the old cluster.
    Monitoring looks at it every minute.
    This is the same in all regions.
    The next review is in spring.
    It needs two people to change it.
    The number was rounded.
    There is a ticket about it.
    It was tested twice.
    Automation takes care of it.
    The wiki has a picture of it.
    Contracts refer to this page.""")
_QUESTION = lines("""
    What is the {attr} of {subj}?
    What {attr} does {subj} have?
    Which {attr} does {subj} use?
    (Please tell|Tell) me the {attr} of {subj}.
    What is the {attr} for {subj}?
    (Do you know|Can you tell me) the {attr} of {subj}?
    {subj}: what is the {attr}?
    I need the {attr} of {subj}.
    (Please look|Look) up the {attr} of {subj}.
    Give me the {attr} of {subj}.
    For {subj}, what is the {attr}?
    What do the passages say about the {attr} of {subj}?
    Find the {attr} of {subj}.
    We are looking for the {attr} of {subj}.
    Which {attr} is given for {subj}?
    What was the {attr} of {subj} again?
    How about the {attr} of {subj}?
    The {attr} of {subj}, please.
    Somebody asked for the {attr} of {subj}.
    Could you find out the {attr} of {subj}?
    My question: what is the {attr} of {subj}?
    Is the {attr} of {subj} known?""")
_SUBJECT = bars("""cluster {~cluster} | (host|node) {~host} | the {product} of {company}
    | the {product} in {region} | partition {~cluster} | server {~host} | project {~cluster}
    | the site of {~company} | service {~cluster} | the {product} | queue {~cluster}
    | the {product} on {~host}""")

BANKS = Banks(divided={"PASSAGE": _PASSAGE, "EXTRA": _EXTRA, "QUESTION": _QUESTION}, shared={"SUBJECT": _SUBJECT})


@dataclass(frozen=True)
class Fact:
    """One fact of a document; `text` is the passage that states it."""

    attribute: str
    subject: str
    value: str
    text: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A prompt of numbered passages and a question; `citation` is None where no passage answers."""

    text: str
    answer: str
    citation: int | None
    value: str | None
    passages: tuple[str, ...]
    lines: tuple[str, ...]


def write_document(s: Scribe) -> list[Fact]:
    """Six facts: three attributes of each of two subjects, drawn with overlap so that questions need both."""
    subjects: list[str] = []
    while len(subjects) < 2:
        subject = unfence(s.bank("SUBJECT"))
        # A subject inside the other one's name would make a question ambiguous.
        if not any(subject in other or other in subject for other in subjects):
            subjects.append(subject)
    names = s.rng.sample(sorted(_ATTRIBUTES), 4)
    facts: list[Fact] = []
    for subject, chosen in ((subjects[0], names[:3]), (subjects[1], names[1:])):
        for attribute in chosen:
            s.used = []
            value = _ATTRIBUTES[attribute](s)
            s.texts = {"attr": attribute, "subj": subject, "value": f"{OPEN}{value}{CLOSE}"}
            text = sentence(s.bank("PASSAGE"))
            if s.chance(0.3):
                text = f"{text.rstrip('.')}. {s.bank('EXTRA')}"
            facts.append(Fact(attribute, subject, value, unfence(text), tuple(s.used)))
    return facts


def ask(s: Scribe, document: list[Fact]) -> Question:
    """A question on the document, with two to four of its passages in random order."""
    order = s.rng.sample(document, len(document))
    asked, others = order[0], order[1:]
    answerable = not s.chance(UNANSWERABLE_SHARE)
    shown = [*others[: s.between(1, 3)], asked] if answerable else others[: s.between(2, 4)]
    s.rng.shuffle(shown)
    s.used = []
    s.texts = {"attr": asked.attribute, "subj": asked.subject}
    question = unfence(sentence(s.bank("QUESTION")))
    passages = "\n".join(f"[{i}] {fact.text}" for i, fact in enumerate(shown, 1))
    text = f"{passages}\n{question}"
    used = (*s.used, *(line for fact in shown for line in fact.lines))
    texts = tuple(fact.text for fact in shown)
    if not answerable:
        return Question(text, NOT_FOUND, None, None, texts, used)
    n = shown.index(asked) + 1
    answer = f"The {asked.attribute} of {asked.subject} is {asked.value} [{n}]."
    return Question(text, answer, n, asked.value, texts, used)
