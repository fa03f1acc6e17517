"""Plain English (and a little other) text for pre-training: a seeded endless stream of short documents.

Most documents repeat strings that cannot be guessed (codes, names, whole sentences) so that a model has to
learn to copy. They never show the lab's tasks with their answers, and never use held-out values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random

from throughline.lab.copying import code_snippet, dialogue, passages, repeat_list, repeat_text, transcript
from throughline.lab.reports import everyday, extract, extract_record, foreign, log_lookup, prose, summary
from throughline.lab.structures import as_table_answers, chat_document, nested_json
from throughline.lab.writer import Writer


@dataclass(frozen=True)
class Family:
    """A kind of document, how often it occurs, and whether it is built on copying."""

    write: Callable[[Writer], str]
    weight: float
    copies: bool


FAMILIES: tuple[Family, ...] = (
    Family(extract, 16, True),
    Family(extract_record, 14, True),
    Family(log_lookup, 9, True),
    Family(as_table_answers, 10, True),
    Family(nested_json, 5, True),
    Family(repeat_list, 28, True),
    Family(repeat_text, 9, True),
    Family(passages, 8, True),
    Family(dialogue, 6, True),
    Family(summary, 5, True),
    Family(transcript, 3, True),
    Family(code_snippet, 3, True),
    Family(foreign, 4, True),
    Family(chat_document, 5, True),
    Family(everyday, 3, False),
    Family(prose, 3, False),
)


_ECHOES = (
    "Again:",
    "Copy:",
    "Repeat:",
    "The same again:",
    "As above:",
    "Once more:",
    "Echo:",
    "---",
    "Quoted:",
    "",
)


def _echo(w: Writer, text: str) -> str:
    """Appends a short document, or some of its lines, word for word to three documents in ten."""
    roll = w.rng.random()
    if roll > 0.3 or text.startswith("<|") or len(text) > 420:
        return text
    lines = text.split("\n")
    first = w.between(0, len(lines) - 1) if roll > 0.22 else 0
    last = w.between(first, len(lines) - 1) if roll > 0.22 else len(lines) - 1
    return f"{text}\n{w.pick(_ECHOES)}\n" + "\n".join(lines[first : last + 1])


def documents(seed: int, n_chars: int | None = None) -> Iterator[str]:
    """Pre-training documents, endless or until at least `n_chars` characters were given.

    The same seed gives the same documents. Typical length is 150 to 900 characters. Documents of the chat
    family carry the markers `<|system|>`, `<|user|>`, `<|assistant|>`, `<|tool|>`, `<|end|>` and
    `<tool_call>` as text.
    """
    rng = Random(seed)
    writer = Writer(rng, "pretrain")
    writers = [f.write for f in FAMILIES]
    cumulative: list[float] = []
    total = 0.0
    for family in FAMILIES:
        total += family.weight
        cumulative.append(total)
    given = 0
    while n_chars is None or given < n_chars:
        writer.begin()
        text = _echo(writer, rng.choices(writers, cum_weights=cumulative)[0](writer).strip())
        given += len(text)
        yield text


@dataclass(frozen=True)
class Statistics:
    """Shape of a sample of documents.

    Attributes:
        documents: How many.
        mean_chars: Mean length in characters.
        distinct_trigrams: Different word 3-grams divided by all word 3-grams.
        copy_share: Share of documents that repeat an unguessable string (four or more characters with a
            digit, or a run of five words).
        copied_chars: Share of the characters of all words that stand in such a repetition.
    """

    documents: int
    mean_chars: float
    distinct_trigrams: float
    copy_share: float
    copied_chars: float


_WORD = re.compile(r"[^\s\"'`,;()<>\[\]{}|=]+")


def _copied(words: list[str]) -> int:
    """Characters of words that repeat an earlier coded word or run of five words."""
    seen_words: set[str] = set()
    seen_runs: set[tuple[str, ...]] = set()
    marked = [False] * len(words)
    for i, word in enumerate(words):
        bare = word.strip(".:?!")
        if len(bare) >= 4 and any(c.isdigit() for c in bare):
            marked[i] = bare in seen_words
            seen_words.add(bare)
        if i >= 4:
            run = tuple(words[i - 4 : i + 1])
            if run in seen_runs:
                marked[i - 4 : i + 1] = [True] * 5
            seen_runs.add(run)
    return sum(len(word) for word, mark in zip(words, marked, strict=True) if mark)


def statistics(docs: Iterable[str]) -> Statistics:
    """Measures diversity and copying of a sample; raises `ValueError` if the sample is empty."""
    n = chars = word_chars = copied = copying = trigrams = 0
    distinct: set[tuple[str, str, str]] = set()
    for text in docs:
        words = _WORD.findall(text)
        n += 1
        chars += len(text)
        word_chars += sum(map(len, words))
        c = _copied(words)
        copied += c
        copying += c > 0
        trigrams += max(0, len(words) - 2)
        distinct.update(zip(words, words[1:], words[2:], strict=False))
    if not n:
        raise ValueError("statistics of no documents")
    return Statistics(n, chars / n, len(distinct) / max(1, trigrams), copying / n, copied / max(1, word_chars))
