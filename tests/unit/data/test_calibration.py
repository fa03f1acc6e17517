"""Calibration records come from the training split, at random but the same for a seed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from throughline.contracts.errors import DataError
from throughline.data import calibration_records

TRAIN = {(row, row + 1) for row in range(20)}


def write(folder: Path, name: str, rows: list[tuple[int, ...]]) -> None:
    pq.write_table(pa.table({"input_ids": pa.array(rows, pa.list_(pa.int32()))}), folder / f"{name}.parquet")


def test_records_are_drawn_from_the_training_split_without_repetition(tmp_path: Path) -> None:
    write(tmp_path, "train", sorted(TRAIN))
    write(tmp_path, "validation", [(100, 101)] * 50)
    drawn = calibration_records(tmp_path, 8, seed=3)
    assert len(set(drawn)) == 8
    assert set(drawn) < TRAIN
    assert drawn == calibration_records(tmp_path, 8, seed=3)
    assert drawn != calibration_records(tmp_path, 8, seed=4)
    assert set(calibration_records(tmp_path, 1000, seed=3)) == TRAIN


def test_a_dataset_without_a_training_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "validation", [(1, 2)])
    with pytest.raises(DataError, match=r"no training split.*train\.parquet"):
        calibration_records(tmp_path, 1, seed=0)
