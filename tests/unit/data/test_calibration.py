"""Calibration records: shares of tasks and lengths against slow counts, nesting, none that a model is judged by."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.contracts.calibration import CalibrationReport, Prompts, TokenCounts
from throughline.contracts.errors import DataError
from throughline.contracts.workload import Workload
from throughline.data import (
    Calibration,
    CalibrationRecord,
    calibration_records,
    choose,
    choose_validation,
    prompts_of_dataset,
    prompts_of_workload,
    warnings,
)
from throughline.data.calibration_strata import LENGTH_BINS, order

# Task, prompt tokens, answer tokens.
Shape = tuple[str, int, int]
SHAPES: list[Shape] = [
    *(("triage", 40 + index, 5) for index in range(30)),
    *(("chat", 3 + index % 9, 4) for index in range(12)),
    *(("grounded", 20, 2 + index % 7) for index in range(8)),
]
RECORDS = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 30)), min_size=1, max_size=60)


def row(name: str, shape: Shape, text: str = "") -> dict[str, Any]:
    task, prompt, answer = shape
    ids = [3 + (int(name.rpartition("-")[2]) * 7 + column) % 900 for column in range(prompt + answer)]
    messages = [{"role": "user", "content": text or f"question {name}"}, {"role": "assistant", "content": "yes"}]
    labels = [-100] * prompt + ids[prompt:]
    return {"id": name, "task": task, "input_ids": ids, "labels": labels, "messages": messages}


def write(folder: Path, train: list[dict[str, Any]], validation: list[dict[str, Any]], **questions: Any) -> Path:
    """Writes what of a dataset the choice reads, as `prepare` does."""
    folder.mkdir(exist_ok=True)
    for name, rows in {"train": train, "validation": validation}.items():
        table = pa.table({key: [item[key] for item in rows] for key in ("id", "task", "input_ids", "labels")})
        pq.write_table(table, folder / f"{name}.parquet")
    for name, rows in {"train": train, "validation": validation, **questions}.items():
        lines = (json.dumps({key: item[key] for key in item if key not in ("input_ids", "labels")}) for item in rows)
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    train = [row(f"train-{index}", shape) for index, shape in enumerate(SHAPES)]
    validation = [row(f"held-{index}", SHAPES[index % len(SHAPES)]) for index in range(50)]
    questions = [
        {"id": f"ask-{index}", "task": "triage", "messages": row(f"ask-{index}", SHAPES[0])["messages"]}
        | {"prompt_token_ids": list(range(50 + index))}
        for index in range(5)
    ]
    return write(tmp_path / "dataset", train, validation, acceptance=questions)


def bins(lengths: Sequence[int]) -> list[int]:
    """How many quarters of the lengths lie wholly below each: a quarter ends where enough of them are counted."""
    ends = [
        next(
            end for end in sorted(lengths) if sum(length <= end for length in lengths) * LENGTH_BINS >= k * len(lengths)
        )
        for k in range(1, LENGTH_BINS)
    ]
    return [sum(end < length for end in ends) for length in lengths]


def within_quota(taken: Sequence[object], sizes: Counter[object]) -> None:
    """After every one, each kind has had its share, rounded up or down."""
    total = sum(sizes.values())
    for turn in range(1, len(taken) + 1):
        counts = Counter(taken[:turn])
        for kind, size in sizes.items():
            share = Fraction(turn * size, total)
            assert math.floor(share) <= counts[kind] <= math.ceil(share), (turn, kind, counts, sizes)


def largest_remainders(sizes: Counter[object], count: int) -> dict[object, int]:
    total = sum(sizes.values())
    shares = {kind: Fraction(count * size, total) for kind, size in sizes.items()}
    seats = {kind: math.floor(share) for kind, share in shares.items()}
    ranked = sorted(shares, key=lambda kind: (seats[kind] - shares[kind], str(kind)))
    for kind in ranked[: count - sum(seats.values())]:
        seats[kind] += 1
    return seats


@given(RECORDS, st.integers(0, 3))
def test_every_beginning_has_the_shares_of_tasks_and_lengths(records: list[tuple[str, int]], seed: int) -> None:
    tasks, lengths = [task for task, _ in records], [length for _, length in records]
    found = list(order(tasks, lengths, seed))
    assert sorted(found) == list(range(len(records)))
    assert found == list(order(tasks, lengths, seed))
    within_quota([tasks[index] for index in found], Counter(tasks))
    for count in range(1, len(records) + 1):
        counts, seats = Counter(tasks[index] for index in found[:count]), largest_remainders(Counter(tasks), count)
        assert all(abs(counts[task] - seats[task]) <= 1 for task in seats)
    for task in set(tasks):
        own = [index for index, other in enumerate(tasks) if other == task]
        stratum = dict(zip(own, bins([lengths[index] for index in own]), strict=True))
        within_quota([stratum[index] for index in found if index in stratum], Counter(stratum.values()))


def test_a_smaller_choice_is_the_beginning_of_a_larger_one(dataset: Path) -> None:
    whole = choose(dataset, 1000, seed=3)
    assert len({record.id for record in whole.records}) == len(SHAPES) == whole.report.records
    for count in (1, 2, 16, 33):
        found = choose(dataset, count, seed=3)
        assert found.records == whole.records[:count]
        assert calibration_records(dataset, count, seed=3) == found.token_ids
    assert choose(dataset, 16, seed=4).records != choose(dataset, 16, seed=3).records


def test_the_report_counts_what_was_chosen(dataset: Path, tmp_path: Path) -> None:
    found = choose(dataset, 20, seed=0)
    report = found.report
    assert report.tasks() == {"triage": (30, 12), "chat": (12, 5), "grounded": (8, 3)}
    assert (report.records, report.train_records, report.left_out) == (20, 50, 0)
    assert report.tokens == sum(map(len, found.token_ids))
    assert report.train_tokens == sum(prompt + answer for _, prompt, answer in SHAPES)
    lengths = sorted(map(len, found.token_ids))
    assert report.lengths == TokenCounts(min=lengths[0], median=lengths[9], p95=lengths[18], max=lengths[-1])
    by_name = {f"train-{index}": shape for index, shape in enumerate(SHAPES)}
    assert all(record.prompt_tokens == by_name[record.id][1] for record in found.records)
    for stratum in report.strata:
        inside = [item for item in found.records if item.task == stratum.task]
        inside = [item for item in inside if stratum.shortest <= len(item.input_ids) <= stratum.longest]
        assert len(inside) == stratum.records <= stratum.train_records
    found.write(tmp_path)
    assert Calibration.read(tmp_path) == found


def test_the_prompt_of_several_turns_ends_before_the_last_answer(tmp_path: Path) -> None:
    record = row("train-0", ("chat", 2, 4)) | {"labels": [-100, 5, -100, -100, 9, -100]}
    write(tmp_path / "turns", [record], [row("held-0", SHAPES[0])])
    assert choose(tmp_path / "turns", 1, seed=0).records[0].prompt_tokens == 4


def test_validation_records_are_chosen_alike_and_apart(dataset: Path) -> None:
    found = choose_validation(dataset, 20)
    assert len(set(found)) == 20 and found == choose_validation(dataset, 50)[:20]
    assert Counter(len(labels) - labels.count(-100) == 5 for _, labels in found)[True] >= 12
    assert all(labels[-1] == ids[-1] for ids, labels in found)


@pytest.mark.parametrize("held", ["validation", "acceptance", "shifted"])
def test_a_training_record_that_models_are_judged_by_is_refused(dataset: Path, held: str) -> None:
    path = dataset / f"{held}.jsonl"
    before = path.read_text() if path.is_file() else ""
    same = {"id": "train-7", "task": "chat", "messages": [{"role": "user", "content": "else"}], "prompt_token_ids": []}
    path.write_text(f"{before}{json.dumps(same)}\n")
    # A name alone may be a number that two files have; such a record is not taken, whatever it is.
    assert_left_out(dataset, "train-7")
    asks = json.dumps({"id": "x", "task": "chat", "messages": [{"role": "user", "content": " QUESTION  train-7"}]})
    path.write_text(f"{before}{asks}\n")
    if held != "validation":
        with pytest.raises(
            DataError, match=rf"judged by.*train\.jsonl, record train-7.*{held}\.jsonl, x asks the same"
        ):
            choose(dataset, 4, seed=0)
    else:
        # The split allows that two records ask the same and are answered otherwise.
        assert_left_out(dataset, "train-7")


def assert_left_out(dataset: Path, name: str) -> None:
    found = choose(dataset, 1000, seed=0)
    assert name not in {record.id for record in found.records}
    assert (found.report.left_out, found.report.train_records) == (1, len(SHAPES) - 1)


def test_without_anything_left_to_choose_it_says_so(tmp_path: Path) -> None:
    write(tmp_path / "one", [row("train-0", SHAPES[0], "hello")], [row("held-0", SHAPES[0], "Hello")])
    with pytest.raises(DataError, match=r"no training record is left.*1 records"):
        choose(tmp_path / "one", 1, seed=0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train.parquet", r"no training split.*train\.parquet"),
        ("validation.jsonl", r"not whole.*validation\.jsonl"),
        ("train.jsonl", r"not whole.*train\.jsonl"),
    ],
)
def test_a_dataset_that_lacks_a_file_is_refused(dataset: Path, name: str, words: str) -> None:
    (dataset / name).unlink()
    with pytest.raises(DataError, match=words):
        choose(dataset, 1, seed=0)
    (dataset / "validation.parquet").unlink()
    with pytest.raises(DataError, match=r"no validation split.*recipes\.data"):
        choose_validation(dataset, 1)


def test_a_damaged_calibration_is_refused(dataset: Path, tmp_path: Path) -> None:
    choose(dataset, 2, seed=0).write(tmp_path)
    (tmp_path / "calibration.jsonl").write_text('{"id": 3}\n')
    with pytest.raises(DataError, match=r"calibration cannot be read.*recipes\.calibrate"):
        Calibration.read(tmp_path)


def told(shapes: list[Shape], train: Counter[str], prompts: Prompts | None, most: int = 1000) -> str:
    records = [CalibrationRecord(str(n), task, tuple(range(p + a)), p) for n, (task, p, a) in enumerate(shapes)]
    counts = TokenCounts(min=1, median=1, p95=1, max=1)
    strata = [
        {"task": task, "shortest": 1, "longest": 9, "train_records": size}
        | {"records": sum(record.task == task for record in records)}
        for task, size in train.items()
    ]
    report = CalibrationReport.model_validate(
        {"records": len(records), "tokens": 1, "train_records": train.total(), "train_tokens": 1, "left_out": 0}
        | {"lengths": counts, "prompts": counts, "train_lengths": counts, "strata": strata}
    )
    return "\n".join(warnings(records, report, prompts, most))


def test_warnings_name_what_the_records_do_not_stand_for() -> None:
    shapes = [("triage", 400 + index, 50) for index in range(20)]
    here = Counter(triage=80, chat=20)
    both = [*shapes, ("chat", 30, 5)]
    assert told(both, here, None) == ""
    assert told(both, here, Prompts(of="w", mean=300, longest=440)) == ""
    assert told(shapes, here, None) == "no calibration record is of the task chat, 20 % of the training split"
    short = told(both, here, Prompts(of="the workload", mean=450, longest=600))
    assert short == (
        "calibration prompts are shorter than those of the workload: 95 of 100 have 418 tokens or fewer, "
        "the mean one there has 450"
    )
    far = told(both, here, Prompts(of="the workload", mean=300, longest=600))
    assert far == "no calibration prompt comes near the longest of the workload: 419 tokens at most, 600 there"
    cut = told(both, here, Prompts(of="w", mean=300, longest=400), most=256).splitlines()
    assert cut[0] == (
        "calib_max_seq_length=256 cuts the beginning of 20 of 21 calibration records, the longest has 469 tokens"
    )
    # 256 less the answer's 50.
    assert "206 tokens or fewer" in cut[1]
    other = told(both, here, Prompts(of="w", mean=1, longest=1, tasks=("chat", "code"))).splitlines()
    assert other == [
        "no training record is of the task code, which is one of w",
        "only 1 of 21 calibration records are of a task of w (chat, code)",
    ]


def test_whose_prompts_they_have_to_stand_for(dataset: Path) -> None:
    found = prompts_of_dataset(dataset)
    assert found == Prompts(of="the acceptance questions", mean=52, longest=54, tasks=("triage",))
    (dataset / "acceptance.jsonl").unlink()
    assert prompts_of_dataset(dataset) is None
    lengths = {"input_tokens": 3, "longest_input_tokens": 9, "output_tokens": 1, "longest_output_tokens": 1}
    workload = Workload(**lengths, tasks=("chat",))
    assert prompts_of_workload(workload) == Prompts(of="the workload", mean=3, longest=9, tasks=("chat",))
