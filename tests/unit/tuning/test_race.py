"""A race finds real differences, calls the others ties, and makes no winner by looking often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.unit.tuning.surface import DEFAULT, LIMITS, Paper, made
from throughline.contracts.measurement import Measurement
from throughline.tuning.noise import Noise
from throughline.tuning.race import RaceSpec, race

BETTER = DEFAULT | {"engine.precision": "int8", "engine.max_num_tokens": 128}
SPEC = RaceSpec(rounds=5)
NOISE = Noise(0.05, 5)


def test_what_is_better_wins_with_its_interval() -> None:
    found = race(Paper(noise=0.05), DEFAULT, [BETTER], SPEC, LIMITS, "goodput", NOISE)
    assert found.winner is not None and found.winner.settings == BETTER
    assert found.winner.verdict == "better" and found.winner.ratio is not None and found.winner.ratio.low > 1
    assert "times the incumbent's" in found.reason


def test_the_same_settings_tie() -> None:
    twin = DEFAULT | {"engine.max_num_tokens": 1200}
    same = {"engine.max_num_tokens": 256}
    wins = 0
    for seed in range(100):
        paper = Paper(noise=0.05)

        def probe(settings: Mapping[str, Any], *, seconds: float, seed: int, paper: Paper = paper) -> Measurement:
            return paper(dict(settings) | same, seconds=seconds, seed=seed)

        found = race(
            probe, DEFAULT, [twin, DEFAULT | {"engine.max_num_tokens": 1300}], SPEC, LIMITS, "goodput", NOISE, seed=seed
        )
        wins += found.winner is not None
    assert wins <= 5, "looking at two finalists four times each must not find a difference more than once in twenty"


def test_rounds_are_shared_and_their_order_changes() -> None:
    paper = Paper(noise=0.05)
    race(
        paper,
        DEFAULT,
        [DEFAULT | {"engine.enable_block_reuse": False}],
        SPEC,
        LIMITS,
        "tokens_per_second",
        Noise(0.5, 5),
    )
    assert len(paper.calls) == 10
    firsts = [paper.calls[2 * number] == DEFAULT for number in range(5)]
    assert set(firsts) == {True, False}
    assert all((paper.calls[2 * n] == DEFAULT) != (paper.calls[2 * n + 1] == DEFAULT) for n in range(5))


def test_a_plain_outcome_ends_early() -> None:
    paper = Paper()
    found = race(paper, DEFAULT, [BETTER], RaceSpec(rounds=20), LIMITS, "goodput", Noise(0.001, 9))
    assert len(paper.calls) == 4 and found.winner is not None


def test_faster_without_the_slo_is_no_winner_and_the_slo_alone_is_enough() -> None:
    def probe(settings: Mapping[str, Any], *, seconds: float, seed: int) -> Measurement:
        slow = settings["engine.max_num_tokens"] == 1024
        return made(dict(settings), rate=4.0, goodput=4.0 if slow else 3.0, ttft=1.0, itl=0.6 if slow else 0.1)

    wild = DEFAULT | {"engine.max_num_tokens": 1024}
    found = race(probe, DEFAULT, [wild], SPEC, LIMITS, "goodput", None)
    assert found.winner is None and found.runners[0].verdict == "infeasible"
    back = race(probe, wild, [DEFAULT], SPEC, LIMITS, "goodput", None)
    assert back.winner is not None and back.winner.settings == DEFAULT
    assert "itl_seconds 2.00 times" in back.reason
