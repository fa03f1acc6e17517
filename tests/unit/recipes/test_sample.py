"""The sample shows one question and marks each wrong field of each answer."""

from __future__ import annotations

import json
from typing import Any

from recipes import sample
from throughline.contracts.evaluation import Question
from throughline.contracts.report import Judged


def question(number: int, task: str, expected: dict[str, Any]) -> Question:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": f"Ticket {number}\nsecond line"}]
    return Question(f"q{number}", task, "c", messages, [], expected, "", (1,))


TRIAGE = question(2, "triage", {"tool": "open_ticket", "arguments": {"component": "gpu", "severity": "high"}})
GROUNDED = question(1, "grounded", {"answer": "It is Ada. [1]"})


def call(**arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': 'open_ticket', 'arguments': arguments})}\n</tool_call>"


def test_each_wrong_field_is_marked() -> None:
    section = sample.sample_section(
        [GROUNDED, TRIAGE],
        {
            "base": {"q1": "", "q2": "I am sorry to hear that."},
            "tuned": {"q1": "", "q2": call(component="gpu", severity="high")},
            "int4": {"q1": "", "q2": call(component="gpu", severity="low", extra=1)},
        },
    )
    assert section is not None
    assert section.quote == "Ticket 2\nsecond line"
    (table,) = section.tables
    assert [column.name for column in table.columns] == ["argument", "expected", "base", "tuned", "int4"]
    good, bad = (lambda value: Judged(value, "good")), (lambda value: Judged(value, "bad"))
    assert table.rows == [
        ["component", "gpu", bad(None), good("gpu"), good("gpu")],
        ["severity", "high", bad(None), good("high"), bad("low")],
        ["extra", None, None, None, bad("1")],
        ["other text", None, bad("I am sorry to hear that."), None, None],
    ]


def test_without_calls_the_text_is_compared() -> None:
    section = sample.sample_section([GROUNDED], {"base": {"q1": "Ada"}, "tuned": {"q1": "It is  Ada. [1]\n"}})
    assert section is not None
    assert section.tables[0].rows == [
        ["text", "It is Ada. [1]", Judged("Ada", "bad"), Judged("It is Ada. [1]", "good")]
    ]


def test_only_questions_that_every_model_was_asked_count() -> None:
    assert sample.sample_section([TRIAGE], {"base": {"q2": ""}, "tuned": {}}) is None
    assert sample.sample_section([], {}) is None
