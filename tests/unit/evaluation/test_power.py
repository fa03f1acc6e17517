"""Power of the gate's checks against the gate itself, over every table that a suite can bring."""

from __future__ import annotations

import pytest
from scipy import stats

from tests.unit.evaluation.helpers import evaluation
from throughline.contracts.evaluation import GatePolicy
from throughline.evaluation.gate import decide
from throughline.evaluation.power import MOST, TARGET, check_powers, drop_power, floor_power, questions_of


def go_shares(n: int, policy: GatePolicy, metric: str) -> list[bool]:
    """Whether k right answers of n pass, for every k, by the gate."""
    outcomes = []
    for k in range(n + 1):
        found = evaluation("m", **{metric: [1.0] * k + [0.0] * (n - k)})
        outcomes.append(decide(found, {}, policy)["m"].decision == "GO")
    return outcomes


@pytest.mark.parametrize(
    ("n", "floor", "true"), [(120, 0.88, 0.95), (30, 0.85, 0.98), (65, 0.96, 0.998), (26, 0.5, 0.9)]
)
def test_the_power_of_a_floor_is_how_often_the_gate_says_go(n: int, floor: float, true: float) -> None:
    policy = GatePolicy(min={"x": floor})
    passing = go_shares(n, policy, "x")
    expected = sum(stats.binom.pmf(k, n, true) for k in range(n + 1) if passing[k])
    assert floor_power(n, floor, true, policy.confidence) == pytest.approx(expected)


def test_a_ceiling_is_a_floor_of_the_complement() -> None:
    policy = GatePolicy(max={"false_refusals": 0.15}, assumed={"false_refusals": 0.02})
    passing = go_shares(30, policy, "false_refusals")
    expected = sum(stats.binom.pmf(k, 30, 0.02) for k in range(31) if passing[k])
    (found,) = check_powers(policy, {"benign": 30})
    assert (found.kind, found.questions) == ("max", 30)
    assert found.power == pytest.approx(expected)


@pytest.mark.parametrize(
    ("n", "limit", "lost", "won"), [(60, 0.05, 0.02, 0.01), (40, 0.1, 0.01, 0.0), (30, 0.2, 0.1, 0.1)]
)
def test_the_power_of_a_drop_is_how_often_the_gate_says_go(n: int, limit: float, lost: float, won: float) -> None:
    policy = GatePolicy(min={"task_success": 0}, default_max_drop=limit)
    expected = 0.0
    for b in range(n + 1):
        for c in range(n - b + 1):
            chance = stats.multinomial.pmf([b, c, n - b - c], n, [lost, won, 1 - lost - won])
            if chance < 1e-7:
                continue
            reference = evaluation("bf16", task_success=[1.0] * b + [0.0] * c + [1.0] * (n - b - c))
            candidate = evaluation("int8", task_success=[0.0] * b + [1.0] * c + [1.0] * (n - b - c))
            if decide(reference, {"int8": candidate}, policy)["int8"].decision == "GO":
                expected += chance
    assert drop_power(n, limit, lost, won, policy.confidence) == pytest.approx(expected, abs=1e-4)


def test_what_is_needed_suffices_for_good_and_one_less_does_not() -> None:
    policy = GatePolicy(min={"triage_exact_match": 0.88}, assumed={"triage_exact_match": 0.95})
    (found,) = check_powers(policy, {"triage": 120})
    assert found.needed == 115 and found.decides and found.power > TARGET
    later = [floor_power(n, 0.88, 0.95, 0.9) for n in range(115, 400)]
    assert min(later) >= TARGET > floor_power(114, 0.88, 0.95, 0.9)
    assert not check_powers(policy, {"triage": 114})[0].decides


def test_the_traps() -> None:
    # At 300 questions a floor of 0.99 needs 300 of 300, and no suite decides what is nearly as strict as the truth.
    strict = GatePolicy(min={"json_validity": 0.99}, assumed={"json_validity": 0.998})
    (found,) = check_powers(strict, {"triage": 300})
    assert found.power == pytest.approx(0.998**300)
    assert not found.decides
    hopeless = GatePolicy(min={"json_validity": 0.99}, assumed={"json_validity": 0.99})
    assert check_powers(hopeless, {"triage": 10**6})[0].needed == MOST + 1


def test_too_few_questions_have_no_power_whatever_the_limit() -> None:
    policy = GatePolicy(min={"exact_match": 0.0}, assumed={"exact_match": 1.0}, min_questions=50)
    (found,) = check_powers(policy, {"other": 49})
    assert (found.power, found.needed, found.decides) == (0.0, 50, False)


def test_metrics_go_by_their_strata() -> None:
    counts = {"triage": 120, "grounded": 40, "disallowed": 30, "benign": 20}
    assert questions_of("json_validity", counts) == 120
    assert questions_of("false_refusals", counts) == 20
    assert questions_of("task_success", counts) == 210
    assert questions_of("exact_match", counts) == 0
