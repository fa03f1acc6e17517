"""Records of a dataset's training split for builders that calibrate on them."""

from __future__ import annotations

import random
from pathlib import Path

from throughline.contracts.errors import DataError


def calibration_records(dataset: Path, count: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Draws rendered training records without replacement.

    Args:
        dataset: Folder that `prepare` wrote.
        count: How many; all of them, in random order, if there are fewer.
        seed: Same seed, same records.

    Returns:
        Token ids of each record, prompt and answer.

    Raises:
        DataError: If the folder has no training split.
    """
    import pyarrow.parquet as pq

    path = dataset / "train.parquet"
    if not path.is_file():
        raise DataError(
            "dataset has no training split",
            where=str(dataset),
            seen=f"no {path.name}",
            fix="run `python -m recipes.data`",
        )
    column = pq.read_table(path, columns=["input_ids"])["input_ids"]  # type: ignore[no-untyped-call]
    chosen = random.Random(seed).sample(range(len(column)), min(count, len(column)))
    return tuple(tuple(column[index].as_py()) for index in chosen)
