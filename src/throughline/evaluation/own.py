"""Scores a user's own task against its reference message: text, JSON text, or tool calls with arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from throughline.contracts.tool_calls import parse_tool_calls
from throughline.evaluation.schemas import complies, tool_schemas

Calls = list[tuple[str, dict[str, Any]]]


def reference_calls(message: Mapping[str, Any]) -> Calls:
    """Returns name and arguments of every call of an OpenAI-style assistant message.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: If a call is not in that form.
    """
    calls: Calls = []
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        arguments = function["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        if not isinstance(function["name"], str) or not isinstance(arguments, dict):
            raise ValueError("a call has a name and an object of arguments")
        calls.append((function["name"], arguments))
    return calls


def score_own(message: Mapping[str, Any], tools: list[dict[str, Any]], text: str) -> dict[str, float]:
    """Returns `exact_match`, and for references with calls or JSON how well-formed the answer is.

    Text is compared but for white space, JSON by value. With calls, `json_validity` says that every block can
    be read and there is one at least, `schema_compliance` that each names an offered tool and keeps its schema.

    Args:
        message: The reference; its calls are sound.
        tools: OpenAI-style tools that the question offers.
        text: The answer.

    Raises:
        DataError: If a tool's schema cannot be used.
    """
    content = message.get("content") or ""
    wanted = reference_calls(message)
    if wanted:
        return _with_calls(content, wanted, tools, text)
    reference = _json(content)
    if reference is None:
        return {"exact_match": float(_plain(text) == _plain(content))}
    said = _json(text)
    return {"exact_match": float(same(said, reference)), "json_validity": float(said is not None)}


def same(given: Any, wanted: Any) -> bool:
    """Returns whether two JSON values are equal: true is not 1, as it is in Python, and 1.0 is 1."""
    if isinstance(wanted, dict) and isinstance(given, dict):
        return given.keys() == wanted.keys() and all(same(given[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list) and isinstance(given, list):
        return len(given) == len(wanted) and all(map(same, given, wanted))
    return isinstance(given, bool) == isinstance(wanted, bool) and bool(given == wanted)


def _with_calls(content: str, wanted: Calls, tools: list[dict[str, Any]], text: str) -> dict[str, float]:
    parse = parse_tool_calls(text)
    valid = parse.error is None and bool(parse.calls)
    given = [(call.name, call.arguments or {}) for call in parse.calls]
    schemas = tool_schemas(tools)
    compliant = valid and all(name in schemas and complies(arguments, schemas[name]) for name, arguments in given)
    equal = len(given) == len(wanted) and all(
        name == other and same(arguments, others)
        for (name, arguments), (other, others) in zip(given, wanted, strict=True)
    )
    exact = valid and equal and _plain(parse.content) == _plain(content)
    return {"exact_match": float(exact), "json_validity": float(valid), "schema_compliance": float(compliant)}


def _plain(text: str) -> str:
    return " ".join(text.split())


def _json(text: str) -> Any:
    """The object or list that a text is; None for any other text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None
