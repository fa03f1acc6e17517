"""Exact and near duplicates: the first of equal records stays."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from throughline.data.ingest import Record

SHINGLE = 3
_WORD = re.compile(r"\w+|[^\w\s]", re.UNICODE)
# With 64 permutations in 16 bands of 4 rows, a pair of Jaccard 0.8 is a candidate with
# 1 - (1 - 0.8^4)^16 = 0.9998; candidates are then compared exactly (Broder 1997; Indyk & Motwani 1998).
_PERMUTATIONS, _BANDS = 64, 16


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
    import rensa

    exact: dict[bytes, int] = {}
    kept: dict[int, frozenset[str]] = {}
    lsh = rensa.RMinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, num_bands=_BANDS)
    for index, text in enumerate(texts):
        tokens = words(text)
        key = hashlib.sha256("\0".join(tokens).encode("utf-8", "surrogatepass")).digest()
        if key in exact:
            yield Duplicate(index, exact[key], 1.0)
            continue
        exact[key] = index
        if threshold >= 1:
            continue
        shingled = shingles(tokens)
        minhash = rensa.RMinHash(num_perm=_PERMUTATIONS, seed=42)
        minhash.update(sorted(shingled))
        best = _best(shingled, lsh.query(minhash), kept)
        if best and best[0] >= threshold:
            yield Duplicate(index, best[1], best[0])
            continue
        lsh.insert(index, minhash)
        kept[index] = shingled


def _best(
    shingled: frozenset[str], candidates: Iterable[int], kept: dict[int, frozenset[str]]
) -> tuple[float, int] | None:
    scored = [(jaccard(shingled, kept[other]), other) for other in candidates]
    # The earliest original wins a tie, so that the result does not depend on the index's order.
    return min(scored, key=lambda item: (-item[0], item[1])) if scored else None
