"""Points of which no other is better in every way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from throughline.tuning.limits import MAXIMISED, Objective

P = TypeVar("P")


def front(points: Mapping[P, Mapping[Objective, float]], objectives: Sequence[Objective]) -> list[P]:
    """Returns the points that no other one dominates, in the order given.

    One dominates another when it is at least as good in every objective and better in one; equal points stay both.

    Args:
        points: Name → value by objective.
        objectives: Those that count.
    """
    scores = {name: [_score(values[each], each) for each in objectives] for name, values in points.items()}
    return [name for name, own in scores.items() if not any(_dominates(other, own) for other in scores.values())]


def _score(value: float, objective: Objective) -> float:
    return value if objective in MAXIMISED else -value


def _dominates(one: Iterable[float], other: Iterable[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
