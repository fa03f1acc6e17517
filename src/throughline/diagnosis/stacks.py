"""Collapsed stacks, as py-spy's raw format and `stackcollapse-perf` write them: where a process was, by function."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from throughline.contracts.errors import DataError

_LINE = re.compile(r"^(?P<stack>.+) (?P<count>\d+)$")
# py-spy writes `function (file.py:12)`.
_FRAME = re.compile(r"^(?P<function>.+?) \((?P<file>[^()]+?)(:\d+)?\)$")


@dataclass(frozen=True)
class Hotspot:
    """A function: share of the samples in it, and in it or what it called."""

    name: str
    own: float
    total: float


def hotspots(text: str, where: str, *, most: int = 15) -> list[Hotspot]:
    """Returns the functions with the most samples of their own.

    Raises:
        DataError: If no line is a stack with its count.
    """
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in text.splitlines():
        match = _LINE.match(line.strip())
        if match is None:
            continue
        frames = [_name(frame) for frame in match["stack"].split(";")]
        count = int(match["count"])
        own[frames[-1]] += count
        # A function that calls itself is in a stack once.
        total.update(dict.fromkeys(frames, count))
    samples = sum(own.values())
    if not samples:
        raise DataError(
            "file holds no stacks",
            where=where,
            seen=text.strip().splitlines()[0][:80] if text.strip() else "an empty file",
            fix="py-spy record --format raw --output FILE …",
        )
    return [Hotspot(name, count / samples, total[name] / samples) for name, count in own.most_common(most)]


def _name(frame: str) -> str:
    match = _FRAME.match(frame)
    return f"{match['function']} ({match['file']})" if match is not None else frame
