"""Tool calls in streamed text: any split of the text says the same."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.gateway.sse import chat_message
from throughline.gateway.toolcalls import ToolCallParser

ARGUMENTS = st.dictionaries(
    st.text(max_size=5), st.text(max_size=10) | st.integers() | st.lists(st.text('{}"\\<>/', max_size=4))
)
CALL = st.builds(
    lambda name, arguments, gap: f'<tool_call>{gap}{{"name": "{name}", "arguments": {arguments}}}</tool_call>',
    st.from_regex(r"[A-Za-z0-9_.\-]{1,9}", fullmatch=True),
    ARGUMENTS.map(json.dumps),
    st.sampled_from(["", "\n", "  "]),
)
NOISE = st.sampled_from(["<tool_call>", "</tool_call>", "<tool", "{", "}", '"', "\\", "text ", "\n", '{"name": "'])
TEXT = st.lists(CALL | NOISE | st.text(max_size=6), max_size=6).map("".join)


def parse(parts: Sequence[str]) -> dict[str, Any]:
    """The message that a client has after joining everything."""
    parser = ToolCallParser()
    pieces = [piece for part in parts for piece in parser.feed(part)] + parser.flush()
    return chat_message(pieces, "chatcmpl-1")


def split(text: str, cuts: Sequence[int]) -> list[str]:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in itertools.pairwise(edges)]


@given(text=TEXT, cuts=st.lists(st.integers(0, 400), max_size=12))
def test_any_split_says_the_same(text: str, cuts: list[int]) -> None:
    whole = parse([text])
    assert parse(split(text, cuts)) == whole
    assert parse(list(text)) == whole


@given(
    parts=st.lists(st.tuples(st.text("abc .\n{}", max_size=6), CALL), max_size=4),
    tail=st.text("abc .", max_size=5),
)
def test_well_formed_calls_are_all_found(parts: list[tuple[str, str]], tail: str) -> None:
    message = parse(["".join(text + call for text, call in parts) + tail])
    # The newline before a call is the template's.
    content = "".join(text.removesuffix("\n") for text, _ in parts) + tail
    assert (message["content"] or "") == content
    inner = [json.loads(call.removeprefix("<tool_call>").removesuffix("</tool_call>")) for _, call in parts]
    calls = [call["function"] for call in message.get("tool_calls", [])]
    assert [(call["name"], json.loads(call["arguments"])) for call in calls] == [
        (call["name"], call["arguments"]) for call in inner
    ]


@given(TEXT.filter(lambda text: "<tool_call>" not in text))
def test_text_without_a_tag_is_untouched(text: str) -> None:
    assert parse(list(text)) == {"role": "assistant", "content": text, "refusal": None}


@pytest.mark.parametrize(
    "block",
    [
        '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>',
        '<tool_call>{"name": "f", "parameters": {"a": 1}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
    ],
)
def test_other_spellings(block: str) -> None:
    call = parse(list(block))["tool_calls"][0]["function"]
    assert (call["name"], json.loads(call["arguments"])) == ("f", {"a": 1})


@pytest.mark.parametrize(
    "text",
    ["<tool_call>no json</tool_call> x", "<tool_call>[1]</tool_call>", '<tool_call>{"name": 1}</tool_call>'],
)
def test_what_is_no_call_stays_content(text: str) -> None:
    assert parse(list(text)) == {"role": "assistant", "content": text, "refusal": None}


def called(text: str) -> list[tuple[str, Any]]:
    message = parse(list(text))
    assert message == parse([text])
    functions = [call["function"] for call in message.get("tool_calls", [])]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]


@pytest.mark.parametrize(
    ("text", "calls", "content"),
    [
        # Calls that were not closed, before another and before text.
        (
            '<tool_call>{"name": "f", "arguments": {}}\n<tool_call>{"name": "g", "arguments": {"a": 1}}</tool_call>',
            [("f", {}), ("g", {"a": 1})],
            None,
        ),
        ('<tool_call>{"name": "f", "arguments": {}}\nand more', [("f", {})], "\nand more"),
        ('<tool_call>{"name": "f", "arguments": {} and more', [("f", {})], " and more"),
        (
            '<tool_call>{"name": "f", "arguments": {}<tool_call>{"name": "g", "arguments": {}}',
            [("f", {}), ("g", {})],
            None,
        ),
        # Tags inside strings.
        (
            '<tool_call>{"name": "f", "arguments": {"a": "</tool_call> \\" <tool_call>"}}</tool_call> x',
            [("f", {"a": '</tool_call> " <tool_call>'})],
            " x",
        ),
        (
            '<tool_call>{"arguments": {"a": "</tool_call>"}, "name": "f"}</tool_call>',
            [("f", {"a": "</tool_call>"})],
            None,
        ),
        # No arguments.
        ('<tool_call>{"name": "f", "arguments": null}</tool_call>', [("f", {})], None),
        ('<tool_call>{"name": "f"}</tool_call>', [("f", {})], None),
        # Keys behind the arguments, and a call after a block that is none.
        ('<tool_call>{"name": "f", "arguments": {}, "id": "</tool_call>"}</tool_call>!', [("f", {})], "!"),
        ('<tool_call>what<tool_call>{"name": "f", "arguments": {}}</tool_call>', [("f", {})], "<tool_call>what"),
    ],
)
def test_nothing_is_lost(text: str, calls: list[tuple[str, Any]], content: str | None) -> None:
    assert called(text) == calls
    assert parse(list(text))["content"] == content


def test_calls_on_lines_of_their_own_leave_no_newlines_behind() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    message = parse(list(f"Look:\n{call}\n{call}"))
    assert (message["content"], len(message["tool_calls"])) == ("Look:", 2)
    assert parse(list(f"{call}\n{call}"))["content"] is None
    assert parse(list("a\n<tool_call>b</tool_call>\n"))["content"] == "a\n<tool_call>b</tool_call>\n"


def test_arguments_stream_as_they_come() -> None:
    parser = ToolCallParser()
    parser.feed('<tool_call>{"name": "f", "arguments": {"a"')
    assert [piece.arguments for piece in parser.feed(': "b')] == [': "b']
