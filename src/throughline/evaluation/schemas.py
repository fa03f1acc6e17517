"""Tools' JSON schemas (Draft 2020-12): checked when questions are loaded, then arguments against them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from throughline.contracts.errors import DataError
from throughline.contracts.text import shorten


def tool_schemas(tools: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns tool name → schema of its parameters, from OpenAI-style tools.

    Raises:
        DataError: If a tool has no name, or its schema is none of Draft 2020-12.
    """
    found: dict[str, dict[str, Any]] = {}
    for tool in tools:
        function = tool.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str):
            raise DataError("tool without a function name", seen=shorten(tool), fix="give OpenAI-style tools")
        schema = function.get("parameters", {})
        _validator(json.dumps(schema, sort_keys=True))
        found[name] = schema
    return found


def complies(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Returns whether `arguments` satisfy `schema`.

    Raises:
        DataError: If the schema is none of Draft 2020-12 or refers to something outside itself.
    """
    from referencing.exceptions import Unresolvable

    try:
        return bool(_validator(json.dumps(schema, sort_keys=True)).is_valid(dict(arguments)))
    except Unresolvable as error:
        raise DataError(
            "tool schema refers to something outside itself",
            seen=str(error),
            fix="write the referenced schema out",
        ) from None


@lru_cache(maxsize=256)
def _validator(schema_json: str) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from referencing import Registry

    schema = json.loads(schema_json)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise DataError(
            "tool schema is no JSON schema of Draft 2020-12",
            seen=error.message,
            fix="correct tools[].function.parameters",
        ) from None
    # The library's default registry would fetch remote references over the network.
    registry: Registry[Any] = Registry()
    return Draft202012Validator(schema, registry=registry)
