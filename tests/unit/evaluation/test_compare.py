"""Paired comparison against scipy, brute force and hand-made tables."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.unit.evaluation.helpers import answer, call, evaluation, triage
from throughline.contracts.errors import DataError
from throughline.contracts.evaluation import SuiteSpec
from throughline.evaluation.compare import compare, mcnemar
from throughline.evaluation.suite import score


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
    assert (found.low, found.high) == (0.0, 0.0)


def test_the_interval_is_that_of_all_resamples() -> None:
    reference, candidate = [1.0, 1.0, 0.0, 0.5], [0.0, 1.0, 0.25, 0.5]
    deltas = np.array(candidate) - np.array(reference)
    every = [deltas[list(draw)].mean() for draw in itertools.product(range(4), repeat=4)]
    found = compare(
        evaluation("a", x=reference),
        evaluation("b", x=candidate),
        "x",
        confidence=0.8,
        bootstrap_samples=20_000,
    )
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(every, (10, 90))), abs=0.06)
    assert found.p_value is None


def test_field_f1_is_compared_as_it_is_reported() -> None:
    asked = [triage("a"), triage("b")]
    whole, part = call(asked[0].expected["arguments"]), call({"severity": "high"})
    first = score("a", asked, [answer(whole, "a"), answer(whole, "b")], SuiteSpec())
    second = score("b", asked, [answer(whole, "a"), answer(part, "b")], SuiteSpec())
    found = compare(first, second, "triage_field_f1")
    assert found.reference == first.metrics["triage_field_f1"].value
    assert found.candidate == second.metrics["triage_field_f1"].value == pytest.approx(6 / 7)


def test_different_questions_cannot_be_compared() -> None:
    with pytest.raises(DataError, match=r"different questions.*'3'"):
        compare(evaluation("a", x=[1, 1, 1]), evaluation("b", x=[1, 1, 1, 1]), "x")
    with pytest.raises(DataError, match="did you mean 'accuracy'"):
        compare(evaluation("a", accuracy=[1]), evaluation("b", accuracy=[1]), "acuracy")
