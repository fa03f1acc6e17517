"""Whether calibration records stand for what a model is going to be asked: warnings in words, none of them an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from throughline.contracts.calibration import CalibrationReport, Prompts, TokenCounts
from throughline.contracts.evaluation import GATED_SET
from throughline.contracts.workload import Workload
from throughline.data.calibration import CalibrationRecord

# A choice seldom has the longest record of all; what comes as near as this stands for it.
_NEAR = 0.9


def prompts_of_workload(workload: Workload) -> Prompts:
    """Returns the prompts of a workload."""
    return Prompts(
        of="the workload", mean=workload.input_tokens, longest=workload.longest_input_tokens, tasks=workload.tasks
    )


def prompts_of_dataset(dataset: Path) -> Prompts | None:
    """Returns lengths and tasks of a dataset's acceptance questions, by which a model is judged; None without any.

    Nothing of what they say is read.
    """
    path = dataset / f"{GATED_SET}.jsonl"
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []
    if not rows:
        return None
    lengths = [len(row["prompt_token_ids"]) for row in rows]
    return Prompts(
        of="the acceptance questions",
        mean=sum(lengths) / len(lengths),
        longest=max(lengths),
        tasks=tuple(sorted({str(row["task"]) for row in rows})),
    )


def warnings(
    records: Sequence[CalibrationRecord],
    report: CalibrationReport,
    prompts: Prompts | None,
    max_seq_length: int,
) -> tuple[str, ...]:
    """Returns what speaks against calibrating on these records.

    Args:
        records: What is calibrated on.
        report: Of them.
        prompts: What they have to stand for, if that is known.
        max_seq_length: Tokens that are left of each record, the last ones.
    """
    short = _short(records, prompts, max_seq_length) if prompts is not None else ()
    return (
        *_cut(records, max_seq_length),
        *short,
        *_missing(report),
        *(_of_workload(report, prompts) if prompts else ()),
    )


def _cut(records: Sequence[CalibrationRecord], most: int) -> Iterator[str]:
    cut = [len(record.input_ids) for record in records if len(record.input_ids) > most]
    if cut:
        yield (
            f"calib_max_seq_length={most} cuts the beginning of {len(cut)} of {len(records)} calibration records, "
            f"the longest has {max(cut)} tokens"
        )


def _short(records: Sequence[CalibrationRecord], prompts: Prompts, most: int) -> Iterator[str]:
    # What is cut is cut from the prompt: the answer is at the end.
    left = [max(0, record.prompt_tokens - max(0, len(record.input_ids) - most)) for record in records]
    found = TokenCounts.of(left)
    if found.p95 < prompts.mean:
        yield (
            f"calibration prompts are shorter than those of {prompts.of}: 95 of 100 have {found.p95} tokens or fewer, "
            f"the mean one there has {prompts.mean:.0f}"
        )
    elif found.max < _NEAR * prompts.longest:
        yield (
            f"no calibration prompt comes near the longest of {prompts.of}: {found.max} tokens at most, "
            f"{prompts.longest} there"
        )


def _missing(report: CalibrationReport) -> Iterator[str]:
    for task, (there, chosen) in report.tasks().items():
        if not chosen:
            share = 100 * there / report.train_records
            yield f"no calibration record is of the task {task}, {share:.0f} % of the training split"


def _of_workload(report: CalibrationReport, prompts: Prompts) -> Iterator[str]:
    tasks = report.tasks()
    for task in prompts.tasks:
        if task not in tasks:
            yield f"no training record is of the task {task}, which is one of {prompts.of}"
    own = sum(chosen for task, (_, chosen) in tasks.items() if task in prompts.tasks)
    if prompts.tasks and 2 * own < report.records:
        yield (
            f"only {own} of {report.records} calibration records are of a task of {prompts.of} "
            f"({', '.join(prompts.tasks)})"
        )
