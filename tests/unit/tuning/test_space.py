"""Dimensions are typed, conditional ones come and go with what they look at, and a point is what it says."""

from __future__ import annotations

import itertools

import pytest

from tests.unit.tuning.surface import DEFAULT, SPACE
from throughline.contracts.config import parse
from throughline.contracts.errors import ConfigError
from throughline.tuning import SpaceSpec
from throughline.tuning.space import identity

SPECULATIVE = {
    "name": "speculative",
    "dimensions": [
        {"key": "engine.max_batch_size", "kind": "ordered", "values": [8, 16, 32]},
        {
            "key": "engine.speculative_config.decoding_type",
            "kind": "categorical",
            "values": [None, "NGram"],
        },
        {
            "key": "engine.speculative_config.max_draft_len",
            "kind": "ordered",
            "values": [2, 4],
            "when": {"engine.speculative_config.decoding_type": ["NGram"]},
        },
    ],
}


def test_every_point_comes_once() -> None:
    points = list(SPACE.points())
    values = [each.values for each in SPACE.dimensions]
    assert [tuple(point.values()) for point in points] == list(itertools.product(*values))
    assert SPACE.size() == len(points) == 96


def test_a_conditional_setting_is_left_out_where_it_means_nothing() -> None:
    space = parse(SpaceSpec, SPECULATIVE, where="space")
    lengths = [point.get("engine.speculative_config.max_draft_len") for point in space.points()]
    assert lengths == [None, 2, 4] * 3
    assert len({identity(point) for point in space.points()}) == 9


def test_neighbours_are_a_step_away_and_take_conditions_along() -> None:
    space = parse(SpaceSpec, SPECULATIVE, where="space")
    plain = {"engine.max_batch_size": 8, "engine.speculative_config.decoding_type": None}
    assert list(space.neighbours(plain)) == [
        plain | {"engine.max_batch_size": 16},
        {
            "engine.max_batch_size": 8,
            "engine.speculative_config.decoding_type": "NGram",
            "engine.speculative_config.max_draft_len": 2,
        },
    ]
    assert len(list(SPACE.neighbours(DEFAULT))) == 5


def test_a_proposal_between_values_becomes_the_nearest_and_an_incumbent_stays_what_it_is() -> None:
    proposed = DEFAULT | {"engine.max_num_tokens": 300}
    assert SPACE.clean(proposed)["engine.max_num_tokens"] == 256
    assert SPACE.including(proposed).clean(proposed) == proposed
    assert SPACE.including(proposed).size() == 96 + 16


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"values": [32, 8]}, "ordered and its values are not"),
        ({"values": [8, 8]}, "has a value twice"),
        ({"when": {"engine.precision": ["int8"]}}, "has to stand before it"),
        ({"key": "precision"}, "engine.precision|match pattern"),
        ({"kind": "numeric"}, "'ordered' or 'categorical'"),
    ],
)
def test_a_faulty_dimension_is_named(change: dict[str, object], text: str) -> None:
    first = dict(SPECULATIVE["dimensions"][0]) | change  # type: ignore[index, call-overload]
    with pytest.raises(ConfigError, match=text):
        parse(SpaceSpec, {"name": "faulty", "dimensions": [first]}, where="space")


def test_a_point_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"not in the space.*start.engine.precision.*fp8.*bf16"):
        SPACE.clean(DEFAULT | {"engine.precision": "fp8"}, where="start")
    with pytest.raises(ConfigError, match="no value"):
        SPACE.clean({"engine.precision": "int8"})
