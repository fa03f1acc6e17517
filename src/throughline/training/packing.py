"""Packs of whole records without padding: equal beginnings stand once, logits are asked for label positions only.

A batch of records of one task repeats its system prompt and its tool schemas in every row. A pack computes them once:
its rows are `[prefix, rest of record 1, rest of record 2, …]`, positions go on from the prefix in every rest, and the
attention mask lets a token see its own record alone. Hidden states, and so loss and gradients, are those of the
separate records; only the order of summation differs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

# Sharing fewer tokens than this saves less than the bookkeeping costs.
LEAST_SHARED = 16


@dataclass(frozen=True)
class Record:
    """A rendered conversation of a task: `labels[i]` is `input_ids[i]` where the loss looks, else -100."""

    input_ids: Sequence[int]
    labels: Sequence[int]
    task: str = ""

    @property
    def shareable(self) -> int:
        """Tokens before the first label: what another record may share."""
        return next((index for index, label in enumerate(self.labels) if label >= 0), len(self.labels))


@dataclass(frozen=True)
class Pack:
    """Records laid out in one row of S tokens, of which n carry a label.

    Attributes:
        input_ids: S token ids.
        position_ids: S positions, each within its own record.
        segments: (tokens, index of the segment that its tokens see besides their own, -1 for none) in order; a
            shared prefix and the rest of a record are a segment each.
        label_positions: n indices into the row whose logits predict `labels`.
        labels: n token ids.
    """

    input_ids: list[int]
    position_ids: list[int]
    segments: list[tuple[int, int]]
    label_positions: list[int]
    labels: list[int]

    def batch(self) -> dict[str, Any]:
        """Returns a causal language model's arguments, and the labels of the logits that it gives.

        `input_ids` and `position_ids` int64 [1, S], `logits_to_keep` int64 [n], `labels` int64 [1, n], and `segments`
        for `throughline.training.attention`.
        """
        import torch

        return {
            "input_ids": torch.tensor([self.input_ids]),
            "position_ids": torch.tensor([self.position_ids]),
            "logits_to_keep": torch.tensor(self.label_positions),
            "segments": self.segments,
            "labels": torch.tensor([self.labels]),
        }


def pack(records: Sequence[Record]) -> Pack:
    """Lays records out in one row, equal beginnings once; the order of the records does not matter."""
    made = Pack([], [], [], [], [])
    for shared, members in groups(records):
        parent = -1
        if shared:
            parent = len(made.segments)
            _append(made, members[0].input_ids[:shared], 0, -1)
        for record in members:
            start = len(made.input_ids)
            _append(made, record.input_ids[shared:], shared, parent)
            for index, label in enumerate(record.labels[shared + 1 :]):
                if label >= 0:
                    # Logits at a position predict the token after it.
                    made.label_positions.append(start + index)
                    made.labels.append(label)
    return made


def _append(made: Pack, ids: Sequence[int], position: int, parent: int) -> None:
    made.input_ids.extend(ids)
    made.position_ids.extend(range(position, position + len(ids)))
    made.segments.append((len(ids), parent))


def groups(records: Sequence[Record]) -> list[tuple[int, list[Record]]]:
    """Returns (shared tokens, members): the grouping of neighbours in sorted order that saves most tokens.

    A group of g records with a common beginning of L tokens saves (g − 1)·L. The last token before a record's first
    label stays with the record, because its logits predict that label.
    """
    ordered = sorted(records, key=lambda record: list(record.input_ids))
    limits = [max(0, record.shareable - 1) for record in ordered]
    common = [_common(a, b) for a, b in itertools.pairwise(ordered)]
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for end in range(1, len(ordered) + 1):
        choices = []
        shared = limits[end - 1]
        for start in range(end - 1, -1, -1):
            if start < end - 1:
                shared = min(shared, common[start], limits[start])
            length = shared if end - start > 1 and shared >= LEAST_SHARED else 0
            choices.append((best[start][0] + (end - start - 1) * length, start, length))
        # Of equal savings the larger start, which is the smaller group.
        best.append(max(choices, key=lambda choice: (choice[0], choice[1])))
    found = []
    end = len(ordered)
    while end:
        _, start, length = best[end]
        found.append((length, ordered[start:end]))
        end = start
    return found[::-1]


def _common(first: Record, second: Record) -> int:
    least = min(len(first.input_ids), len(second.input_ids))
    return next((index for index in range(least) if first.input_ids[index] != second.input_ids[index]), least)


def plan(
    lengths: Sequence[int],
    tasks: Sequence[str] | None = None,
    *,
    batch_size: int,
    most_tokens: int,
    max_tokens: int,
    max_steps: int,
    seed: int,
) -> list[list[int]]:
    """Draws which records go into which pack: epoch after epoch in a new random order, until a budget is used.

    Args:
        lengths: Tokens of each record.
        tasks: Task of each record; no pack mixes two, so that its records share as much as they can. None mixes.
        batch_size: Most records in a pack.
        most_tokens: Most record tokens in a pack; a longer record stands alone.
        max_tokens: Record tokens in all packs together, met by the pack that reaches it; 0 for no limit.
        max_steps: Packs; 0 for no limit. With neither limit it is one epoch.
        seed: Seed of the order.

    Returns:
        Indices into `lengths`, a list a pack. No pack crosses an epoch.
    """
    rng = Random(seed)
    packs: list[list[int]] = []
    used = 0
    while True:
        for members in _epoch(lengths, tasks, batch_size, most_tokens, rng):
            packs.append(members)
            used += sum(lengths[index] for index in members)
            if (max_steps and len(packs) >= max_steps) or (max_tokens and used >= max_tokens):
                return packs
        if not (max_steps or max_tokens):
            return packs


def _epoch(
    lengths: Sequence[int], tasks: Sequence[str] | None, batch_size: int, most_tokens: int, rng: Random
) -> list[list[int]]:
    order = list(range(len(lengths)))
    rng.shuffle(order)
    packs: list[list[int]] = []
    # Task → its pack that is not full, and the tokens in it.
    current: dict[str, tuple[list[int], int]] = {}
    for index in order:
        task = tasks[index] if tasks is not None else ""
        members, size = current.get(task, ([], 0))
        if members and (len(members) == batch_size or size + lengths[index] > most_tokens):
            packs.append(members)
            members, size = [], 0
        current[task] = ([*members, index], size + lengths[index])
    packs.extend(members for members, _ in current.values())
    if tasks is not None:
        # Packs of frequent and of short records fill up sooner.
        rng.shuffle(packs)
    return packs
