"""Guides that would hold up every other request are told from those that do not, by their text."""

from __future__ import annotations

import json

import pytest

from throughline.contracts.engine import GuidedDecodingParams, SamplingParams
from throughline.contracts.errors import EngineError
from throughline.engines.cpu.guide_cost import regex_states, schema_states
from throughline.engines.cpu.guided import MOST_CHARACTERS, MOST_STATES, check_guide


@pytest.mark.parametrize(
    ("pattern", "states"),
    [
        ("abc", 0.006),
        ("[ab]{3}", 3.0),
        ("a{1000}", 0.512),
        (".{0,500}", 256.0),
        (r"(\w{0,10} ?){0,10}", 100.02),
        ("(a|[bc]{5})[de]*", 6.002),
        ("(?:x{2}){3}", 0.012),
    ],
)
def test_states_of_a_regular_expression(pattern: str, states: float) -> None:
    assert regex_states(pattern) == pytest.approx(states)


def test_states_of_a_schema_are_those_of_its_strings() -> None:
    schema = {
        "type": "object",
        "properties": {
            "title": {"type": "string", "maxLength": 80},
            "code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
            # The name of a property and values are no lengths.
            "maxLength": {"enum": [{"maxLength": 9000}]},
            "tags": {"type": "array", "maxItems": 1000, "items": {"type": "string"}},
        },
    }
    assert 87 <= schema_states(schema) <= 90


def guides(length: int) -> list[GuidedDecodingParams]:
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": length}}}
    tag = {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": schema}}
    return [
        GuidedDecodingParams(json=json.dumps(schema)),
        GuidedDecodingParams(regex=f".{{0,{length}}}"),
        GuidedDecodingParams(grammar=f"root ::= [a-z]{{0,{length}}}"),
        GuidedDecodingParams(structural_tag=json.dumps(tag)),
    ]


@pytest.mark.parametrize("kind", range(4))
def test_what_is_dear_is_refused_with_what_to_do(kind: int) -> None:
    check_guide(SamplingParams(guided_decoding=guides(MOST_STATES)[kind]))
    with pytest.raises(EngineError, match="takes too long to compile") as caught:
        check_guide(SamplingParams(guided_decoding=guides(MOST_STATES + 5)[kind]))
    assert f"{MOST_STATES + 5} states" in str(caught.value) and "leave maxLength" in str(caught.value)


def test_a_description_without_end_is_refused() -> None:
    with pytest.raises(EngineError, match=f"at most {MOST_CHARACTERS}"):
        check_guide(SamplingParams(guided_decoding=GuidedDecodingParams(regex="a" * (MOST_CHARACTERS + 1))))
