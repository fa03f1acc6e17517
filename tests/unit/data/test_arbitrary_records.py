"""Whatever valid JSON a line holds, it becomes a record or a reject with a reason: no line ends the stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from throughline.contracts.data import DataSpec
from throughline.contracts.errors import DataError
from throughline.data import prepare

SPEC = DataSpec(default_task="chat", default_licence="own", near_duplicate_jaccard=1.0, validation_share=0.2)
GOOD = 20
TOOL = {"type": "function", "function": {"name": "route", "parameters": {"type": "object"}}}


def good(number: int) -> dict[str, Any]:
    return {
        "id": f"good-{number}",
        "customer": f"c{number}",
        "prompt": f"what is {number}?",
        "completion": f"n{number}",
    }


def calling(**changes: Any) -> dict[str, Any]:
    """A record with a tool call, its function's fields changed."""
    function = {"name": "route", "arguments": '{"desk": "a"}'} | changes
    answer = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    return {"messages": [{"role": "user", "content": "x"}, answer], "tools": [TOOL]}


def run(tmp_path: Path, tokenizer: Path, rows: list[bytes]) -> list[dict[str, Any]]:
    """Prepares the rows among good ones; returns the rejects."""
    source = tmp_path / "r.jsonl"
    source.write_bytes(b"\n".join([*(orjson.dumps(good(number)) for number in range(GOOD)), *rows]) + b"\n")
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    report = prepare([source], tokenizer, out, SPEC, questions={}, seed=0)
    rejects = [json.loads(line) for line in (out / "restricted/rejects.jsonl").read_bytes().splitlines()]
    held_out = len((out / "acceptance.jsonl").read_bytes().splitlines())
    assert report.kept + len(rejects) + held_out == GOOD + len(rows)
    return rejects


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (good(99) | {"tools": 5}, "bad_tools"),
        (good(99) | {"tools": [{"function": "x"}]}, "bad_tools"),
        (good(99) | {"tools": [{"function": {"name": ["x"]}}]}, "bad_tools"),
        (good(99) | {"tools": [{"function": {"name": "x", "parameters": 3}}]}, "bad_tools"),
        (good(99) | {"task": 3}, "bad_field"),
        (good(99) | {"customer": {"name": "x"}}, "bad_field"),
        (
            calling() | {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": 5}]},
            "bad_messages",
        ),
        (calling(name=["route"]), "bad_tool_call"),
        (calling(arguments="\\ud800"), "bad_tool_call"),
        (calling(arguments='{"desk": "\\ud800"}'), "bad_tool_call"),
        (calling(arguments='{"a":' * 5000 + "1" + "}" * 5000), "bad_tool_call"),
        (calling(arguments='{"a":' * 100 + "1" + "}" * 100), "bad_tool_call"),
        (calling(arguments='{"desk": NaN}'), "bad_tool_call"),
    ],
)
def test_a_line_of_valid_json_is_rejected_with_its_reason(
    tmp_path: Path, tiny_tokenizer_dir: Path, row: dict[str, Any], reason: str
) -> None:
    (found,) = run(tmp_path, tiny_tokenizer_dir, [orjson.dumps(row)])
    assert (found["reason"], found["line"]) == (reason, GOOD + 1)
    assert orjson.loads(found["raw"]) == row


def test_deep_nesting_is_rejected(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    row = orjson.dumps(good(99))[:-1] + b',"extra":' + b"[" * 900 + b"]" * 900 + b"}"
    (found,) = run(tmp_path, tiny_tokenizer_dir, [row])
    assert found["reason"] == "too_deep"


def test_numbers_may_name_customers(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    rows = [orjson.dumps(good(number) | {"id": number, "customer": number}) for number in range(50, 54)]
    assert run(tmp_path, tiny_tokenizer_dir, rows) == []


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = (
    "id",
    "task",
    "licence",
    "customer",
    "document",
    "created",
    "tools",
    "messages",
    "prompt",
    "completion",
    "source",
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]) | JSON},
    optional={"content": JSON, "tool_calls": JSON | st.lists(st.fixed_dictionaries({"function": JSON}), max_size=2)},
)
RECORD = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(KEYS, JSON) | {"messages": st.lists(MESSAGE, max_size=4) | JSON}
)
CALL = st.builds(
    lambda arguments, tools, name: calling(arguments=arguments, name=name) | {"tools": tools},
    JSON | JSON.map(lambda value: json.dumps(value)),
    JSON | st.just([TOOL]) | st.lists(st.fixed_dictionaries({"function": JSON}), max_size=2),
    st.just("route") | JSON,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(RECORD | CALL | JSON, min_size=1, max_size=12))
def test_no_line_ends_the_stage_and_none_is_lost(tmp_path: Path, tiny_tokenizer_dir: Path, rows: list[Any]) -> None:
    written = [line for row in rows if (line := _line(row))]
    try:
        run(tmp_path, tiny_tokenizer_dir, written)
    except DataError as error:
        # Drawn rows may all share one group, which is a fault of the set and not of a line.
        assert "small enough" in error.what


def _line(row: Any) -> bytes:
    try:
        return orjson.dumps(row)
    except TypeError:
        # Lone surrogates cannot be written by it.
        return json.dumps(row).encode()
