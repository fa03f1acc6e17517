"""What a usable record is: known shape, roles in order, an answer that is one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

from throughline.contracts.data import DataSpec
from throughline.contracts.text import shorten
from throughline.data.ingest import Record, Reject, reject

ROLES = ("system", "user", "assistant", "tool")


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

    Reasons: `missing_field`, `excluded_licence`, `bad_messages`, `role_order`, `empty_output`,
    `echoed_output`, `bad_tool_call`. `record.values` gets `messages`, `task`, `licence` and `tools`.
    """
    to_messages(record)
    values = record.values
    values["task"] = values.get("task") or spec.default_task
    values["licence"] = values.get("licence") or values.get("license") or spec.default_licence
    for name in ("messages", "task", "licence"):
        if not values.get(name):
            return reject(record, "validate", "missing_field", name)
    if values["licence"] in spec.exclude_licences:
        return reject(record, "validate", "excluded_licence", str(values["licence"]))
    values["tools"] = values.get("tools") or []
    fault = _messages_fault(values["messages"]) or _answer_fault(values["messages"], values["tools"])
    return None if fault is None else reject(record, "validate", *fault)


def _messages_fault(messages: Any) -> tuple[str, str] | None:
    if not isinstance(messages, list):
        return "bad_messages", f"messages is {type(messages).__name__}, not a list"
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            return "bad_messages", f"messages[{index}]: {shorten(message)}"
        content = message.get("content")
        if content is not None and not isinstance(content, str):
            return "bad_messages", f"messages[{index}].content is {type(content).__name__}"
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
    names = {tool.get("function", tool).get("name") for tool in tools if isinstance(tool, dict)}
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
            arguments = json.loads(arguments)
        except ValueError as error:
            return f"arguments are no JSON: {error}"
    return None if isinstance(arguments, dict) else "arguments are no JSON object"
