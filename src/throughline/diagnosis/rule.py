"""One rule of the diagnosis: what it names, the readings that it needs, and the function that decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from throughline.contracts.diagnosis import Finding
from throughline.diagnosis.readings import Seen


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        name: The finding's name.
        summary: What it looks for, in a sentence.
        needs: Readings by their path in `Measurement`; `a|b` for either of two.
        find: Returns the finding, or None; called only when the readings are there.
    """

    name: str
    summary: str
    needs: tuple[str, ...]
    find: Callable[[Seen], Finding | None]

    def lacks(self, seen: Seen) -> tuple[str, ...]:
        """Returns the needed readings that the measurement does not have."""
        return tuple(need for need in self.needs if not any(_has(seen, path) for path in need.split("|")))


def _has(seen: Seen, path: str) -> bool:
    if path in ("baseline", "bound"):
        return getattr(seen, path) is not None
    value: object = seen.run
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
        if value is None:
            return False
    return bool(value) if isinstance(value, (dict, tuple, list)) else True
