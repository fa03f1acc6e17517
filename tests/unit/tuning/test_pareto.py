"""The front is what no other point beats."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from throughline.tuning.pareto import front


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_it_is_what_the_definition_says(points: list[tuple[int, int, int]]) -> None:
    named = {i: {"goodput": float(a), "memory": float(b), "ttft": float(c)} for i, (a, b, c) in enumerate(points)}
    kept = front(named, ["goodput", "memory", "ttft"])  # type: ignore[arg-type]
    for index, (a, b, c) in enumerate(points):
        beaten = any(x >= a and y <= b and z <= c and (x, y, z) != (a, b, c) for x, y, z in points)
        assert (index in kept) == (not beaten)
