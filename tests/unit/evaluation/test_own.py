"""A user's own tasks: what counts as the reference's text, JSON and calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.evaluation.helpers import WANTED, answer, call, own
from throughline.contracts.evaluation import SuiteSpec
from throughline.evaluation.own import same
from throughline.evaluation.suite import score

CALL = {"type": "function", "function": {"name": "open_ticket", "arguments": json.dumps(WANTED)}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=1), inner, max_size=2),
    max_leaves=5,
)


def outcome(message: dict[str, Any], said: str, *, tools: bool = False) -> dict[str, float]:
    found = score("m", [own(message, tools=tools)], [answer(said)], SuiteSpec()).outcomes["q"]
    return {name: found[name] for name in ("exact_match", "json_validity", "schema_compliance") if name in found}


@pytest.mark.parametrize(
    ("said", "exact"),
    [("Yes, it is.", 1), ("  Yes,\n it   is. ", 1), ("yes, it is.", 0), ("Yes, it is. Really.", 0), ("", 0)],
)
def test_text_is_compared_but_for_white_space(said: str, exact: float) -> None:
    assert outcome({"content": "Yes, it is.\n"}, said) == {"exact_match": exact}


@pytest.mark.parametrize(
    ("said", "exact", "valid"),
    [
        ('{"b": [1, 2], "a": "x"}', 1, 1),
        ('{"a":"x","b":[1.0,2]}', 1, 1),
        ('{"a": "x", "b": [2, 1]}', 0, 1),
        ('{"a": "x"}', 0, 1),
        ('{"a": "x", "b": [true, 2]}', 0, 1),
        ('"x"', 0, 0),
        ('Sure: {"a": "x", "b": [1, 2]}', 0, 0),
    ],
)
def test_a_reference_in_json_is_compared_by_value(said: str, exact: float, valid: float) -> None:
    found = outcome({"content": '{"a": "x", "b": [1, 2]}'}, said)
    assert found == {"exact_match": exact, "json_validity": valid}


@pytest.mark.parametrize(
    ("said", "exact", "valid", "compliant"),
    [
        (call(WANTED), 1, 1, 1),
        (call(dict(reversed(WANTED.items()))), 1, 1, 1),
        (call({**WANTED, "severity": "low"}), 0, 1, 1),
        (call({**WANTED, "severity": "huge"}), 0, 1, 0),
        (call(WANTED, tool="other"), 0, 1, 0),
        (call(WANTED) + call(WANTED), 0, 1, 1),
        ("Sure. " + call(WANTED), 0, 1, 1),
        (call(WANTED)[:-20], 0, 0, 0),
        ("No.", 0, 0, 0),
    ],
)
def test_calls_are_compared_by_name_and_arguments(said: str, exact: float, valid: float, compliant: float) -> None:
    found = outcome({"content": None, "tool_calls": [CALL]}, said, tools=True)
    assert found == {"exact_match": exact, "json_validity": valid, "schema_compliance": compliant}


def test_text_beside_calls_counts() -> None:
    message = {"content": "On it.", "tool_calls": [CALL]}
    assert outcome(message, "On  it.\n" + call(WANTED), tools=True)["exact_match"] == 1
    assert outcome(message, call(WANTED), tools=True)["exact_match"] == 0


def test_success_is_exact_match_and_a_failure_is_wrong() -> None:
    asked = own({"content": "x"})
    failed = type(answer(""))("q", "x", (), "error", "boom")
    found = score("m", [asked], [failed], SuiteSpec()).metrics
    assert found["task_success"].value == found["exact_match"].value == 0


@given(JSON, JSON)
def test_equality_is_that_of_json(a: Any, b: Any) -> None:
    assert same(a, a)
    # None of these values has two spellings in JSON with sorted keys.
    assert same(a, b) == (json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True))
