"""One question of the held-out set beside what each model answered, field by field."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from throughline.contracts.evaluation import Question
from throughline.contracts.report import Column, Judged, Section, Table
from throughline.contracts.tool_calls import ToolCallParse, parse_tool_calls

_LONGEST_TEXT = 160


def sample_section(questions: Sequence[Question], answers: Mapping[str, Mapping[str, str]]) -> Section | None:
    """Returns the first question with a tool call to make, or else the first one, with every model's answer.

    Args:
        questions: Of one set, in its order.
        answers: Model → question id → text.

    Returns:
        The section; None if no question was asked of every model.
    """
    asked = [item for item in questions if all(item.id in given for given in answers.values())]
    if not asked:
        return None
    calls = [item for item in asked if "arguments" in item.expected]
    question = (calls or asked)[0]
    texts = {name: given[question.id] for name, given in answers.items()}
    table = _call_table(question, texts) if calls else _text_table(question, texts)
    kind = "ticket" if question.task == "triage" else "question"
    text = f"The first {kind} of the held-out set, taken because it is the first."
    return Section(f"One {kind}, {len(texts)} models", text, [table], quote=_last_user_text(question))


def answers_of(folder: Path) -> dict[str, str]:
    """Returns the texts of an evaluation's folder by question id."""
    from throughline.evaluation.store import read_answers

    return {answer.id: answer.text for answer in read_answers(folder)}


def _call_table(question: Question, texts: Mapping[str, str]) -> Table:
    wanted: dict[str, Any] = question.expected["arguments"]
    parses = {name: parse_tool_calls(text) for name, text in texts.items()}
    given = {name: _arguments(parse) for name, parse in parses.items()}
    fields = list(dict.fromkeys([*wanted, *(key for found in given.values() for key in found)]))
    rows: list[list[object]] = [
        [
            field.replace("_", " "),
            _shown(wanted.get(field)),
            *(_field(field, wanted, found) for found in given.values()),
        ]
        for field in fields
    ]
    others = [_short(parse.content) for parse in parses.values()]
    if any(others):
        rows.append(["other text", None, *(Judged(text, "bad") if text else None for text in others)])
    return _table(f"Arguments of {question.expected.get('tool', 'the call')}", "argument", list(texts), rows)


def _text_table(question: Question, texts: Mapping[str, str]) -> Table:
    expected = str(question.expected.get("answer") or _expected_text(question))
    row: list[object] = ["text", _short(expected)]
    row += [_judged(" ".join(text.split()) == " ".join(expected.split()), _short(text)) for text in texts.values()]
    return _table("Answers", "", list(texts), [row])


def _table(title: str, first: str, names: Sequence[str], rows: list[list[object]]) -> Table:
    columns = [Column(name, align="left") for name in (first, "expected", *names)]
    return Table(title, columns, rows, note="✕ marks what differs from what is expected")


def _field(name: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Judged | None:
    if name not in wanted and name not in found:
        return None
    return _judged(name in wanted and name in found and found[name] == wanted[name], found.get(name))


def _short(text: str) -> str:
    return textwrap.shorten(text, _LONGEST_TEXT, placeholder=" …")


def _judged(right: bool, value: object) -> Judged:
    return Judged(_shown(value), "good" if right else "bad")


def _shown(value: object) -> str | None:
    return value if isinstance(value, str) or value is None else json.dumps(value, ensure_ascii=False)


def _arguments(parse: ToolCallParse) -> dict[str, Any]:
    return (parse.calls[0].arguments or {}) if parse.calls else {}


def _expected_text(question: Question) -> str:
    messages = question.expected.get("messages") or [{}]
    return str(messages[-1].get("content") or "")


def _last_user_text(question: Question) -> str:
    said = [message["content"] for message in question.messages if message.get("role") == "user"]
    return str(said[-1]) if said else question.prompt
