"""`response_format` and tools as guides for the engine's decoding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from throughline.contracts.engine import GuidedDecodingParams
from throughline.gateway.errors import ApiError, bad_request

_FIELD = "response_format"
_KINDS = ("text", "json_object", "json_schema", "json", "regex", "ebnf", "structural_tag")


def format_guide(response_format: dict[str, Any] | None) -> GuidedDecodingParams | None:
    """Returns the guide to what `response_format` asks for; None for text.

    The types beyond OpenAI's `text`, `json_object` and `json_schema` are those of TensorRT-LLM's server (`json`,
    `regex`, `ebnf`, `structural_tag`). A schema is always followed, with `strict` or without. Whether a grammar
    compiles is the engine's to say.

    Raises:
        ApiError: 400 naming the field.
    """
    if response_format is None:
        return None
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return GuidedDecodingParams(json='{"type":"object"}')
    if kind == "json_schema":
        given = _part(response_format, "json_schema", dict)
        return GuidedDecodingParams(json=_dumped(_part(given, "schema", dict, f"{_FIELD}.json_schema")))
    if kind == "json":
        return GuidedDecodingParams(json=_dumped(_part(response_format, "schema", dict)))
    if kind == "regex":
        return GuidedDecodingParams(regex=_part(response_format, "regex", str))
    if kind == "ebnf":
        return GuidedDecodingParams(grammar=_part(response_format, "ebnf", str))
    if kind == "structural_tag":
        tag = {"type": "structural_tag", "format": _part(response_format, "format", dict)}
        return GuidedDecodingParams(structural_tag=_dumped(tag))
    raise _wrong(f"{_FIELD}.type", f"one of {', '.join(_KINDS)}", kind)


def is_strict(tools: Sequence[dict[str, Any]]) -> bool:
    """Whether a tool asks for arguments that follow its schema (`strict`)."""
    return any(tool["function"].get("strict") is True for tool in tools)


def _part(values: dict[str, Any], name: str, kind: type, where: str = _FIELD) -> Any:
    found = values.get(name)
    if not isinstance(found, kind):
        raise _wrong(f"{where}.{name}", "an object" if kind is dict else "a string", found)
    return found


def _dumped(value: Any) -> str:
    # orjson refuses integers beyond 64 bits, which a schema may hold.
    return json.dumps(value)


def _wrong(where: str, expected: str, seen: Any) -> ApiError:
    return bad_request(
        f"Invalid '{where}': expected {expected}, seen: {seen!r:.80}.", param=where, code="invalid_value"
    )
