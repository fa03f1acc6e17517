"""Histograms in the numbers of a row."""

from __future__ import annotations

from bisect import bisect_left

from throughline.gateway.board import Row


class Tally:
    """A histogram of one event loop: no lock and no label look-up, since each message counts.

    Args:
        bounds: Upper bounds of the buckets, ascending, without infinity.
        row: Where its numbers are: a count for each bucket and for infinity, and the sum.
    """

    __slots__ = ("_bounds", "_numbers")

    def __init__(self, bounds: tuple[float, ...], row: Row) -> None:
        self._bounds = bounds
        self._numbers = row.take(self.length(bounds))

    @staticmethod
    def length(bounds: tuple[float, ...]) -> int:
        """How many numbers it takes of a row."""
        return len(bounds) + 2

    @property
    def count(self) -> float:
        """How often something was observed."""
        return sum(self._numbers[:-1])

    @property
    def total(self) -> float:
        """The sum of what was observed."""
        return self._numbers[-1]

    def observe(self, value: float, times: int = 1) -> None:
        """Counts `value` as seen `times` times."""
        self._numbers[bisect_left(self._bounds, value)] += times
        self._numbers[-1] += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them."""
        running = 0.0
        out: list[tuple[str, float]] = []
        for bound, count in zip((*self._bounds, float("inf")), self._numbers[:-1], strict=True):
            running += count
            out.append(("+Inf" if bound == float("inf") else str(float(bound)), running))
        return out
