"""Numbers that the workers of a gateway share: each writes its own row alone, so that none waits for another."""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

_BYTES = 8
# At the head of a row: requests and tokens in the engines.
_ADMITTED = 2


class Row:
    """Hands out the numbers of one worker, in the same order in every process.

    Args:
        numbers: All of them.
    """

    def __init__(self, numbers: memoryview[float]) -> None:
        self._numbers, self._next = numbers, 0

    def take(self, count: int) -> memoryview[float]:
        """The next `count` numbers.

        Raises:
            ValueError: If there are not so many left.
        """
        found = self._numbers[self._next : self._next + count]
        if len(found) != count:
            raise ValueError(f"the row has {len(found)} numbers left, asked for {count}")
        self._next += count
        return found


@dataclass(frozen=True)
class Board:
    """The rows of all workers.

    Attributes:
        rows: 64-bit floats: first the requests and the tokens that a worker has in the engines, then its metrics. A
            worker that is started again goes on with those of the one that died.
        own: Which row is ours.
    """

    rows: Sequence[memoryview[float]]
    own: int

    @classmethod
    def alone(cls, length: int) -> Self:
        """The board of a gateway that is one process; `length` counts the metrics of a row."""
        return cls([_doubles(array("d", bytes(cls.size(1, length))))], 0)

    @classmethod
    def shared(cls, file: int, *, workers: int, own: int, length: int) -> Self:
        """The board in a file of `size` bytes, by its descriptor."""
        numbers = _doubles(mmap.mmap(file, cls.size(workers, length)))
        whole = len(numbers) // workers
        return cls([numbers[at * whole : (at + 1) * whole] for at in range(workers)], own)

    @staticmethod
    def size(workers: int, length: int) -> int:
        """Bytes of a shared board."""
        return workers * (_ADMITTED + length) * _BYTES

    @property
    def requests(self) -> int:
        """Requests in the engines, of all workers."""
        return int(sum(row[0] for row in self.rows))

    @property
    def tokens(self) -> int:
        """Their tokens."""
        return int(sum(row[1] for row in self.rows))

    def admit(self, requests: int, tokens: int) -> None:
        """Counts what this worker lets in, negative for what ends."""
        own = self.rows[self.own]
        own[0] += requests
        own[1] += tokens

    def forget(self, worker: int) -> None:
        """Frees what a worker had in the engines; it has died."""
        self.rows[worker][0] = self.rows[worker][1] = 0

    def row(self) -> Row:
        """Our own metrics."""
        return Row(self.rows[self.own][_ADMITTED:])

    def sums(self) -> Row:
        """A copy that adds up the metrics of all."""
        return Row(_doubles(array("d", map(sum, zip(*self.rows, strict=True))))[_ADMITTED:])


class Number:
    """An attribute that is one of the object's `numbers`."""

    def __init__(self, position: int) -> None:
        self._position = position

    def __get__(self, owner: Any, kind: type) -> float:
        found: float = owner.numbers[self._position]
        return found

    def __set__(self, owner: Any, value: float) -> None:
        owner.numbers[self._position] = value


def _doubles(buffer: Any) -> memoryview[float]:
    return memoryview(buffer).cast("B").cast("d")
