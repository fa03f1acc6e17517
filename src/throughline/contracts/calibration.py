"""What a quantisation is calibrated on: figures of the choice, and the prompts that it has to stand for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from throughline.contracts.config import StrictModel


class TokenCounts(StrictModel):
    """Lengths of records in tokens; each figure is one record's, by nearest rank."""

    min: int
    median: int
    p95: int
    max: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Self:
        """Counts one length or more."""
        ordered = sorted(lengths)

        def at(share: float) -> int:
            return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

        return cls(min=ordered[0], median=at(0.5), p95=at(0.95), max=ordered[-1])


class CalibrationStratum(StrictModel):
    """Records of one task between two lengths: how many the training split has, and how many are calibrated on."""

    task: str
    shortest: int
    longest: int
    train_records: int
    records: int


class CalibrationReport(StrictModel):
    """What a choice of calibration records is, beside the training split that it was made from.

    Attributes:
        records: Records chosen.
        tokens: Their tokens, prompts and answers.
        lengths: Of the records.
        prompts: Of what stands before their last answers.
        train_records: Records that could be chosen.
        train_tokens: Their tokens.
        train_lengths: Of these records.
        left_out: Training records that cannot be chosen, for the name of a record that models are judged by or the
            question of a validation record.
        strata: By task and length, every stratum of the training split.
    """

    records: int
    tokens: int
    lengths: TokenCounts
    prompts: TokenCounts
    train_records: int
    train_tokens: int
    train_lengths: TokenCounts
    left_out: int
    strata: tuple[CalibrationStratum, ...]

    def tasks(self) -> dict[str, tuple[int, int]]:
        """Returns each task's records, in the training split and chosen."""
        found: dict[str, tuple[int, int]] = {}
        for item in self.strata:
            there, chosen = found.get(item.task, (0, 0))
            found[item.task] = (there + item.train_records, chosen + item.records)
        return found


class Prompts(StrictModel):
    """What a model is going to be asked.

    Attributes:
        of: Whose prompts they are, as people read it.
        mean: Their mean length in tokens.
        longest: The longest one.
        tasks: Their tasks; empty where nobody said.
    """

    of: str
    mean: float
    longest: int
    tasks: tuple[str, ...] = ()
