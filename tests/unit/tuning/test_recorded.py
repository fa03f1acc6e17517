"""What was measured is written down, found again, and survives a line cut short."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.tuning.surface import DEFAULT, Paper, measurement
from throughline.contracts.errors import ConfigError
from throughline.tuning.recorded import Grid, Recorded


def test_a_probe_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "race.jsonl"
    paper = Paper(noise=0.1)
    first = Recorded(paper, path)(DEFAULT, seconds=5.0, seed=1)
    with path.open("a") as handle:
        handle.write('{"key": "cut sho')
    again = Recorded(Paper(dies=frozenset({0})), path)
    assert again(DEFAULT, seconds=5.0, seed=1) == first
    assert len(paper.calls) == 1


def test_a_grid_answers_for_its_points_alone() -> None:
    grid = Grid([(DEFAULT, measurement(DEFAULT))])
    assert grid(dict(reversed(DEFAULT.items())), seconds=1.0, seed=0) == measurement(DEFAULT)
    with pytest.raises(ConfigError, match="no such point"):
        grid(DEFAULT | {"engine.max_batch_size": 5}, seconds=1.0, seed=0)
