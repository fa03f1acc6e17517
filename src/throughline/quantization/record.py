"""A record to compare losses on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """Token ids of a validation record, and the same with -100 wherever the answer is not."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
