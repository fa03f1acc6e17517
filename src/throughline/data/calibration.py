"""Calibration records: chosen from a dataset's training split by task and length, never what a model is judged by."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from throughline.contracts.calibration import CalibrationReport, CalibrationStratum, TokenCounts
from throughline.contracts.errors import DataError
from throughline.data.calibration_strata import length_bins, order
from throughline.data.dedup import words
from throughline.data.questions import asked

RECORDS_FILE, REPORT_FILE = "calibration.jsonl", "calibration.json"
_TRAIN, _VALIDATION = "train", "validation"


@dataclass(frozen=True)
class CalibrationRecord:
    """A training record: its tokens, and how many of them stand before its last answer."""

    id: str
    task: str
    input_ids: tuple[int, ...]
    prompt_tokens: int


@dataclass(frozen=True)
class Calibration:
    """Records in an order of which every beginning is a choice by itself, and the figures of all of them."""

    records: tuple[CalibrationRecord, ...]
    report: CalibrationReport

    @property
    def token_ids(self) -> tuple[tuple[int, ...], ...]:
        """Token ids of each record, prompt and answer."""
        return tuple(record.input_ids for record in self.records)

    def write(self, folder: Path) -> None:
        """Writes the records as JSON lines, and the figures beside them."""
        lines = [orjson.dumps(vars(record)) + b"\n" for record in self.records]
        (folder / RECORDS_FILE).write_bytes(b"".join(lines))
        (folder / REPORT_FILE).write_text(self.report.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Calibration:
        """Reads what `write` wrote.

        Raises:
            DataError: If it is not there or damaged.
        """
        try:
            rows = [orjson.loads(line) for line in (folder / RECORDS_FILE).read_bytes().splitlines()]
            report = CalibrationReport.model_validate_json((folder / REPORT_FILE).read_bytes())
            records = tuple(CalibrationRecord(**{**row, "input_ids": tuple(row["input_ids"])}) for row in rows)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                "calibration cannot be read",
                where=str(folder),
                seen=str(error).splitlines()[0],
                fix="run `python -m recipes.calibrate` again",
            ) from None
        return cls(records, report)


def choose(dataset: Path, count: int, seed: int) -> Calibration:
    """Chooses training records by task and length.

    Tasks have their shares of the training split, lengths theirs of a task, rounded up or down after every record. So
    the first 16 of 64 are what a choice of 16 is.

    Args:
        dataset: Folder that `prepare` wrote.
        count: How many; all of them if there are fewer.
        seed: Same seed, same records.

    Raises:
        DataError: If a split is missing, no record is left, or a training record asks a held-out question.
    """
    table = _table(dataset, _TRAIN, ["id", "task", "input_ids", "labels"])
    repeated = _check_apart(dataset)
    kept = [index for index, name in enumerate(table["id"].to_pylist()) if name not in repeated]
    if not kept:
        raise DataError(
            "no training record is left to calibrate on",
            where=str(dataset),
            seen=f"{len(repeated)} records, each with a name or question of one that models are judged by",
            fix="make the dataset of more records, with names of their own",
        )
    table = table.take(kept)
    tasks = [str(task) for task in table["task"].to_pylist()]
    lengths = _lengths(table)
    chosen = list(itertools.islice(order(tasks, lengths, seed), count))
    records = tuple(_record(table, index) for index in chosen)
    report = CalibrationReport(
        records=len(records),
        tokens=sum(lengths[index] for index in chosen),
        lengths=TokenCounts.of([lengths[index] for index in chosen]),
        prompts=TokenCounts.of([record.prompt_tokens for record in records]),
        train_records=len(kept),
        train_tokens=sum(lengths),
        train_lengths=TokenCounts.of(lengths),
        left_out=len(repeated),
        strata=_strata(tasks, lengths, set(chosen)),
    )
    return Calibration(records, report)


def choose_validation(dataset: Path, count: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Chooses validation records to compare losses on, in the same way: token ids and labels of each.

    The first ones of the file would be those of the first source, which may be of one task.

    Raises:
        DataError: If the dataset has no validation split.
    """
    table = _table(dataset, _VALIDATION, ["task", "input_ids", "labels"])
    tasks = [str(task) for task in table["task"].to_pylist()]
    chosen = itertools.islice(order(tasks, _lengths(table), seed=0), count)
    return [tuple(tuple(table[name][index].as_py()) for name in ("input_ids", "labels")) for index in chosen]  # type: ignore[misc]


def calibration_records(dataset: Path, count: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Returns the token ids of what `choose` chooses."""
    return choose(dataset, count, seed).token_ids


def _table(dataset: Path, side: str, columns: list[str]) -> Any:
    import pyarrow.parquet as pq

    path = dataset / f"{side}.parquet"
    if not path.is_file():
        raise DataError(
            f"dataset has no {'training' if side == _TRAIN else side} split",
            where=str(dataset),
            seen=f"no {path.name}",
            fix="run `python -m recipes.data`",
        )
    return pq.read_table(path, columns=columns).combine_chunks()  # type: ignore[no-untyped-call]


def _lengths(table: Any) -> list[int]:
    import pyarrow.compute as pc

    lengths: list[int] = pc.list_value_length(table["input_ids"]).to_pylist()  # type: ignore[attr-defined]
    return lengths


def _record(table: Any, index: int) -> CalibrationRecord:
    labels = table["labels"][index].as_py()
    prompt = len(labels)
    while prompt and labels[prompt - 1] < 0:
        prompt -= 1
    while prompt and labels[prompt - 1] >= 0:
        prompt -= 1
    ids = tuple(table["input_ids"][index].as_py())
    return CalibrationRecord(str(table["id"][index].as_py()), str(table["task"][index].as_py()), ids, prompt)


def _strata(tasks: Sequence[str], lengths: Sequence[int], chosen: set[int]) -> tuple[CalibrationStratum, ...]:
    members: dict[tuple[str, int], list[int]] = defaultdict(list)
    for task in sorted(set(tasks)):
        own = [index for index, other in enumerate(tasks) if other == task]
        for index, number in zip(own, length_bins([lengths[index] for index in own]), strict=True):
            members[task, number].append(index)
    return tuple(
        CalibrationStratum(
            task=task,
            shortest=min(lengths[index] for index in own),
            longest=max(lengths[index] for index in own),
            train_records=len(own),
            records=len(chosen.intersection(own)),
        )
        for (task, _), own in sorted(members.items())
    )


def _check_apart(dataset: Path) -> set[str]:
    """Returns the names of training records that may be ones that models are judged by.

    These are the names that a validation record or a held-out question has too, which need not be the same record where
    files are numbered one by one; and those of records that ask what a validation record asks, which the split allows.

    Raises:
        DataError: If a training record asks a held-out question: the data stage leaves those out, so the dataset is not
            what it made.
    """
    names: set[str] = set()
    texts: dict[str, str] = {}
    validation: set[str] = set()
    train, held = dataset / f"{_TRAIN}.jsonl", dataset / f"{_VALIDATION}.jsonl"
    for path in (held, *sorted(path for path in dataset.glob("*.jsonl") if path not in (train, held))):
        for row in _rows(path):
            names.add(str(row["id"]))
            key = _key(row)
            if path == held:
                validation.add(key)
            elif key:
                texts.setdefault(key, f"{path.name}, {row['id']}")
    found = set()
    for row in _rows(train):
        name, key = str(row["id"]), _key(row)
        if key in texts:
            raise DataError(
                "a training record is one that models are judged by",
                where=f"{train}, record {name}",
                seen=f"{texts[key]} asks the same",
                fix="run `python -m recipes.data` again and leave what it made as it is",
            )
        if name in names or (key and key in validation):
            found.add(name)
    return found


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        raise DataError(
            "dataset is not whole", where=str(path.parent), seen=f"no {path.name}", fix="run `python -m recipes.data`"
        )
    with path.open("rb") as lines:
        yield from map(orjson.loads, lines)


def _key(row: Mapping[str, Any]) -> str:
    """What two texts share that are equal but for case and white space."""
    return "\0".join(words(asked(row["messages"])))
