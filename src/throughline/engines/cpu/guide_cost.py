"""What a guide costs to compile, told from its text: counted characters of any kind are what is dear.

xgrammar makes a state of each of `.{0,500}` and of a string's `maxLength`, and for each state goes through the whole
vocabulary; the compilation is a part of `step()`, in which every other request waits (docs/log.md has the times).
"""

from __future__ import annotations

from collections.abc import Iterator
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

# Beyond this many equal states xgrammar counts in another way, whose cost does not grow.
_MOST_STATES = 256
# Of a character that is spelled out, few tokens go on.
_LITERAL = 0.002
_LENGTHS = ("maxLength", "minLength")


def regex_states(pattern: str) -> float:
    """Returns about how many states for characters of many kinds a regular expression has.

    Raises:
        re.error: If it is none.
    """
    return _states(_parser.parse(pattern))


def schema_states(schema: Any) -> float:
    """Returns the same of a JSON schema, of what its references stand for once."""
    return sum(_of_schema(schema))


def _of_schema(schema: Any) -> Iterator[float]:
    if isinstance(schema, list):
        for item in schema:
            yield from _of_schema(item)
        return
    if not isinstance(schema, dict):
        return
    counts = [schema[key] for key in _LENGTHS if isinstance(schema.get(key), int | float)]
    if counts:
        yield min(float(max(counts)), _MOST_STATES)
    if isinstance(schema.get("pattern"), str):
        yield regex_states(schema["pattern"])
    for key, item in schema.items():
        # What stands there are values and not schemas.
        if key not in ("enum", "const", "default", "examples"):
            yield from _of_schema(item)


def _states(tree: Any) -> float:
    total = 0.0
    for kind, value in tree:
        if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
            low, high, inner = value
            times = low if high is _constants.MAXREPEAT else high
            total += min(max(1, times), _MOST_STATES) * _states(inner)
        elif kind is _constants.BRANCH:
            total += sum(_states(branch) for branch in value[1])
        elif kind in (_constants.SUBPATTERN, _constants.ATOMIC_GROUP):
            total += _states(value[-1] if kind is _constants.SUBPATTERN else value)
        else:
            total += _LITERAL if kind is _constants.LITERAL else 1.0
    return total
