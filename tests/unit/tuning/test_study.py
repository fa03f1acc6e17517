"""The search against exhaustive search on a service on paper, its budget, and what a kill or a death leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tuning.surface import DEFAULT, LIMITS, SPACE, Paper, measurement
from throughline.contracts.errors import TuningError
from throughline.contracts.slo import SloSpec
from throughline.tuning import Dimension, Limits, SpaceSpec, Study, StudySpec


def lint(settings: Mapping[str, Any]) -> tuple[str, str] | None:
    fits = settings["engine.max_num_tokens"] >= settings["engine.max_batch_size"]
    return None if fits else ("num-tokens", "fewer tokens than sequences")


def optimum() -> float:
    """By exhaustive search."""
    found = [measurement(point) for point in SPACE.points() if lint(point) is None]
    return max(LIMITS.value(each, "goodput") for each in found if LIMITS.keeps(each))


def search(path: Path | None = None, **settings: Any) -> tuple[Study, Paper]:
    spec = StudySpec(**{"probes": 24} | settings)
    return Study(SPACE, spec, LIMITS, path, lint), Paper()


def test_a_quarter_of_the_points_finds_what_all_of_them_would() -> None:
    study, probe = search()
    study.run(probe, [DEFAULT])
    best = study.best()
    assert best is not None and len(probe.calls) == SPACE.size() // 4
    assert study.value(best) >= 0.95 * optimum()
    assert study.value(study.trials[0]) < 0.8 * optimum(), "the default is far from the best, or nothing was searched"


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["gp-ucb", "tpe", "gp"])
def test_nine_of_ten_seeds_find_it_under_noise_too(sampler: str) -> None:
    hits = 0
    for seed in range(20):
        study = search(sampler=sampler, seed=seed)[0]
        study.run(Paper(noise=0.03, stream=seed), [DEFAULT])
        best = study.best()
        # What the point is truly worth, not what a lucky probe said.
        hits += best is not None and LIMITS.value(measurement(best.settings), "goodput") >= 0.95 * optimum()
    assert hits >= 18


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_optuna_s_samplers_search_too(sampler: str) -> None:
    study, probe = search(sampler=sampler, probes=8)
    study.run(probe, [DEFAULT])
    best = study.best()
    assert best is not None and len(study.measured) == 8 and study.value(best) >= study.value(study.trials[0])


def test_a_space_too_large_to_be_ranked_whole_is_searched_too() -> None:
    """Settings that change nothing make it so."""
    idle = [Dimension(key=f"engine.idle_{n}", kind="ordered", values=tuple(range(8))) for n in range(3)]
    space = SpaceSpec(name="wide", dimensions=(*SPACE.dimensions, *idle))
    assert space.size() > 20_000
    study = Study(space, StudySpec(probes=30), LIMITS, None, lint)
    study.run(Paper(), [DEFAULT | {each.key: 0 for each in idle}])
    best = study.best()
    assert best is not None and study.value(best) >= 0.9 * optimum()
    assert len({trial.identity for trial in study.measured}) == 30


def test_no_point_is_measured_twice_and_the_start_comes_first() -> None:
    study, probe = search()
    proposed = DEFAULT | {"engine.max_num_tokens": 100, "engine.precision": "int8"}
    study.run(probe, [DEFAULT, proposed])
    asked = [tuple(call.values()) for call in probe.calls]
    assert len(set(asked)) == len(asked) == 24
    assert probe.calls[:2] == [DEFAULT, DEFAULT | {"engine.max_num_tokens": 128, "engine.precision": "int8"}]


def test_contradictory_points_are_refused_before_they_run_with_the_rule() -> None:
    study, probe = search(probes=1000)
    study.run(probe, [DEFAULT])
    contradictory = [point for point in SPACE.points() if lint(point) is not None]
    assert not contradictory, "the space above has none"
    narrow = SPACE.including({"engine.max_num_tokens": 8})
    study = Study(narrow, StudySpec(probes=1000), LIMITS, None, lint)
    study.run(probe := Paper(), [DEFAULT])
    refused = [trial for trial in study.trials if trial.refused]
    assert {trial.refused for trial in refused} == {"num-tokens"}
    assert len(refused) == sum(lint(point) is not None for point in narrow.points()) == 8
    assert all(lint(call) is None for call in probe.calls) and len(probe.calls) == narrow.size() - 8


def test_a_study_goes_on_where_it_was_and_its_budget_with_it(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study, probe = search(path, probes=6)
    study.run(probe, [DEFAULT])
    again, more = search(path, probes=9)
    assert [trial.settings for trial in again.trials] == [trial.settings for trial in study.trials]
    again.run(more, [DEFAULT])
    assert len(more.calls) == 3
    assert not {tuple(call.values()) for call in more.calls} & {tuple(call.values()) for call in probe.calls}


def test_minutes_are_a_budget_too() -> None:
    study, probe = search(minutes=1e-9)
    study.run(probe, [DEFAULT])
    assert len(probe.calls) == 0 or len(probe.calls) == 1


def test_a_kill_in_the_middle_of_a_probe_keeps_the_finished_ones(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study, probe = search(path)

    def killed(settings: Mapping[str, Any], *, seconds: float, seed: int) -> Any:
        if len(probe.calls) == 3:
            raise KeyboardInterrupt
        return probe(settings, seconds=seconds, seed=seed)

    with pytest.raises(KeyboardInterrupt):
        study.run(killed, [DEFAULT])
    again, more = search(path, probes=4)
    assert len(again.measured) == len(again.trials) == 3
    again.run(more, [DEFAULT])
    assert len(more.calls) == 1 and more.calls[0] not in probe.calls


def test_the_point_that_was_cut_short_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"

    def killed(settings: Mapping[str, Any], *, seconds: float, seed: int) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(path)[0].run(killed, [DEFAULT])
    again, more = search(path, probes=1)
    again.run(more, [DEFAULT])
    assert more.calls == [DEFAULT]


def test_a_service_that_dies_once_is_passed_over_and_one_that_is_gone_ends_the_search(tmp_path: Path) -> None:
    study, _ = search()
    study.run(probe := Paper(dies=frozenset({4})), [DEFAULT])
    assert len(study.measured) == 24 and len(probe.calls) == 25
    (dead,) = [trial for trial in study.trials if trial.error]
    assert "exit code 137" in dead.error

    path = tmp_path / "study.journal"
    study, _ = search(path)
    with pytest.raises(TuningError, match=r"died 3 times.*exit code 137.*5 finished probes are kept"):
        study.run(Paper(dies=frozenset(range(5, 100))), [DEFAULT])
    assert len(search(path)[0].measured) == 5


def test_a_hopeless_point_is_given_up_after_a_first_look() -> None:
    study, _ = search(screen_seconds=2.0, hopeless=1.5, probes=96)
    asked: list[tuple[float, bool]] = []

    def probe(settings: Mapping[str, Any], *, seconds: float, seed: int) -> Any:
        found = measurement(dict(settings), seconds=seconds)
        asked.append((seconds, max(LIMITS.pressure(found).values()) > 1.5))
        return found

    study.run(probe, [DEFAULT])
    hopeless = sum(given_up for seconds, given_up in asked if seconds == 2.0)
    assert 0 < hopeless < 96
    assert sum(seconds == 12.0 for seconds, _ in asked) == 96 - hopeless
    assert sum(trial.measurement.seconds == 2.0 for trial in study.measured if trial.measurement) == hopeless


def test_an_impossible_slo_has_a_nearest_point_that_says_which_limit_and_by_how_much() -> None:
    limits = Limits(SloSpec(ttft_seconds=0.001, itl_seconds=0.3))
    study = Study(SPACE, StudySpec(probes=12), limits)
    study.run(Paper(), [DEFAULT])
    nearest = study.nearest()
    assert study.best() is None and nearest is not None
    assert nearest.pressure["ttft_seconds"] == min(trial.pressure["ttft_seconds"] for trial in study.measured) > 100


def test_two_objectives_make_a_front() -> None:
    spec = StudySpec(probes=30, objectives=("tokens_per_second", "ttft"))
    study = Study(SPACE, spec, LIMITS, None, lint)
    study.run(Paper(), [DEFAULT])
    assert len(study.measured) == 30 and study.best() is not None
