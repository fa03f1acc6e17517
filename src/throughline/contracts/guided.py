"""The grammar of an answer that is one tool call, or text with calls in it, as xgrammar's structural tag."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from throughline.contracts.engine import GuidedDecodingParams
from throughline.contracts.tool_calls import END, START

Element = dict[str, Any]


def tool_call_guide(tools: Sequence[Mapping[str, Any]]) -> GuidedDecodingParams | None:
    """Returns the guide to one call of one of the tools, in the wire form; None without tools.

    Properties stand in the schema's order with `json.dumps`'s white space, as chat templates write them, where
    every property is required; other objects are left to the engine's own JSON grammar, whose white space is
    free.

    Args:
        tools: OpenAI-style tools with names and schemas; an unsound one is left as it is, for the engine to refuse.
    """
    if not tools:
        return None
    calls = [{"type": "sequence", "elements": list(_merged(_call(tool["function"])))} for tool in tools]
    choice = calls[0] if len(calls) == 1 else {"type": "or", "elements": calls}
    return GuidedDecodingParams(structural_tag=json.dumps({"type": "structural_tag", "format": choice}))


def tool_calls_guide(tools: Sequence[Mapping[str, Any]]) -> GuidedDecodingParams:
    """Returns the guide to text in which every `<tool_call>` is a call of a tool, in the form of `tool_call_guide`.

    A tool without `strict` in its function has any JSON object as arguments.

    Args:
        tools: At least one OpenAI-style tool, as for `tool_call_guide`.
    """
    tags = []
    for tool in tools:
        function = tool["function"]
        given = function if function.get("strict") else {"name": function["name"]}
        begin, *content, end = _merged(_call(given))
        inner = content[0] if len(content) == 1 else {"type": "sequence", "elements": content}
        tags.append({"begin": begin["value"], "content": inner, "end": end["value"]})
    free = {"type": "triggered_tags", "triggers": [START], "tags": tags}
    return GuidedDecodingParams(structural_tag=json.dumps({"type": "structural_tag", "format": free}))


def _call(function: Mapping[str, Any]) -> Iterator[Element]:
    yield _text(f'{START}\n{{"name": {json.dumps(function["name"])}, "arguments": ')
    schema = function.get("parameters") or {"type": "object"}
    # A reference inside the schema only holds where the whole of it stands.
    yield from _schema(schema) if "$ref" in json.dumps(schema) else _value(schema)
    yield _text(f"}}\n{END}")


def _value(schema: Any) -> Iterator[Element]:
    if not _requires_everything(schema):
        yield from _schema(schema)
        return
    for index, (name, inner) in enumerate(schema["properties"].items()):
        yield _text(("{" if index == 0 else ", ") + json.dumps(name, ensure_ascii=False) + ": ")
        yield from _value(inner)
    yield _text("}")


def _requires_everything(schema: Any) -> bool:
    """Whether a schema is an object with properties, all of them required; what is no sound schema is not."""
    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        return False
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping) or not isinstance(required, list | tuple) or not properties:
        return False
    return all(isinstance(name, str) for name in required) and set(required) == set(properties)


def _schema(schema: Any) -> Iterator[Element]:
    yield {"type": "json_schema", "json_schema": schema}


def _text(value: str) -> Element:
    return {"type": "const_string", "value": value}


def _merged(elements: Iterator[Element]) -> Iterator[Element]:
    """Joins texts that follow one another."""
    held = ""
    for element in elements:
        if element["type"] == "const_string":
            held += element["value"]
            continue
        if held:
            yield _text(held)
        held = ""
        yield element
    if held:
        yield _text(held)
