"""What a usable record is: known shape, roles in order, an answer that is one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from throughline.contracts.data import DataSpec
from throughline.contracts.text import shorten
from throughline.data.ingest import Record, Reject, reject

ROLES = ("system", "user", "assistant", "tool")
_TEXTS = ("task", "format", "source", "licence", "license")
# Numbers will do here: many systems count their customers and their seconds.
_KEYS = ("id", "customer", "document", "created")
# Python's own JSON, templates and dictionaries walk values recursively; no tool's arguments are nested like this.
_MOST_LEVELS = 64


def to_messages(record: Record) -> None:
    """Turns the other common shapes into `messages`: prompt/completion and instruction/input/output."""
    values = record.values
    if "messages" in values:
        return
    if isinstance(values.get("prompt"), str) and isinstance(values.get("completion"), str):
        user, answer = values.pop("prompt"), values.pop("completion")
    elif isinstance(values.get("instruction"), str) and isinstance(values.get("output"), str):
        extra = values.pop("input", "") or ""
        user, answer = values.pop("instruction") + (f"\n{extra}" if extra else ""), values.pop("output")
    else:
        return
    values["messages"] = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]


def validate(record: Record, spec: DataSpec) -> Reject | None:
    """Returns why a record cannot be used, or None.

    Reasons: `too_deep`, `bad_field`, `missing_field`, `excluded_licence`, `bad_messages`, `role_order`, `empty_output`,
    `echoed_output`, `bad_tools`, `bad_tool_call`. `record.values` gets `messages`, `task`, `licence` and `tools`, and
    its keys as text.
    """
    values = record.values
    fault = _field_fault(values, spec.group_by)
    if fault is not None:
        return reject(record, "validate", *fault)
    to_messages(record)
    values["task"] = values.get("task") or spec.default_task
    values["licence"] = values.get("licence") or values.get("license") or spec.default_licence
    for name in ("messages", "task", "licence"):
        if not values.get(name):
            return reject(record, "validate", "missing_field", name)
    if values["licence"] in spec.exclude_licences:
        return reject(record, "validate", "excluded_licence", str(values["licence"]))
    values["tools"] = values.get("tools") or []
    fault = (
        _tools_fault(values["tools"])
        or _messages_fault(values["messages"])
        or _answer_fault(values["messages"], values["tools"])
    )
    return None if fault is None else reject(record, "validate", *fault)


def _field_fault(values: dict[str, Any], group_by: Sequence[str]) -> tuple[str, str] | None:
    if _levels(values) > _MOST_LEVELS:
        return "too_deep", f"more than {_MOST_LEVELS} levels"
    for name in {*_KEYS, *group_by}:
        value = values.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            values[name] = str(value)
    for name in (*_TEXTS, *_KEYS, *group_by):
        value = values.get(name)
        if value is not None and not isinstance(value, str):
            return "bad_field", f"{name} is {type(value).__name__}, not text: {shorten(value)}"
    return None


def _levels(value: Any) -> int:
    """Returns how deeply a value is nested, at most one more than is allowed."""
    depth, level = 0, [value]
    while level and depth <= _MOST_LEVELS:
        depth += 1
        level = [
            item
            for each in level
            if isinstance(each, dict | list)
            for item in (each.values() if isinstance(each, dict) else each)
        ]
    return depth


def _tools_fault(tools: Any) -> tuple[str, str] | None:
    """Tools are OpenAI's `{"type": "function", "function": {…}}`, or the function alone."""
    if not isinstance(tools, list):
        return "bad_tools", f"tools is {type(tools).__name__}, not a list"
    for index, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            return "bad_tools", f"tools[{index}] has no function name: {shorten(tool)}"
        for key, kind in (("description", str), ("parameters", dict)):
            if not isinstance(function.get(key), kind | None):
                return "bad_tools", f"tools[{index}].{key} is {type(function[key]).__name__}"
    return None


def _messages_fault(messages: Any) -> tuple[str, str] | None:
    if not isinstance(messages, list):
        return "bad_messages", f"messages is {type(messages).__name__}, not a list"
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            return "bad_messages", f"messages[{index}]: {shorten(message)}"
        content = message.get("content")
        if content is not None and not isinstance(content, str):
            return "bad_messages", f"messages[{index}].content is {type(content).__name__}"
        if not isinstance(message.get("tool_calls"), list | None):
            return "bad_messages", f"messages[{index}].tool_calls is {type(message['tool_calls']).__name__}, not a list"
    return _order_fault([message["role"] for message in messages])


def _order_fault(roles: list[str]) -> tuple[str, str] | None:
    """Roles are [system] then user, answered by assistant; tool results stand between two assistant turns."""
    turns = roles[1:] if roles[:1] == ["system"] else roles
    seen = " ".join(roles)
    if not turns or turns[0] != "user" or turns[-1] != "assistant":
        return "role_order", seen
    allowed = {"user": {"assistant"}, "assistant": {"user", "tool"}, "tool": {"tool", "assistant"}}
    for before, after in itertools.pairwise(turns):
        if after not in allowed.get(before, set()):
            return "role_order", seen
    return None


def _answer_fault(messages: list[dict[str, Any]], tools: list[Any]) -> tuple[str, str] | None:
    answer, asked = messages[-1], messages[-2]
    text, calls = (answer.get("content") or "").strip(), answer.get("tool_calls") or []
    if not text and not calls:
        return "empty_output", "the last answer has neither text nor tool calls"
    if text and text == (asked.get("content") or "").strip():
        return "echoed_output", shorten(text)
    names = {tool.get("function", tool)["name"] for tool in tools}
    for message in messages:
        for call in message.get("tool_calls") or []:
            fault = _call_fault(call, names)
            if fault:
                return "bad_tool_call", fault
    return None


def _call_fault(call: Any, names: set[Any]) -> str | None:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return f"no function name: {shorten(call)}"
    if function["name"] not in names:
        return f"'{function['name']}' is not among the record's tools"
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            # Stricter than Python's own: no lone surrogates, which no file could hold, no NaN, no endless nesting.
            arguments = orjson.loads(arguments)
        except ValueError as error:
            return f"arguments are no JSON: {error}"
        if _levels(arguments) > _MOST_LEVELS:
            return f"arguments have more than {_MOST_LEVELS} levels"
    return None if isinstance(arguments, dict) else "arguments are no JSON object"
