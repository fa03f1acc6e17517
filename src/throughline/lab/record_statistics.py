"""How varied a set of records is: distinct n-grams, the commonest template, near-duplicates."""

from __future__ import annotations

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Near-duplicate: Jaccard similarity of the sets of masked word 4-grams.
NEAR_DUPLICATE_JACCARD = 0.8
_SHINGLE = 4
_BANDS, _ROWS = 12, 4
_PRIME = (1 << 61) - 1
_WORD = re.compile(r"[^\s]+")
_SENTENCE = re.compile(r"(?<=[.?!])\s+|\n+")


@dataclass(frozen=True)
class RecordStatistics:
    """Variety of the last user message of each record; all ratios are between 0 and 1.

    Attributes:
        records: How many had a user message.
        distinct: For n = 1, 2, 3, different word n-grams divided by all of them; words with digits count as
            one word, so that codes and numbers do not make a text look varied.
        largest_template_share: Share of the commonest masked text.
        largest_sentence_share: Share of records with the commonest masked sentence (four or more words).
        near_duplicate_rate: Share of records with an earlier one at Jaccard 0.8 or more, exact included.
    """

    records: int
    distinct: dict[int, float]
    largest_template_share: float
    largest_sentence_share: float
    near_duplicate_rate: float


def _text(record: Mapping[str, Any]) -> str | None:
    messages = record.get("messages")
    if not isinstance(messages, list):
        return None
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            return content if isinstance(content, str) else None
    return None


def _mask(text: str) -> list[str]:
    return ["#" if any(c.isdigit() for c in w) else w.lower() for w in _WORD.findall(text)]


def _shingles(words: list[str]) -> frozenset[int]:
    last = max(1, len(words) - _SHINGLE + 1)
    return frozenset(zlib.crc32(" ".join(words[i : i + _SHINGLE]).encode()) for i in range(last))


def near_duplicates(texts: Iterable[str]) -> list[bool]:
    """For each text, whether an earlier one is nearly the same (MinHash bands, then the exact similarity)."""
    import numpy as np

    rng = np.random.default_rng(0)
    a = rng.integers(1, 1 << 31, size=(_BANDS * _ROWS, 1), dtype=np.uint64)
    b = rng.integers(0, 1 << 31, size=(_BANDS * _ROWS, 1), dtype=np.uint64)
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    sets: list[frozenset[int]] = []
    found: list[bool] = []
    for i, text in enumerate(texts):
        shingles = _shingles(_mask(text))
        values = np.fromiter(shingles, dtype=np.uint64, count=len(shingles))
        signature = ((a * values + b) % np.uint64(_PRIME)).min(axis=1)
        keys = [(n, signature[n * _ROWS : (n + 1) * _ROWS].tobytes()) for n in range(_BANDS)]
        candidates = {j for key in keys for j in buckets[key]}
        found.append(
            any(len(shingles & sets[j]) >= NEAR_DUPLICATE_JACCARD * len(shingles | sets[j]) for j in candidates)
        )
        sets.append(shingles)
        for key in keys:
            buckets[key].append(i)
    return found


def statistics(records: Iterable[Mapping[str, Any]]) -> RecordStatistics:
    """Measures the records; those without a user message are left out. Raises ValueError if none is left."""
    texts = [text for record in records if (text := _text(record)) is not None]
    if not texts:
        raise ValueError("statistics of no records")
    templates: Counter[str] = Counter()
    sentences: Counter[str] = Counter()
    grams: dict[int, set[tuple[str, ...]]] = {n: set() for n in (1, 2, 3)}
    totals = dict.fromkeys(grams, 0)
    for text in texts:
        words = _mask(text)
        templates[" ".join(words)] += 1
        parts = {" ".join(_mask(part)) for part in _SENTENCE.split(text)}
        sentences.update(part for part in parts if part.count(" ") >= 3)
        for n, seen in grams.items():
            found = list(zip(*(words[k:] for k in range(n)), strict=False))
            totals[n] += len(found)
            seen.update(found)
    return RecordStatistics(
        records=len(texts),
        distinct={n: len(grams[n]) / max(1, totals[n]) for n in grams},
        largest_template_share=max(templates.values()) / len(texts),
        largest_sentence_share=max(sentences.values(), default=0) / len(texts),
        near_duplicate_rate=sum(near_duplicates(texts)) / len(texts),
    )
