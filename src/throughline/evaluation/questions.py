"""Reads the acceptance set: one JSON object a line, checked so that scoring cannot stumble over it later."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from throughline.contracts.errors import DataError
from throughline.contracts.evaluation import TASKS, Question, SuiteSpec
from throughline.contracts.text import did_you_mean, shorten
from throughline.evaluation.schemas import tool_schemas

_FIX = "make the data again with `python -m recipes.data`"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text_map(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, str) and v for v in value.values())


def _is_token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_count(token) for token in value)


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


_Check = tuple[Callable[[Any], bool], str]
_TEXT: _Check = (_is_text, "text")
_FLAG: _Check = (_is_flag, "true or false")
_FIELDS: dict[str, _Check] = {
    "id": _TEXT,
    "task": _TEXT,
    "customer": _TEXT,
    "messages": (_is_objects, "a list of objects"),
    "tools": (_is_objects, "a list of objects"),
    "expected": (_is_object, "an object"),
    "prompt": _TEXT,
    "prompt_token_ids": (_is_token_ids, "a list of token ids"),
}
_EXPECTED: dict[str, dict[str, _Check]] = {
    "triage": {
        "tool": _TEXT,
        "arguments": (lambda v: isinstance(v, dict) and bool(v), "an object with fields"),
    },
    "grounded": {"answer": _TEXT, "answerable": _FLAG, "passages": (_is_count, "a count")},
    "refusal": {"answer": _TEXT, "refuse": _FLAG},
    "summary": {"answer": _TEXT, "facts": (_is_text_map, "an object of texts")},
}
_ANSWERABLE: dict[str, _Check] = {
    "citation": (lambda v: _is_count(v) and v > 0, "the number of a passage"),
    "value": (lambda v: isinstance(v, str) and bool(v), "text"),
}


def load_questions(path: Path) -> list[Question]:
    """Reads an acceptance file; blank lines are skipped, keys that we do not know are left out.

    Raises:
        DataError: At `file:line`, if a line is no question or repeats an id; if the file is missing or empty.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError("cannot read the questions", where=str(path), seen=error.strerror, fix=_FIX) from None
    questions: list[Question] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        question = _question(line, where)
        if question.id in seen:
            raise DataError(
                f"question id stands in line {seen[question.id]} already",
                where=where,
                seen=question.id,
                fix=_FIX,
            )
        seen[question.id] = number
        questions.append(question)
    if not questions:
        raise DataError("no questions here", where=str(path), fix=_FIX)
    return questions


def select(questions: Sequence[Question], spec: SuiteSpec) -> list[Question]:
    """Returns the questions that `spec.limit` asks for, spread evenly over the list, in order.

    Selecting again from a selection changes nothing.
    """
    total = len(questions)
    if not spec.limit or spec.limit >= total:
        return list(questions)
    return [questions[index * total // spec.limit] for index in range(spec.limit)]


def _question(line: bytes, where: str) -> Question:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError("line is not JSON", where=where, seen=str(error), fix=_FIX) from None
    if not isinstance(record, dict):
        raise DataError("line is no JSON object", where=where, seen=shorten(record), fix=_FIX)
    _check({"customer": "", "tools": [], **record}, _FIELDS, "", where)
    task, expected = record["task"], record["expected"]
    if task not in TASKS:
        raise DataError("unknown task", where=where, seen=task, fix=did_you_mean(task, TASKS))
    _check(expected, _EXPECTED[task], "expected.", where)
    if expected.get("answerable"):
        _check(expected, _ANSWERABLE, "expected.", where)
    tools = record.get("tools") or []
    try:
        offered = tool_schemas(tools)
    except DataError as error:
        raise DataError(error.what, where=where, seen=error.seen, fix=error.fix) from None
    if task == "triage" and expected["tool"] not in offered:
        raise DataError("the expected tool is not offered", where=where, seen=expected["tool"], fix=_FIX)
    return Question(
        id=record["id"],
        task=task,
        customer=record.get("customer", ""),
        messages=record["messages"],
        tools=tools,
        expected=expected,
        prompt=record["prompt"],
        prompt_token_ids=tuple(record["prompt_token_ids"]),
    )


def _check(values: dict[str, Any], fields: dict[str, _Check], prefix: str, where: str) -> None:
    for name, (fits, wanted) in fields.items():
        if name not in values:
            raise DataError(f"{prefix}{name} is missing", where=where, fix=_FIX)
        if not fits(values[name]):
            raise DataError(f"{prefix}{name} must be {wanted}", where=where, seen=shorten(values[name]), fix=_FIX)
