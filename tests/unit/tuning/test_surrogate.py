"""What unmeasured points may be worth, against the textbook's formulas, and on a grid that was measured for real."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.tuning import GRID, Landscape
from throughline.tuning import Dimension, SpaceSpec
from throughline.tuning.surrogate import Surrogate

SPACE = SpaceSpec(
    name="paper",
    dimensions=(
        Dimension(key="a.kind", kind="categorical", values=("x", "y", "z")),
        Dimension(key="a.size", kind="ordered", values=(1, 2, 4, 8, 16)),
        Dimension(key="a.depth", kind="ordered", values=(1, 2), when={"a.kind": ("y",)}),
    ),
)


def point(kind: str, size: int, depth: int | None = None) -> dict[str, object]:
    return {"a.kind": kind, "a.size": size} | ({} if depth is None else {"a.depth": depth})


def test_two_steps_are_a_length_scale_and_another_kind_is_a_correlation_of_four_fifths() -> None:
    """The posterior of Rasmussen and Williams (2006), equations 2.25 and 2.26, plus 0.6 deviations."""
    known = [point("x", 1), point("x", 16), point("z", 4)]
    worth = [1.0, 3.0, 8.0]
    asked = [point("x", 2), point("z", 16), point("x", 1)]
    order = [1, 2, 4, 8, 16]

    def likeness(one: dict[str, object], other: dict[str, object]) -> float:
        steps = order.index(int(str(one["a.size"]))) - order.index(int(str(other["a.size"])))
        kinds = 1.0 if one["a.kind"] == other["a.kind"] else float(np.exp(-0.5 * 0.67**2))
        return float(np.exp(-0.5 * (steps / 2) ** 2)) * kinds

    values = (np.array(worth) - np.mean(worth)) / np.std(worth)
    inverse = np.linalg.inv(np.array([[likeness(a, b) for b in known] for a in known]) + 0.05 * np.eye(3))
    expected = []
    for each in asked:
        row = np.array([likeness(each, other) for other in known])
        expected.append(row @ inverse @ values + 0.6 * np.sqrt(1 - row @ inverse @ row))
    assert Surrogate(SPACE).promise(known, worth, asked) == pytest.approx(expected)
    assert np.exp(-0.5 * 0.67**2) == pytest.approx(0.8, abs=0.002)


def test_what_lies_beside_the_best_promises_most_and_what_is_far_from_all_more_than_what_is_bad() -> None:
    found = Surrogate(SPACE).promise(
        [point("x", 1), point("x", 2), point("x", 8)], [0.0, 1.0, 9.0], [point("x", 4), point("x", 16), point("z", 1)]
    )
    assert found[1] > found[2] and found[0] > found[2]


def test_a_setting_that_means_nothing_here_has_a_place_too() -> None:
    known = [point("x", 4), point("y", 4, 1), point("y", 4, 2)]
    beside, same = Surrogate(SPACE).promise(known, [1.0, 5.0, 1.0], [point("z", 4), point("y", 2, 1)])
    assert same > beside
    # All alike: nothing but what is unknown is left to hope for.
    assert np.isfinite(Surrogate(SPACE).promise(known, [2.0, 2.0, 2.0], known)).all()


def test_a_measured_grid_is_searched_with_a_quarter_of_its_probes() -> None:
    """As `benchmarks/tuning.py replay`; a change of the search that costs what it finds fails here."""
    land = Landscape.read()
    assert len(land.grid) == len(json.loads(GRID.read_text())["points"]) == land.space.size() >= 60
    hits = 0
    for seed in range(10):
        study = land.search(seed)
        best = study.best()
        assert len(study.measured) <= len(land.grid) // 4
        hits += best is not None and study.value(best) >= 0.95 * land.optimum()
    assert hits >= 9
