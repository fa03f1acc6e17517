"""`parse_tool_calls`: any arguments come back, the chat template's text is read, no text makes it raise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.contracts.tool_calls import END, START, parse_tool_calls

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(), JSON, max_size=5)
NAMES = st.from_regex(r"[A-Za-z0-9_.\-]{1,20}", fullmatch=True)
CONTENT = st.text().filter(lambda text: START not in text and END not in text)
PIECES = st.sampled_from(
    [
        START,
        END,
        "{",
        "}",
        '"name"',
        '"arguments"',
        ":",
        ",",
        '"',
        "\\",
        "[",
        "1",
        "NaN",
        " ",
        '{"name": "f", "arguments": {',
    ]
)


@given(NAMES, ARGUMENTS, st.booleans(), st.sampled_from([None, 2]))
def test_any_call_comes_back(name: str, arguments: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    text = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=ascii_only, indent=indent)
    parse = parse_tool_calls(START + text + END)
    assert parse.error is None and parse.single is not None
    assert (parse.single.name, parse.single.arguments) == (name, arguments)
    assert json.loads(parse.single.raw) == arguments


@given(st.lists(st.tuples(CONTENT, NAMES, ARGUMENTS), max_size=3), CONTENT)
def test_calls_among_content_come_back_in_order(parts: list[tuple[str, str, dict[str, Any]]], tail: str) -> None:
    text = "".join(
        f"{said}{START}{json.dumps({'arguments': arguments, 'name': name})}{END}" for said, name, arguments in parts
    )
    parse = parse_tool_calls(text + tail)
    assert parse.error is None
    assert [(c.name, c.arguments) for c in parse.calls] == [(name, arguments) for _, name, arguments in parts]
    assert parse.content == "".join(said for said, _, _ in parts) + tail


@given(st.text() | st.lists(PIECES, max_size=30).map("".join))
def test_no_text_raises_and_what_parses_is_json(text: str) -> None:
    parse = parse_tool_calls(text)
    for found in parse.calls:
        if found.arguments is not None:
            assert json.loads(found.raw) == found.arguments
        else:
            assert parse.error
    if START not in text:
        assert (parse.content, parse.calls, parse.error) == (text, (), None)


def test_the_chat_template_writes_what_we_read(tiny_tokenizer_dir: Path) -> None:
    from transformers import AutoTokenizer

    arguments = {"severity": "hoch ü", "error_code": 'a"b\\c}</tool_call>'}
    function = {"name": "open_ticket", "arguments": json.dumps(arguments)}
    messages: Any = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
    ]
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    found = parse_tool_calls(rendered[rendered.index("<|im_start|>assistant") :]).calls
    assert [(c.name, c.arguments) for c in found] == [("open_ticket", arguments)]


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        ('{"name": "f", "arguments": {"a": NaN}}', "NaN is not JSON"),
        ('{"name": "f", "arguments": {"a": }}', "Expecting value"),
        ('{"name": "f", "arguments": {"a": 1}', "expected '}'"),
        ('{"name": "f", "arguments": [1]}', "no object"),
        ('{"name": "f"}', "has name and arguments"),
        ('{"name": 3, "arguments": {}}', "no string"),
        ('{"name": "f", "name": "g", "arguments": {}}', "twice"),
        ('{"name": "f", "arguments": {}} trailing', "no </tool_call>"),
        ("plain", "expected '{'"),
        ('{"name": "f", "arguments": ' + '{"a":' * 100_000, "nested too deep"),
        ('{"name": "f", "arguments": {"a": ' + "1" * 5000 + "}}", "integer string conversion"),
    ],
)
def test_a_broken_block_says_why_and_is_no_sound_call(inner: str, reason: str) -> None:
    parse = parse_tool_calls(START + inner + END)
    assert parse.single is None
    assert parse.error is not None and reason in parse.error
    assert all(found.arguments is None for found in parse.calls)


def test_a_call_with_broken_arguments_keeps_its_name_and_text() -> None:
    parse = parse_tool_calls('<tool_call>{"name": "f", "arguments": {"a": }}</tool_call>')
    assert [(c.name, c.raw) for c in parse.calls] == [("f", '{"a": }}')]
    assert parse.content == ""


def test_a_cut_off_call_is_an_error() -> None:
    assert parse_tool_calls('<tool_call>{"name": "f", "arguments": {}}').error == "no </tool_call> after the object"


def test_a_block_that_names_no_call_stays_content() -> None:
    parse = parse_tool_calls("a<tool_call>b</tool_call>c")
    assert (parse.content, parse.calls) == ("a<tool_call>b</tool_call>c", ())


def test_arguments_as_a_json_string_are_read() -> None:
    single = parse_tool_calls(START + json.dumps({"name": "f", "arguments": '{"a": 1}'}) + END).single
    assert single is not None and single.arguments == {"a": 1} and single.raw == '{"a": 1}'


def test_content_beside_the_call_is_not_a_single_call() -> None:
    text = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    assert parse_tool_calls(f" {text}\n").single is not None
    assert parse_tool_calls(f"Sure. {text}").single is None
    assert parse_tool_calls(text * 2).single is None
