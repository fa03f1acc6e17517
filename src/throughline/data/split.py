"""Group-aware split: records tied by a customer or a document never stand on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any


def groups(records: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> list[int]:
    """Returns for each record the index of its group's first record.

    Two records are in one group if they share a value of any field, or a third record ties them.
    A record without any of the fields is a group of its own.
    """
    parent = list(range(len(records)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    first: dict[tuple[str, str], int] = {}
    for index, record in enumerate(records):
        for field in fields:
            value = record.get(field)
            if value:
                other = first.setdefault((field, str(value)), index)
                low, high = sorted((root(index), root(other)))
                parent[high] = low
    return [root(index) for index in range(len(records))]


def split(
    records: Sequence[Mapping[str, Any]],
    fields: Sequence[str],
    share: float,
    seed: int,
    *,
    latest: Sequence[datetime] | None = None,
) -> list[bool]:
    """Returns for each record whether it is held out.

    Groups are taken in an order that depends on their names and the seed alone, until the share of records
    is reached; a group larger than what is left is passed over, so that one giant cannot fill the held-out side.

    Args:
        records: What to split.
        fields: Fields that tie records together.
        share: Share of the records to hold out.
        seed: Seed of the order.
        latest: Time of each record; given, the groups with the latest ones go first.
    """
    group_of = groups(records, fields)
    sizes: dict[int, int] = {}
    times: dict[int, datetime] = {}
    for index, group in enumerate(group_of):
        sizes[group] = sizes.get(group, 0) + 1
        if latest is not None:
            times[group] = max(times.get(group, latest[index]), latest[index])
    wanted = round(share * len(records))

    def name(group: int) -> bytes:
        record = records[group]
        names = [str(record.get(field, "")) for field in fields] + [str(record.get("id", group))]
        return hashlib.sha256(f"{seed}\0{names}".encode()).digest()

    order = sorted(sizes, key=name)
    if latest is not None:
        order.sort(key=lambda group: times[group], reverse=True)
    chosen: set[int] = set()
    taken = 0
    for group in order:
        if taken + sizes[group] <= wanted:
            chosen.add(group)
            taken += sizes[group]
    return [group in chosen for group in group_of]


def times(records: Sequence[Mapping[str, Any]], field: str = "created") -> list[datetime] | None:
    """Returns when each record was made, or None if one of them does not say so in ISO 8601."""
    found = []
    for record in records:
        try:
            time = datetime.fromisoformat(str(record.get(field)))
        except ValueError:
            return None
        found.append(time if time.tzinfo else time.replace(tzinfo=UTC))
    return found
