"""The settings that may be tried: typed dimensions, some of them only beside certain values of others."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from throughline.contracts.config import StrictModel
from throughline.contracts.errors import ConfigError
from throughline.contracts.text import did_you_mean

# More points than this are neither listed nor looked through for a neighbour.
MOST_POINTS = 100_000


class Dimension(StrictModel):
    """One setting.

    Attributes:
        key: Dotted, as the composed config has it, e.g. `engine.max_num_tokens`.
        kind: `ordered` values lie on a line, so that neighbours are alike; `categorical` ones do not.
        values: What may be tried, in order; plain JSON types.
        when: Other keys and the values beside which this setting means something. Elsewhere it is left out.
        why: What it trades, for reports.
    """

    key: str = Field(pattern=r"^\w+(\.\w+)+$")
    kind: Literal["ordered", "categorical"]
    values: tuple[Any, ...] = Field(min_length=1)
    when: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    why: str = ""

    @model_validator(mode="after")
    def _values_differ(self) -> Self:
        texts = [encode(value) for value in self.values]
        if len(set(texts)) < len(texts):
            raise ValueError(f"{self.key} has a value twice: {', '.join(texts)}")
        if self.kind == "ordered" and list(self.values) != sorted(self.values):
            raise ValueError(f"{self.key} is ordered and its values are not: {', '.join(texts)}")
        return self

    def active(self, settings: Mapping[str, Any]) -> bool:
        """Whether the setting means anything beside the others."""
        return all(
            key in settings and encode(settings[key]) in map(encode, wanted) for key, wanted in self.when.items()
        )


class SpaceSpec(StrictModel):
    """The dimensions of a search; a conditional one stands behind those that it looks at.

    Attributes:
        name: The preset's name.
        dimensions: Settings in the order in which they are drawn.
    """

    name: str
    dimensions: tuple[Dimension, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _conditions_look_back(self) -> Self:
        seen: set[str] = set()
        for each in self.dimensions:
            if each.key in seen:
                raise ValueError(f"{each.key} stands in the space twice")
            for key in each.when:
                if key not in seen:
                    raise ValueError(f"{each.key} depends on {key}, which has to stand before it")
            seen.add(each.key)
        return self

    @property
    def conditional(self) -> bool:
        """Whether a dimension depends on another."""
        return any(each.when for each in self.dimensions)

    def size(self) -> int:
        """Returns the number of points, at most `MOST_POINTS`."""
        return sum(1 for _ in itertools.islice(self.points(), MOST_POINTS))

    def points(self) -> Iterator[dict[str, Any]]:
        """Yields every point once; settings that mean nothing beside the others are left out."""
        yield from self._points(0, {})

    def _points(self, index: int, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if index == len(self.dimensions):
            yield dict(settings)
            return
        each = self.dimensions[index]
        if not each.active(settings):
            yield from self._points(index + 1, settings)
            return
        for value in each.values:
            yield from self._points(index + 1, settings | {each.key: value})

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Returns a point with every value of a setting as likely as another."""
        found: dict[str, Any] = {}
        for each in self.dimensions:
            if each.active(found):
                found[each.key] = rng.choice(each.values)
        return found

    def including(self, settings: Mapping[str, Any]) -> Self:
        """Returns the space with the settings' values among those that may be tried."""
        return self.model_copy(
            update={
                "dimensions": tuple(
                    _with(each, settings[each.key]) if each.key in settings else each for each in self.dimensions
                )
            }
        )

    def clean(self, settings: Mapping[str, Any], *, where: str = "settings") -> dict[str, Any]:
        """Returns a point of the space from settings that may hold more than its active dimensions.

        An ordered value between two of the space becomes the nearest one.

        Raises:
            ConfigError: If a dimension has no value, or one that is not in the space.
        """
        found: dict[str, Any] = {}
        for each in self.dimensions:
            if not each.active(found):
                continue
            if each.key not in settings:
                raise ConfigError(
                    "a setting of the space has no value",
                    where=f"{where}.{each.key}",
                    fix=did_you_mean(each.key, list(settings)),
                )
            found[each.key] = _nearest(each, settings[each.key], where)
        return found

    def neighbours(self, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yields the points that differ in one setting: ordered ones by a step, categorical ones by any value."""
        for each in self.dimensions:
            if each.key not in settings:
                continue
            at = [encode(value) for value in each.values].index(encode(settings[each.key]))
            for index, value in enumerate(each.values):
                if index != at and (each.kind == "categorical" or abs(index - at) == 1):
                    yield self._completed(dict(settings) | {each.key: value})

    def _completed(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Drops settings that mean nothing now; those that have come to mean something take their first value."""
        found: dict[str, Any] = {}
        for each in self.dimensions:
            if each.active(found):
                found[each.key] = settings.get(each.key, each.values[0])
        return found


def encode(value: Any) -> str:
    """Returns a value as text, the same for equal ones."""
    return json.dumps(value, sort_keys=True)


def identity(settings: Mapping[str, Any]) -> str:
    """Returns a point as text, the same for equal ones."""
    return encode(dict(settings))


def _with(dimension: Dimension, value: Any) -> Dimension:
    if encode(value) in map(encode, dimension.values):
        return dimension
    values = (*dimension.values, value)
    if dimension.kind == "ordered":
        values = tuple(sorted(values))
    return Dimension(**dimension.model_dump() | {"values": values})


def _nearest(dimension: Dimension, value: Any, where: str) -> Any:
    if any(encode(value) == encode(known) for known in dimension.values):
        return value
    if dimension.kind == "ordered" and isinstance(value, int | float) and not isinstance(value, bool):
        return min(dimension.values, key=lambda known: abs(known - value))
    raise ConfigError(
        "value is not in the space",
        where=f"{where}.{dimension.key}",
        seen=encode(value),
        fix="take one of " + ", ".join(encode(known) for known in dimension.values),
    )
