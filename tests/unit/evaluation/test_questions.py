"""Loading the acceptance set: what is read, and the line that is blamed for what is wrong."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.evaluation.helpers import TOOL, WANTED, grounded, own, refusal, triage
from throughline.contracts.errors import DataError
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
        ({**GOOD, "task": "triag"}, "task 'triag'"),
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


OWN = {"messages": [{"role": "assistant", "content": "Yes."}]}
CALL = {"function": {"name": "open_ticket", "arguments": '{"severity": "low"}'}}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "Yes."},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]},
    ],
)
def test_a_task_of_ones_own_brings_its_reference_as_a_message(tmp_path: Path, message: dict[str, Any]) -> None:
    row = {**GOOD, "task": "faq", "expected": {"messages": [message]}}
    (found,) = load_questions(write(tmp_path / "acceptance.jsonl", row))
    assert found.is_own and found.stratum == "faq"


def test_an_own_reference_wins_over_the_name_of_our_task(tmp_path: Path) -> None:
    (found,) = load_questions(write(tmp_path / "a.jsonl", {**GOOD, "task": "refusal", "expected": OWN}))
    assert found.is_own and found.stratum == "refusal"


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"label": "x"}, "expected has no form that can be scored"),
        ({"messages": []}, "must be one assistant message"),
        ({"messages": [{"role": "user", "content": "x"}]}, "must be one assistant message"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "must be one assistant message"),
        ({"messages": [{"role": "assistant", "content": ["x"]}]}, "must be one assistant message"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]},
            "cannot be read",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}]},
            "cannot be read",
        ),
    ],
)
def test_a_reference_that_cannot_be_scored_is_refused_with_its_line(
    tmp_path: Path, expected: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "acceptance.jsonl", GOOD, {**GOOD, "id": "ac-2", "task": "faq", "expected": expected})
    with pytest.raises(DataError, match=rf"{message}.*acceptance\.jsonl:2"):
        load_questions(path)


@given(st.integers(1, 200), st.integers(1, 250))
def test_a_selection_is_of_the_size_asked_in_order_even_and_stable(total: int, limit: int) -> None:
    questions = [refusal(True, f"{index:03}") for index in range(total)]
    found = select(questions, {"disallowed": limit})
    assert len(found) == min(limit, total)
    indices = [int(question.id) for question in found]
    assert indices == sorted(set(indices))
    gaps = {b - a for a, b in pairwise(indices)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert select(found, {"disallowed": limit}) == found


def test_every_stratum_has_its_own_limit() -> None:
    questions = [
        *(triage(f"t{index}") for index in range(9)),
        *(refusal(index % 2 == 0, f"r{index}") for index in range(10)),
        *(own({"content": "x"}, f"o{index}", task="faq") for index in range(7)),
        *(own({"content": "x"}, f"p{index}", task="mail") for index in range(2)),
    ]
    found = select(questions, {"triage": 3, "benign": 4, "other": 5})
    assert Counter(question.stratum for question in found) == {
        "triage": 3,
        "benign": 4,
        "disallowed": 5,
        "faq": 5,
        "mail": 2,
    }
    assert select(questions, {}) == questions


def test_every_group_is_asked_before_one_is_asked_twice() -> None:
    questions = [replace(refusal(True, f"{n:03}"), group=f"line {n % 30}") for n in range(120)]
    assert {question.group for question in select(questions, {"disallowed": 30})} == {f"line {n}" for n in range(30)}
    counts = Counter(question.group for question in select(questions, {"disallowed": 40}))
    assert len(counts) == 30 and sorted(counts.values()) == [1] * 20 + [2] * 10
    assert select(questions, {"disallowed": 500}) == questions


def test_labels_have_their_share_whatever_the_file_s_order() -> None:
    # Every fourth question is unanswerable: a step of four over the file would take all of them or none.
    questions = [grounded(None if index % 4 == 0 else 1, f"g{index:02}") for index in range(40)]
    found = select(questions, {"grounded": 8})
    assert sum(not question.expected["answerable"] for question in found) == 2
    kinds = [triage(f"k{index:02}", component="abc"[index % 3]) for index in range(30)]
    chosen = select(kinds, {"triage": 6})
    assert Counter(question.expected["arguments"]["component"] for question in chosen) == {"a": 2, "b": 2, "c": 2}
