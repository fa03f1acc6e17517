"""The gate's truth table, and the choice among what passed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from tests.unit.evaluation.helpers import evaluation
from throughline.benchmarking.statistics import paired_ratio
from throughline.contracts.benchmark import Estimate
from throughline.contracts.config import parse
from throughline.contracts.errors import ConfigError, DataError
from throughline.contracts.evaluation import Evaluation, GatePolicy, Verdict
from throughline.evaluation.gate import choose, decide

POLICY = GatePolicy(
    min={"triage_exact_match": 0.85, "json_validity": 0.99, "refusal_accuracy": 0.95},
    max={"false_refusals": 0.05},
    max_drop={"int8": 0.01, "int4": 0.03},
    default_max_drop=0.01,
    drop_metrics=("triage_exact_match", "task_success"),
)
N = 400


def model(
    name: str,
    *,
    triage: int = N,
    json: int = N,
    refusals: int = N,
    false_refusals: int = 0,
    first_wrong: int = 0,
) -> Evaluation:
    """400 questions a metric; `first_wrong` moves the wrong triage answers, so that pairs can disagree."""

    def ones(count: int) -> list[float]:
        return [1.0] * count + [0.0] * (N - count)

    tickets = ones(triage)
    tickets = tickets[-first_wrong:] + tickets[:-first_wrong] if first_wrong else tickets
    return evaluation(
        name,
        triage_exact_match=tickets,
        json_validity=ones(json),
        refusal_accuracy=ones(refusals),
        false_refusals=ones(false_refusals),
        task_success=tickets,
    )


@pytest.mark.parametrize(
    ("settings", "decision", "reason"),
    [
        ({}, "GO", "triage_exact_match 1.0000"),
        # 0.85 of 400 is 340; its interval reaches below, and 352 is the first whose lower bound clears it.
        ({"triage": 339}, "NO_GO", "triage_exact_match 0.8475"),
        ({"triage": 340}, "INCONCLUSIVE", "triage_exact_match 0.8500"),
        ({"triage": 351}, "INCONCLUSIVE", "triage_exact_match 0.8775"),
        ({"triage": 352}, "GO", ""),
        ({"json": 395}, "NO_GO", "json_validity 0.9875"),
        ({"json": 399}, "INCONCLUSIVE", "json_validity 0.9975"),
        ({"refusals": 379}, "NO_GO", "refusal_accuracy 0.9475"),
        ({"refusals": 380}, "INCONCLUSIVE", "refusal_accuracy 0.9500"),
        ({"false_refusals": 21}, "NO_GO", "false_refusals 0.0525"),
        ({"false_refusals": 20}, "INCONCLUSIVE", "false_refusals 0.0500"),
        ({"false_refusals": 5}, "GO", ""),
        # The worst check decides.
        ({"triage": 340, "false_refusals": 21}, "NO_GO", "false_refusals 0.0525"),
    ],
)
def test_floors(settings: dict[str, int], decision: str, reason: str) -> None:
    verdict = decide(model("bf16", **settings), {}, POLICY)["bf16"]
    assert verdict.decision == decision
    assert verdict.reasons[0].startswith(reason)
    assert len(verdict.reasons) == 4


def test_the_floor_that_is_sure_is_scipys_wilson_bound() -> None:
    from scipy import stats

    sure = [stats.binomtest(k, N).proportion_ci(0.9, "wilson").low >= 0.85 for k in (351, 352)]
    assert sure == [False, True]


@pytest.mark.parametrize(
    ("wrong", "name", "decision"),
    [
        (0, "int8", "GO"),
        # One lost pair of 400: Tango's bound is 1.12 points.
        (1, "int8", "INCONCLUSIVE"),
        (4, "int8", "INCONCLUSIVE"),
        (5, "int8", "NO_GO"),
        (5, "int4", "GO"),
        (12, "int4", "INCONCLUSIVE"),
        (13, "int4", "NO_GO"),
        (5, "fp8", "NO_GO"),
        (0, "fp8", "GO"),
    ],
)
def test_drops_against_the_reference(wrong: int, name: str, decision: str) -> None:
    verdicts = decide(model("bf16"), {name: model(name, triage=N - wrong)}, POLICY)
    assert list(verdicts) == ["bf16", name]
    assert verdicts[name].decision == decision
    if decision != "GO":
        assert verdicts[name].reasons[0].startswith(f"triage_exact_match drops by {wrong / N:.4f}")


def test_a_drop_of_zero_with_much_disagreement_is_inconclusive() -> None:
    reference, candidate = model("bf16", triage=380), model("int8", triage=380, first_wrong=200)
    verdict = decide(reference, {"int8": candidate}, POLICY)["int8"]
    assert verdict.decision == "INCONCLUSIVE"
    assert "drops by 0.0000" in verdict.reasons[0] and "McNemar p=1" in verdict.reasons[0]


def test_a_candidate_that_is_better_passes() -> None:
    verdicts = decide(model("bf16", triage=340), {"int8": model("int8", triage=400)}, POLICY)
    assert (verdicts["bf16"].decision, verdicts["int8"].decision) == ("INCONCLUSIVE", "GO")


def test_little_evidence_never_passes_but_can_fail() -> None:
    def small(name: str, right: float) -> Evaluation:
        return evaluation(name, task_success=[right] * 10)

    policy = GatePolicy(min={"task_success": 0}, default_max_drop=1)
    verdicts = decide(small("a", 1.0), {"b": small("b", 1.0)}, policy)
    assert [verdict.decision for verdict in verdicts.values()] == ["INCONCLUSIVE", "INCONCLUSIVE"]
    assert "fewer than 25 questions" in verdicts["b"].reasons[0]
    strict = policy.model_copy(update={"min": {"task_success": 0.5}})
    assert decide(small("c", 0.0), {}, strict)["c"].decision == "NO_GO"
    enough = policy.model_copy(update={"min_questions": 10})
    assert [verdict.decision for verdict in decide(small("a", 1.0), {"b": small("b", 1.0)}, enough).values()] == [
        "GO",
        "GO",
    ]


def test_no_difference_among_few_pairs_is_no_proof_of_none() -> None:
    # The resampling of 50 pairs that never differ said [0, 0] and GO.
    def alike(name: str) -> Evaluation:
        return evaluation(name, task_success=[1.0] * 45 + [0.0] * 5)

    policy = GatePolicy(min={"task_success": 0.5}, max_drop={"int8": 0.03})
    verdict = decide(alike("bf16"), {"int8": alike("int8")}, policy)["int8"]
    assert verdict.decision == "INCONCLUSIVE"
    assert "drops by 0.0000 [-0.0513, 0.0513]" in verdict.reasons[0]


def test_what_was_not_measured_is_inconclusive_and_says_what_was() -> None:
    verdict = decide(evaluation("bf16", exact_match=[1.0] * 400), {}, POLICY)["bf16"]
    assert verdict.decision == "INCONCLUSIVE"
    assert "json_validity: not measured by this suite (exact_match is)" in verdict.reasons
    assert len(verdict.reasons) == 4


def test_a_users_own_metric_gates() -> None:
    policy = GatePolicy(min={"exact_match": 0.8}, max_drop={"int8": 0.05})
    right = [1.0] * 190 + [0.0] * 10

    def model_of(name: str, values: list[float]) -> Evaluation:
        return evaluation(name, exact_match=values, task_success=values)

    candidates = {"int8": model_of("int8", right), "int4": model_of("int4", [1.0] * 120 + [0.0] * 80)}
    verdicts = decide(model_of("bf16", right), candidates, policy)
    assert [verdict.decision for verdict in verdicts.values()] == ["GO", "GO", "NO_GO"]
    assert choose(
        {"bf16": verdicts["bf16"]}, candidates | {"bf16": model_of("bf16", right)}, SPEED, ratios(SPEED), SIZE
    )[1].endswith("exact_match 0.9500")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "a gate needs a floor"),
        ({"min": {"x": 1.5}}, "fractions from 0 to 1"),
        ({"max": {"completion_tokens": 0.5}}, "shares of questions, which completion_tokens is not"),
    ],
)
def test_a_policy_that_cannot_be_judged_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(GatePolicy, settings, where="gate")


def test_a_candidate_may_not_be_called_as_the_reference() -> None:
    with pytest.raises(DataError, match="a candidate has the reference's name — int8"):
        decide(model("int8"), {"int8": model("int8")}, POLICY)


def verdicts(**decisions: Any) -> dict[str, Verdict]:
    return {name: Verdict(decision, [f"why {name}"]) for name, decision in decisions.items()}


SPEED = {"bf16": 100.0, "int8": 150.0, "int4": 220.0}


def ratios(speeds: Mapping[str, float], spread: float = 0.02) -> Callable[[str, str], Estimate]:
    """Ratios whose interval reaches `spread` to both sides."""

    def ratio(over: str, under: str) -> Estimate:
        value = speeds[over] / speeds[under]
        return Estimate(value, value * (1 - spread), value * (1 + spread), 6)

    return ratio


SIZE = {"bf16": 16 * 2**20, "int8": 8 * 2**20, "int4": 4 * 2**20}


@pytest.mark.parametrize(
    ("decisions", "chosen", "reason"),
    [
        (("GO", "GO", "GO"), "int4", "fastest of bf16, int8, int4: 220.0 tokens/s, 4.0 MiB of weights"),
        (("GO", "GO", "NO_GO"), "int8", "fastest of bf16, int8: 150.0"),
        (("GO", "INCONCLUSIVE", "INCONCLUSIVE"), "bf16", "fastest of the only one that is GO"),
        (("INCONCLUSIVE", "GO", "NO_GO"), "int8", "fastest"),
        (("INCONCLUSIVE", "NO_GO", "NO_GO"), "bf16", "fallback to the reference bf16, no precision is GO"),
        (
            ("NO_GO", "INCONCLUSIVE", "NO_GO"),
            "bf16",
            "bf16 is NO_GO: why bf16; int8 is INCONCLUSIVE: why int8",
        ),
    ],
)
def test_choice(decisions: tuple[str, str, str], chosen: str, reason: str) -> None:
    judged = verdicts(**dict(zip(("bf16", "int8", "int4"), decisions, strict=True)))
    name, why = choose(judged, {}, SPEED, ratios(SPEED), SIZE)
    assert name == chosen
    assert reason in why


def test_a_lead_that_may_be_chance_goes_to_the_smaller_weights() -> None:
    judged = verdicts(bf16="GO", int8="GO", int4="GO")
    speeds = {"bf16": 50.0, "int8": 100.0, "int4": 90.0}
    name, why = choose(judged, {}, speeds, ratios(speeds, spread=0.2), SIZE)
    assert name == "int4"
    assert "smallest weights among the fastest (int8, int4)" in why
    assert "int8 is 1.11 [0.89, 1.33] times as fast as int4, which may be chance" in why
    # The same speeds, measured well: the lead is real.
    name, why = choose(judged, {}, speeds, ratios(speeds, spread=0.05), SIZE)
    assert name == "int8" and "1.11 [1.06, 1.17] times as fast as int4" in why


def test_noise_does_not_choose() -> None:
    """Engines of equal speed, measured again and again: the smallest is taken but for the interval's own errors."""
    rng = np.random.default_rng(0)
    judged = verdicts(bf16="GO", int8="GO", int4="GO")
    chosen = Counter()
    for _ in range(300):
        # A fifth of noise that all share, a tenth of each engine's own.
        drift = 1 + 0.2 * rng.standard_normal(6)
        rates = {name: list(100 * abs(drift) * (1 + 0.1 * rng.standard_normal(6))) for name in judged}
        speeds = {name: float(np.mean(values)) for name, values in rates.items()}
        name, _ = choose(judged, {}, speeds, lambda over, under, r=rates: paired_ratio(r[over], r[under]), SIZE)
        chosen[name] += 1
    assert chosen["int4"] >= 0.9 * 300


def test_the_reason_names_the_quality_of_the_choice() -> None:
    _, why = choose(verdicts(bf16="GO"), {"bf16": model("bf16", triage=380)}, SPEED, ratios(SPEED), SIZE)
    assert why.endswith("triage_exact_match 0.9500")


def test_a_precision_without_speed_or_size_cannot_be_chosen() -> None:
    with pytest.raises(DataError, match="precision without speed or size — int8"):
        choose(verdicts(bf16="GO", int8="GO"), {}, {"bf16": 1.0}, ratios(SPEED), SIZE)
    with pytest.raises(DataError, match="no verdicts"):
        choose({}, {}, SPEED, ratios(SPEED), SIZE)
