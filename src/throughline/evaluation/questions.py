"""Reads a question set, one JSON object a line, checked so that scoring cannot stumble; picks a suite's questions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from throughline.contracts.errors import DataError
from throughline.contracts.evaluation import OTHER, TASKS, Question
from throughline.contracts.text import shorten
from throughline.evaluation.own import reference_calls
from throughline.evaluation.schemas import tool_schemas

_FIX = "make the data again with `python -m recipes.data`"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


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
    "group": _TEXT,
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
}
_ANSWERABLE: dict[str, _Check] = {
    "citation": (lambda v: _is_count(v) and v > 0, "the number of a passage"),
    "value": (lambda v: isinstance(v, str) and bool(v), "text"),
}


def load_questions(path: Path) -> list[Question]:
    """Reads a question file; blank lines are skipped, keys that we do not know are left out.

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


def select(questions: Sequence[Question], limits: Mapping[str, int]) -> list[Question]:
    """Returns at most `limits[stratum]` questions of each stratum, spread evenly over it, in file order.

    A second question of a group is asked once every group has one. Where not all can be taken, they are spread over
    the questions sorted by what is expected, so that every label (or answerable and not) has its share; the same
    questions come out at every run.

    Args:
        questions: Of one set.
        limits: Stratum → most questions; `other` for strata that are not named, without it all of them.
    """
    strata: dict[str, list[Question]] = {}
    for question in questions:
        strata.setdefault(question.stratum, []).append(question)
    chosen: set[str] = set()
    for name, members in strata.items():
        left = min(len(members), limits.get(name, limits.get(OTHER, len(members))))
        for turn in _turns(members):
            chosen |= {question.id for question in _spread(turn, min(left, len(turn)))}
            left -= min(left, len(turn))
    return [question for question in questions if question.id in chosen]


def _turns(members: Sequence[Question]) -> list[list[Question]]:
    """The first question of every group, then the second ones, and so on."""
    turns: list[list[Question]] = []
    asked: Counter[str] = Counter()
    for question in members:
        group = question.group or f"\0{question.id}"
        if asked[group] == len(turns):
            turns.append([])
        turns[asked[group]].append(question)
        asked[group] += 1
    return turns


def _spread(members: Sequence[Question], count: int) -> list[Question]:
    """`count` of the questions, evenly over their labels."""
    ordered = sorted(members, key=_label)
    # From the middle of each share: the ends of a sorted list are its rarest labels.
    return [ordered[(2 * index + 1) * len(ordered) // (2 * count)] for index in range(count)]


def _label(question: Question) -> str:
    """What is expected, as a sort key; free text stands behind the classes that it belongs to."""
    expected = question.expected
    return json.dumps([expected.get("answerable"), expected.get("category"), expected.get("arguments"), question.id])


def _question(line: bytes, where: str) -> Question:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError("line is not JSON", where=where, seen=str(error), fix=_FIX) from None
    if not isinstance(record, dict):
        raise DataError("line is no JSON object", where=where, seen=shorten(record), fix=_FIX)
    _check({"customer": "", "group": "", "tools": [], **record}, _FIELDS, "", where)
    task, expected = record["task"], record["expected"]
    if "messages" in expected:
        _check_reference(expected["messages"], where)
    elif task in TASKS:
        _check(expected, _EXPECTED[task], "expected.", where)
        if expected.get("answerable"):
            _check(expected, _ANSWERABLE, "expected.", where)
    else:
        raise DataError(
            "expected has no form that can be scored",
            where=where,
            seen=f"task {task!r}, keys {sorted(expected)}",
            fix='give expected as {"messages": [the assistant message]}, or take one of the tasks ' + ", ".join(TASKS),
        )
    tools = record.get("tools") or []
    try:
        offered = tool_schemas(tools)
    except DataError as error:
        raise DataError(error.what, where=where, seen=error.seen, fix=error.fix) from None
    if "messages" not in expected and task == "triage" and expected["tool"] not in offered:
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
        group=record.get("group", ""),
    )


def _check_reference(messages: Any, where: str) -> None:
    """Checks that a user's own reference is one assistant message with text or calls."""
    wanted = "one assistant message with content or tool_calls"
    fits = isinstance(messages, list) and len(messages) == 1 and isinstance(messages[0], dict)
    message = messages[0] if fits else {}
    content, calls = message.get("content"), message.get("tool_calls") or []
    fits = fits and message.get("role") == "assistant" and isinstance(content, str | None)
    if not fits or not isinstance(calls, list) or not (content or calls):
        raise DataError(f"expected.messages must be {wanted}", where=where, seen=shorten(messages), fix=_FIX)
    try:
        reference_calls(message)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            "expected.messages holds a tool call that cannot be read",
            where=where,
            seen=repr(error),
            fix="write it as OpenAI does: function.name, and function.arguments as JSON text or an object",
        ) from None


def _check(values: dict[str, Any], fields: dict[str, _Check], prefix: str, where: str) -> None:
    for name, (fits, wanted) in fields.items():
        if name not in values:
            raise DataError(f"{prefix}{name} is missing", where=where, fix=_FIX)
        if not fits(values[name]):
            raise DataError(f"{prefix}{name} must be {wanted}", where=where, seen=shorten(values[name]), fix=_FIX)
