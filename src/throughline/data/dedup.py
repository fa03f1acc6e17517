"""Exact and near duplicates: the first of equal records stays."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from throughline.data.ingest import Record

SHINGLE = 3
_WORD = re.compile(r"\w+|[^\w\s]", re.UNICODE)


@dataclass(frozen=True)
class Duplicate:
    """A record that repeats an earlier one: index of it, index of the original, similarity (1 for exact)."""

    index: int
    original: int
    jaccard: float


def conversation_text(record: Record) -> str:
    """Returns what is compared: all that user and assistant say, tool calls included."""
    parts = []
    for message in record.values["messages"]:
        if message["role"] == "system":
            continue
        parts.append(message.get("content") or "")
        parts += [call["function"]["arguments"] for call in message.get("tool_calls") or []]
    return "\n".join(parts)


def words(text: str) -> list[str]:
    """Returns case-folded words and signs; white space does not count."""
    return _WORD.findall(text.casefold())


def shingles(tokens: list[str]) -> frozenset[str]:
    """Returns the set of word 3-grams; a shorter text is one shingle."""
    last = max(1, len(tokens) - SHINGLE + 1)
    return frozenset(" ".join(tokens[i : i + SHINGLE]) for i in range(last))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Returns |A ∩ B| / |A ∪ B|; 1 for two empty sets."""
    union = len(left | right)
    return len(left & right) / union if union else 1.0


def find_duplicates(texts: Iterable[str], threshold: float) -> Iterator[Duplicate]:
    """Yields each text that repeats an earlier one that is no duplicate itself.

    Args:
        texts: What to compare, in order.
        threshold: Jaccard similarity from which two texts are near duplicates; 1 leaves only exact ones,
            which are equal but for case and white space.
    """
    items = [_Text.of(text) for text in texts]
    index = _Index(threshold, items)
    for number, item in enumerate(items):
        found = index.nearest(item)
        if found is not None:
            yield Duplicate(number, *found)
        else:
            index.add(number, item)


def find_repeats(texts: Iterable[str], of: Iterable[str], threshold: float) -> Iterator[Duplicate]:
    """Yields each text that repeats one of others, whatever it has in common with the other texts.

    Args:
        texts: What to look at; several may repeat the same one.
        of: What they are compared with; `original` is an index of these.
        threshold: As for `find_duplicates`.
    """
    originals, items = [_Text.of(text) for text in of], [_Text.of(text) for text in texts]
    index = _Index(threshold, [*originals, *items])
    for number, original in enumerate(originals):
        index.add(number, original)
    for number, item in enumerate(items):
        found = index.nearest(item)
        if found is not None:
            yield Duplicate(number, *found)


@dataclass(frozen=True)
class _Text:
    key: bytes
    shingles: frozenset[str]

    @classmethod
    def of(cls, text: str) -> _Text:
        tokens = words(text)
        key = hashlib.sha256("\0".join(tokens).encode("utf-8", "surrogatepass")).digest()
        return cls(key, shingles(tokens))


class _Index:
    """An exact index of sets by Jaccard similarity.

    Prefix filtering after Chaudhuri, Ganti & Kaushik (2006) and Xiao, Wang, Lin & Yu (2008).

    Order all shingles by how many texts have them, rarest first. Sets A and B, |A| ≤ |B|, of similarity t or more
    have at least t·|B| shingles in common, and 2t/(1 + t)·|A| if |A| is to reach it beside one of its own size. So they
    share one among the first |B| − ⌈t·|B|⌉ + 1 of B and the first |A| − ⌈2t/(1 + t)·|A|⌉ + 1 of A, the rarest ones:
    what texts have in common by boilerplate alone is never looked up.
    """

    def __init__(self, threshold: float, texts: Sequence[_Text]) -> None:
        self._threshold = threshold
        self._exact: dict[bytes, int] = {}
        self._sets: dict[int, frozenset[str]] = {}
        # As the smaller and as the larger of two: prefix shingle → texts.
        self._smaller: dict[str, list[int]] = defaultdict(list)
        self._larger: dict[str, list[int]] = defaultdict(list)
        self._counts: Counter[str] = Counter()
        if threshold < 1:
            for text in texts:
                self._counts.update(text.shingles)

    def add(self, number: int, text: _Text) -> None:
        """Adds a text; of equal ones the first stays."""
        if text.key in self._exact:
            return
        self._exact[text.key] = number
        if self._threshold >= 1:
            return
        self._sets[number] = text.shingles
        ordered = self._ordered(text)
        for shingle in ordered[: self._short(len(ordered))]:
            self._smaller[shingle].append(number)
        for shingle in ordered[: self._long(len(ordered))]:
            self._larger[shingle].append(number)

    def nearest(self, text: _Text) -> tuple[int, float] | None:
        """Returns the most similar text that was added and its similarity, the earliest of equals; None below t."""
        if text.key in self._exact:
            return self._exact[text.key], 1.0
        if self._threshold >= 1:
            return None
        ordered = self._ordered(text)
        size = len(ordered)
        candidates = {
            number
            for shingle in ordered[: self._long(size)]
            for number in self._smaller.get(shingle, ())
            if len(self._sets[number]) <= size
        }
        candidates |= {
            number
            for shingle in ordered[: self._short(size)]
            for number in self._larger.get(shingle, ())
            if len(self._sets[number]) >= size
        }
        scored = [(-jaccard(text.shingles, self._sets[number]), number) for number in candidates]
        best = min(scored, default=(0.0, -1))
        return (best[1], -best[0]) if -best[0] >= self._threshold else None

    def _ordered(self, text: _Text) -> list[str]:
        return sorted(text.shingles, key=lambda shingle: (self._counts[shingle], shingle))

    def _long(self, size: int) -> int:
        # A little less than t, so that rounding loses no pair at the threshold.
        return size - math.ceil(size * self._threshold - 1e-9) + 1

    def _short(self, size: int) -> int:
        return size - math.ceil(size * 2 * self._threshold / (1 + self._threshold) - 1e-9) + 1
