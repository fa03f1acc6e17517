"""The pointer to the promoted engine: moved by its own line alone, with history, whole after any write."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.artifacts import ArtifactStore, Line, Promotions, promoted_lines
from throughline.contracts.errors import ArtifactError

LAPTOP = Line("smollm2", "laptop")
FAST = Line("smollm2", "laptop", "fast")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def test_a_line_moves_its_own_pointer_alone(store: ArtifactStore) -> None:
    Promotions(store, LAPTOP).move("e1", "d1")
    Promotions(store, FAST).move("toy", "d2")
    current = Promotions(store, LAPTOP).current
    assert current is not None and (current.engine, current.decision) == ("e1", "d1")
    assert promoted_lines(store) == [FAST, LAPTOP]


def test_the_engine_before_is_kept_and_a_repeated_promotion_is_none(store: ArtifactStore) -> None:
    pointer = Promotions(store, LAPTOP)
    assert pointer.current is None and pointer.previous is None
    for engine in ("e1", "e1", "e2"):
        pointer.move(engine, f"d-{engine}")
    assert [entry.engine for entry in pointer.history()] == ["e1", "e2"]
    assert pointer.previous is not None and pointer.previous.engine == "e1"
    pointer.move("e1", "d-back")
    assert pointer.previous is not None and pointer.previous.engine == "e2"


def test_no_promotion_is_lost_when_many_write_at_once(store: ArtifactStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: Promotions(store, LAPTOP).move(f"e{number}", "d"), range(40)))
    assert {entry.engine for entry in Promotions(store, LAPTOP).history()} == {f"e{number}" for number in range(40)}


@given(st.lists(st.text(min_size=1, max_size=20).filter(lambda name: name not in (".", "..")), min_size=3, max_size=3))
def test_any_name_is_a_line_of_its_own(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    store = ArtifactStore(tmp_path_factory.mktemp("store"))
    line = Line(*names)
    Promotions(store, line).move("e", "d")
    assert promoted_lines(store) == [line]


def test_a_damaged_pointer_is_named(store: ArtifactStore) -> None:
    pointer = Promotions(store, LAPTOP)
    pointer.move("e1", "d1")
    (file,) = store.home.glob("promoted/*/*/*.json")
    file.write_text('[{"engine": "e1"}]')
    with pytest.raises(ArtifactError, match=r"history of promotions is damaged.*none\.json"):
        _ = pointer.current
