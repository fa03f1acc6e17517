"""Loading the acceptance set: what is read, and the line that is blamed for what is wrong."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.evaluation.helpers import TOOL, WANTED, refusal
from throughline.contracts.errors import DataError
from throughline.contracts.evaluation import SuiteSpec
from throughline.evaluation.questions import load_questions, select

GOOD: dict[str, Any] = {
    "id": "ac-1",
    "task": "triage",
    "customer": "cust-a",
    "messages": [{"role": "user", "content": "x"}],
    "tools": [TOOL],
    "expected": {"tool": "open_ticket", "arguments": WANTED},
    "prompt": "x",
    "prompt_token_ids": [1, 5],
}
GROUNDED = {"answer": "It is 1 [1].", "answerable": True, "citation": 1, "value": "1", "passages": 2}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_file_is_read_in_order(tmp_path: Path) -> None:
    second = {
        **GOOD,
        "id": "ac-2",
        "task": "refusal",
        "tools": [],
        "expected": {"answer": "x", "refuse": True},
    }
    second["prompt"] = "a line\u2028separator"
    third = {
        **GOOD,
        "id": "ac-3",
        "task": "grounded",
        "expected": GROUNDED,
        "licence": "unknown keys are left out",
    }
    del third["customer"], third["tools"]
    path = tmp_path / "acceptance.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in (GOOD, second, third)) + "\n\n")
    found = load_questions(path)
    assert [question.id for question in found] == ["ac-1", "ac-2", "ac-3"]
    assert found[0].prompt_token_ids == (1, 5) and found[0].expected["arguments"] == WANTED
    assert found[1].prompt == "a line\u2028separator"
    assert found[2].tools == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line is not JSON"),
        ("[]", "line is no JSON object"),
        ({**GOOD, "id": 3}, "id must be text"),
        ({**GOOD, "task": "triag"}, "did you mean 'triage'"),
        ({**GOOD, "prompt_token_ids": []}, "prompt_token_ids must be a list of token ids"),
        ({**GOOD, "prompt_token_ids": [True]}, "prompt_token_ids must be"),
        ({**GOOD, "prompt_token_ids": [-1]}, "prompt_token_ids must be"),
        ({**GOOD, "messages": ["x"]}, "messages must be a list of objects"),
        ({key: value for key, value in GOOD.items() if key != "prompt"}, "prompt is missing"),
        ({**GOOD, "expected": {"tool": "open_ticket"}}, "expected.arguments is missing"),
        ({**GOOD, "expected": {"tool": "other", "arguments": WANTED}}, "the expected tool is not offered"),
        ({**GOOD, "tools": [{}]}, "tool without a function name"),
        (
            {**GOOD, "tools": [{"function": {"name": "open_ticket", "parameters": {"type": 3}}}]},
            "no JSON schema of Draft 2020-12",
        ),
        (
            {**GOOD, "task": "grounded", "expected": {**GROUNDED, "passages": "2"}},
            "expected.passages must be a count",
        ),
        (
            {**GOOD, "task": "grounded", "expected": {**GROUNDED, "citation": None}},
            "expected.citation must be",
        ),
        (
            {**GOOD, "task": "refusal", "expected": {"answer": "x", "refuse": 1}},
            "expected.refuse must be true or false",
        ),
        ({**GOOD, "task": "summary", "expected": {"answer": "x", "facts": {}}}, "expected.facts must be"),
        ({**GOOD, "id": "ac-1"}, "question id stands in line 1 already"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path / "acceptance.jsonl", GOOD, "", row)
    with pytest.raises(DataError, match=r"acceptance\.jsonl:3") as caught:
        load_questions(path)
    assert message in str(caught.value)


def test_bytes_that_are_no_text_are_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(DataError, match=r"line is not JSON — .*a\.jsonl:1"):
        load_questions(path)


def test_a_missing_or_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the questions"):
        load_questions(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no questions here"):
        load_questions(write(tmp_path / "empty.jsonl", ""))


@given(st.integers(1, 200), st.integers(0, 250))
def test_a_selection_is_of_the_size_asked_in_order_even_and_stable(total: int, limit: int) -> None:
    questions = [refusal(True, str(index)) for index in range(total)]
    spec = SuiteSpec(limit=limit)
    found = select(questions, spec)
    assert len(found) == (min(limit, total) or total)
    indices = [int(question.id) for question in found]
    assert indices == sorted(set(indices))
    gaps = {b - a for a, b in pairwise(indices)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert select(found, spec) == found
