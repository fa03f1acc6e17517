"""Expected seconds: what a like run took here, else the table scaled by the machine's speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes import lifecycle, stage_seconds
from throughline.artifacts import ArtifactStore


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def test_a_machine_half_as_fast_takes_twice_as_long(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_seconds, "probe", lambda: stage_seconds.REFERENCE_GFLOPS / 2)
    found = stage_seconds.expected(store, "m/laptop/none", ["data", "train"], fast=False)
    assert found == {name: 2 * stage_seconds.REFERENCE[name] for name in ("data", "train")}


def test_what_a_like_run_took_wins_and_others_do_not_count(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_seconds, "probe", lambda: stage_seconds.REFERENCE_GFLOPS)
    stage_seconds.remember(store, "m/laptop/none", "train", 77.0)
    stage_seconds.remember(store, "m/laptop/fast", "train", 7.0)
    found = stage_seconds.expected(store, "m/laptop/none", ["data", "train"], fast=False)
    assert found == {"data": stage_seconds.REFERENCE["data"], "train": 77.0}


def test_a_damaged_file_costs_the_estimate_and_not_the_run(store: ArtifactStore) -> None:
    stage_seconds.remember(store, "m", "data", 1.0)
    (store.home / "lifecycle" / "seconds.json").write_text("{")
    assert stage_seconds.expected(store, "m", ["data"], fast=True)["data"] > 0


def test_every_stage_has_an_expectation() -> None:
    # Rounds of the loop come after the stages.
    assert set(stage_seconds.REFERENCE) == set(stage_seconds.REFERENCE_FAST) == {*lifecycle.STAGES, "tune"}


def test_the_probe_measures_something() -> None:
    assert stage_seconds.probe() > 0.1
