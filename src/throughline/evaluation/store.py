"""Evaluations as folders, one a set: `evaluation.json` with the metrics, `answers.jsonl` to read failures in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from throughline.contracts.errors import DataError
from throughline.contracts.evaluation import GATED_SET, Answer, Evaluation, Metric, Question

EVALUATION_FILE, ANSWERS_FILE = "evaluation.json", "answers.jsonl"
FORMAT_VERSION = 1
_FIX = "evaluate again with `python -m recipes.evaluate`"


def write_evaluation(
    folder: Path, evaluation: Evaluation, questions: Sequence[Question], answers: Sequence[Answer]
) -> None:
    """Writes both files; `evaluation.json` last, so that a folder with it is complete.

    A line of `answers.jsonl` shows the prompt, what was expected, what was said and every outcome; lines
    with `"success": false` are the failures.

    Args:
        folder: Made if it does not exist.
        evaluation: As `score` returned it.
        questions: Those that were scored, and possibly others.
        answers: As `score` was given them.

    Raises:
        DataError: If an answer's question or outcome is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_id = {question.id: question for question in questions}
    rows = []
    for answer in answers:
        if answer.id not in by_id or answer.id not in evaluation.outcomes:
            raise DataError("answer without a question or an outcome", where=answer.id, fix="write what was scored")
        rows.append(_dump(_row(evaluation, by_id[answer.id], answer)) + b"\n")
    (folder / ANSWERS_FILE).write_bytes(b"".join(rows))
    head = {"format_version": FORMAT_VERSION, **evaluation.as_dict()}
    (folder / EVALUATION_FILE).write_bytes(_dump(head, indent=2) + b"\n")


def read_evaluation(folder: Path) -> Evaluation:
    """Reads what `write_evaluation` wrote.

    Raises:
        DataError: If the folder holds no evaluation or a file is damaged.
    """
    path = folder / EVALUATION_FILE
    head = _load(_read(path), str(path))
    try:
        metrics = {name: Metric(**values) for name, values in head["metrics"].items()}
        rows = list(_rows(folder))
        evaluation = Evaluation(
            model=head["model"],
            metrics=metrics,
            outcomes={row["id"]: row["outcomes"] for row in rows},
            seconds=head["seconds"],
            questions=head["questions"],
            weights={row["id"]: row["weights"] for row in rows if row["weights"]},
            groups={row["id"]: row["group"] for row in rows if row.get("group")},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError("evaluation is damaged", where=str(folder), seen=error, fix=_FIX) from None
    if len(evaluation.outcomes) != evaluation.questions:
        raise DataError(
            f"{ANSWERS_FILE} does not match {EVALUATION_FILE}",
            where=str(folder),
            seen=f"{len(evaluation.outcomes)} answers of {evaluation.questions}",
            fix=_FIX,
        )
    return evaluation


def read_evaluations(folder: Path) -> dict[str, Evaluation]:
    """Reads every set's evaluation of an artifact, by the set's name; the one that gates comes first.

    Raises:
        DataError: If there is none or one is damaged.
    """
    names = sorted(path.parent.name for path in folder.glob(f"*/{EVALUATION_FILE}"))
    if GATED_SET not in names:
        raise DataError("no evaluation here", where=str(folder), seen=", ".join(names) or "no set", fix=_FIX)
    names.sort(key=lambda name: name != GATED_SET)
    return {name: read_evaluation(folder / name) for name in names}


def read_answers(folder: Path) -> list[Answer]:
    """Reads the answers back, e.g. to score them again with other rules.

    Raises:
        DataError: If the file is missing or damaged.
    """
    try:
        return [
            Answer(row["id"], row["text"], tuple(row["token_ids"]), row["finish_reason"], row["error"])
            for row in _rows(folder)
        ]
    except (KeyError, TypeError) as error:
        raise DataError("answers are damaged", where=str(folder / ANSWERS_FILE), seen=error, fix=_FIX) from None


def _row(evaluation: Evaluation, question: Question, answer: Answer) -> dict[str, Any]:
    outcome = evaluation.outcomes[answer.id]
    return {
        "id": answer.id,
        "task": question.task,
        "group": question.group,
        "success": outcome["task_success"] == 1,
        "prompt": question.prompt,
        "expected": question.expected,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "error": answer.error,
        "outcomes": outcome,
        "weights": evaluation.weights.get(answer.id, {}),
        "token_ids": answer.token_ids,
    }


def _rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / ANSWERS_FILE
    lines = _read(path).split(b"\n")
    return [_load(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError("no evaluation here", where=str(path), seen=error.strerror, fix=_FIX) from None


def _load(data: bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except ValueError as error:
        raise DataError("not JSON", where=where, seen=str(error), fix=_FIX) from None
    if not isinstance(values, dict):
        raise DataError("no JSON object", where=where, fix=_FIX)
    return values


def _dump(values: Mapping[str, Any], indent: int | None = None) -> bytes:
    text = json.dumps(values, ensure_ascii=False, indent=indent)
    # A lone surrogate has no UTF-8; its escape means the same in JSON.
    return text.encode("utf-8", "backslashreplace")
