"""The order in which records of all tasks and lengths are taken: every beginning of it stands for all of them."""

from __future__ import annotations

import bisect
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction

LENGTH_BINS = 4


def length_bins(lengths: Sequence[int], bins: int = LENGTH_BINS) -> list[int]:
    """Returns each record's bin by quantiles of the lengths, from 0; equal lengths share one, so a bin can be empty."""
    ordered = sorted(lengths)
    upper = [ordered[max(1, -(-len(ordered) * number // bins)) - 1] for number in range(1, bins)]
    return [bisect.bisect_left(upper, length) for length in lengths]


def take_turns(sizes: Sequence[int]) -> Iterator[int]:
    """Yields whose turn it is until all groups are used up: after n turns each has had its share of n, up or down.

    The quota method of Balinski and Young (1975). Largest remainders, taken anew for every n, keep shares as closely;
    but a group can then have fewer of more turns, and the first 16 of 64 would not be the 16.

    Args:
        sizes: Members of each group; of groups that are due at once the first one is taken.
    """
    total, taken = sum(sizes), [0] * len(sizes)
    for turn in range(1, total + 1):
        behind = [group for group, size in enumerate(sizes) if taken[group] * total < turn * size]
        group = min(behind, key=lambda group: (Fraction(taken[group] + 1, sizes[group]), group))
        taken[group] += 1
        yield group


def order(tasks: Sequence[str], lengths: Sequence[int], seed: int) -> Iterator[int]:
    """Yields the indices of all records: in every beginning tasks have their shares, and lengths theirs within a task.

    Args:
        tasks: Task of each record.
        lengths: Its tokens.
        seed: Decides between records of a stratum, and which of several is first where shares leave it open.
    """
    rng = random.Random(seed)
    by_task: dict[str, list[int]] = defaultdict(list)
    for index, task in enumerate(tasks):
        by_task[task].append(index)
    groups = [by_task[task] for task in sorted(by_task)]
    rng.shuffle(groups)
    streams = [_by_length(members, [lengths[index] for index in members], rng) for members in groups]
    for group in take_turns([len(members) for members in groups]):
        yield next(streams[group])


def _by_length(members: Sequence[int], lengths: Sequence[int], rng: random.Random) -> Iterator[int]:
    strata: dict[int, list[int]] = defaultdict(list)
    for index, number in zip(members, length_bins(lengths), strict=True):
        strata[number].append(index)
    groups = [strata[number] for number in sorted(strata)]
    # Bins are about as large as one another, so that the first of them is ahead in every round.
    rng.shuffle(groups)
    for group in groups:
        rng.shuffle(group)
    return (groups[number].pop() for number in take_turns([len(group) for group in groups]))
