"""The tokenised dataset that AutoModel's data loader reads: one item is a whole pack of records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from throughline.contracts.errors import DataError
from throughline.training.packing import Record, pack, plan


class TokenisedRecords:
    """The records of a Parquet file, kept as Arrow columns and made into lists one at a time when asked for.

    Columns `input_ids` and `labels` are int lists of equal length, labels -100 where no loss looks; `task` is there
    where the data stage knew it.

    Args:
        path: The file.
        limit: The first records only; 0 for all.

    Raises:
        DataError: If the file is missing, has other columns, or holds no record.
    """

    def __init__(self, path: Path, limit: int = 0) -> None:
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        if not path.is_file():
            raise DataError("tokenised dataset is missing", where=str(path), fix="run `python -m recipes.data`")
        found = set(pq.read_schema(path).names)  # type: ignore[no-untyped-call]
        missing = {"input_ids", "labels"} - found
        if missing:
            raise DataError(
                "tokenised dataset lacks columns",
                where=str(path),
                seen=sorted(missing),
                fix="run `python -m recipes.data`",
            )
        names = [name for name in ("input_ids", "labels", "task") if name in found]
        table = pq.read_table(path, columns=names, memory_map=True)  # type: ignore[no-untyped-call]
        table = table.slice(0, limit or table.num_rows).combine_chunks()
        if not table.num_rows:
            raise DataError("tokenised dataset is empty", where=str(path), fix="run `python -m recipes.data`")
        self._columns = [table[name] for name in names]
        lengths = pc.list_value_length(table["input_ids"])  # type: ignore[attr-defined]
        self.lengths: list[int] = lengths.to_pylist()
        self.tasks: list[str] = table["task"].to_pylist() if "task" in names else [""] * table.num_rows

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Record:
        return Record(*(column[index].as_py() for column in self._columns))


@dataclass(frozen=True)
class Schedule:
    """Which records go through the model together, and when: `packs[i]` are indices into `records`."""

    records: TokenisedRecords
    packs: Sequence[Sequence[int]]

    @cached_property
    def tokens(self) -> list[int]:
        """Tokens of the records in each pack, as if nothing were shared."""
        return [sum(self.records.lengths[index] for index in indices) for indices in self.packs]


class PackedDataset:
    """Packs of a Parquet file in the order in which they are trained on.

    Args:
        path: See `TokenisedRecords`.
        batch_size: Most records in a pack.
        max_tokens_per_batch: Most record tokens in a pack.
        group_by_task: Whether a pack holds records of one task alone.
        max_tokens, max_steps: Where the epochs end, see `packing.plan`; 0 and 0 for one epoch.
        multiple: The number of packs is cut to a multiple of it, so that every optimiser step is whole.
        seed: Seed of the order.
        limit: Use the first records only; 0 for all.

    Items are what `Pack.batch` returns: AutoModel's loss does not shift, and the labels fit the logits that
    `logits_to_keep` asks for.

    Raises:
        DataError: If the file cannot be used.
    """

    def __init__(
        self,
        path: str,
        batch_size: int,
        max_tokens_per_batch: int,
        group_by_task: bool = True,
        max_tokens: int = 0,
        max_steps: int = 0,
        multiple: int = 1,
        seed: int = 0,
        limit: int = 0,
    ) -> None:
        records = TokenisedRecords(Path(path), limit)
        packs = plan(
            records.lengths,
            records.tasks if group_by_task else None,
            batch_size=batch_size,
            most_tokens=max_tokens_per_batch,
            max_tokens=max_tokens,
            max_steps=max_steps,
            seed=seed,
        )
        whole = len(packs) - len(packs) % multiple
        self.schedule = Schedule(records, packs[: whole or len(packs)])

    def __len__(self) -> int:
        return len(self.schedule.packs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return pack([self.schedule.records[record] for record in self.schedule.packs[index]]).batch()


def single(batch: list[dict[str, Any]]) -> dict[str, Any]:
    """Collates a batch of one pack."""
    (item,) = batch
    return item
