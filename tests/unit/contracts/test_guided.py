"""The grammar of a tool call: in the wire form, in the schema's order, whatever the schema."""

from __future__ import annotations

import json
from typing import Any

import pytest

from throughline.contracts.guided import tool_call_guide, tool_calls_guide
from throughline.contracts.tool_calls import parse_tool_calls

FLAT = {
    "type": "object",
    "properties": {"severity": {"enum": ["high", "low"]}, "gpu": {"type": "string"}},
    "required": ["gpu", "severity"],
}


def tool(schema: dict[str, Any], name: str = "open_ticket") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def form(*tools: dict[str, Any]) -> dict[str, Any]:
    guide = tool_call_guide(tools)
    assert guide is not None and guide.structural_tag is not None
    tag = json.loads(guide.structural_tag)
    assert tag["type"] == "structural_tag"
    return dict(tag["format"])


def written(elements: list[dict[str, Any]], values: list[Any]) -> str:
    """The text that the elements describe when their schemas stand for `values`, as `json.dumps` writes them."""
    rest = iter(values)
    return "".join(
        element["value"] if element["type"] == "const_string" else json.dumps(next(rest)) for element in elements
    )


def test_a_flat_object_is_written_as_templates_write_it() -> None:
    found = form(tool(FLAT))
    text = written(found["elements"], ["low", "A10"])
    assert text == (
        '<tool_call>\n{"name": "open_ticket", "arguments": '
        + json.dumps({"severity": "low", "gpu": "A10"})
        + "}\n</tool_call>"
    )
    single = parse_tool_calls(text).single
    assert single is not None and single.arguments == {"severity": "low", "gpu": "A10"}
    schemas = [element["json_schema"] for element in found["elements"] if element["type"] == "json_schema"]
    assert schemas == list(FLAT["properties"].values())  # type: ignore[attr-defined]


def test_nested_objects_are_tight_and_optional_properties_are_left_to_the_engine() -> None:
    nested = {"type": "object", "properties": {"a": FLAT, "b": {"type": "array"}}, "required": ["a", "b"]}
    text = written(form(tool(nested))["elements"], ["low", "A10", [1, 2]])
    assert json.dumps({"a": {"severity": "low", "gpu": "A10"}, "b": [1, 2]}) in text
    optional = {**FLAT, "required": ["gpu"]}
    (_, element, _) = form(tool(optional))["elements"]
    assert element == {"type": "json_schema", "json_schema": optional}


def test_a_schema_with_references_stays_whole() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/x"}},
        "required": ["a"],
        "$defs": {"x": {"type": "string"}},
    }
    assert form(tool(schema))["elements"][1] == {"type": "json_schema", "json_schema": schema}


def test_any_of_several_tools_may_be_called() -> None:
    found = form(tool(FLAT), tool({}, "close"))
    assert found["type"] == "or"
    assert ['"open_ticket"' in call["elements"][0]["value"] for call in found["elements"]] == [True, False]


def test_without_tools_there_is_nothing_to_hold_to() -> None:
    assert tool_call_guide([]) is None


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": [], "required": []},
        {"type": "object", "properties": {"a": {}}, "required": 3},
        {"type": "object", "properties": {"a": {}}, "required": [["a"]]},
        {"type": ["object"], "properties": {"a": {}}, "required": ["a"]},
        {"type": "object", "properties": {"a": 7}, "required": ["a"]},
        {"type": "object", "properties": "abc", "required": ["a", "b", "c"]},
    ],
)
def test_an_unsound_schema_is_left_for_the_engine_to_refuse(parameters: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}]
    for guide in (tool_call_guide(tools), tool_calls_guide(tools)):
        assert guide is not None and guide.structural_tag is not None
        assert '"json_schema"' in guide.structural_tag
