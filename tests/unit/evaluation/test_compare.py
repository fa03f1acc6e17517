"""Paired comparison against scipy, brute force and hand-made tables."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.unit.evaluation.helpers import evaluation
from throughline.contracts.errors import DataError
from throughline.evaluation.compare import compare, mcnemar
from throughline.evaluation.intervals import tango


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    expected = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_is_what_all_coin_sequences_say() -> None:
    for b, c in itertools.product(range(6), range(6)):
        flips = list(itertools.product((0, 1), repeat=b + c))
        uneven = [flip for flip in flips if abs(2 * sum(flip) - b - c) >= abs(b - c)]
        assert mcnemar(b, c) == pytest.approx(len(uneven) / len(flips))


def test_the_table_and_the_difference() -> None:
    found = compare(evaluation("bf16", x=[1, 1, 1, 0, 0]), evaluation("int8", x=[1, 0, 0, 1, 0]), "x")
    assert (found.reference, found.candidate) == (0.6, 0.4)
    assert found.difference == pytest.approx(-0.2)
    assert (found.only_reference, found.only_candidate, found.n) == (2, 1, 5)
    assert found.p_value == 1.0
    assert found.low <= found.difference <= found.high
    assert found.drop == (-found.difference, -found.high, -found.low)


def test_the_drop_of_a_lower_is_better_metric_is_its_rise() -> None:
    reference, candidate = (
        evaluation("a", false_refusals=[0, 0, 0, 0]),
        evaluation("b", false_refusals=[1, 0, 0, 0]),
    )
    found = compare(reference, candidate, "false_refusals")
    assert found.drop[0] == found.difference == 0.25


def test_pairs_go_by_question_not_by_position() -> None:
    reference, candidate = evaluation("a", x=[1, 1, 0]), evaluation("b", x=[1, 1, 0])
    candidate = type(candidate)("b", candidate.metrics, dict(reversed(candidate.outcomes.items())), 1.0, 3)
    found = compare(reference, candidate, "x")
    assert (found.only_reference, found.only_candidate) == (0, 0)
    assert found.low == -found.high and found.p_value == 1.0


def test_the_interval_is_tangos() -> None:
    reference, candidate = evaluation("a", x=[1, 1, 1, 0] * 10), evaluation("b", x=[0, 1, 1, 0] + [1, 1, 1, 0] * 9)
    found = compare(reference, candidate, "x", confidence=0.8)
    assert (found.low, found.high) == tango(1, 0, 40, 0.8)
    assert found.difference == -1 / 40


def test_a_mean_is_not_compared() -> None:
    with pytest.raises(DataError, match="only shares of questions are compared in pairs — triage_field_f1"):
        compare(evaluation("a", triage_field_f1=[0.5]), evaluation("b", triage_field_f1=[0.5]), "triage_field_f1")


def test_different_questions_cannot_be_compared() -> None:
    with pytest.raises(DataError, match=r"different questions.*'3'"):
        compare(evaluation("a", x=[1, 1, 1]), evaluation("b", x=[1, 1, 1, 1]), "x")
    with pytest.raises(DataError, match="did you mean 'accuracy'"):
        compare(evaluation("a", accuracy=[1]), evaluation("b", accuracy=[1]), "acuracy")
