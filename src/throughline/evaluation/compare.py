"""Compares two models on the same questions: paired difference with its interval, McNemar's exact test."""

from __future__ import annotations

import math

from throughline.contracts.errors import DataError
from throughline.contracts.evaluation import LOWER_IS_BETTER, Comparison, Evaluation
from throughline.contracts.text import did_you_mean, shorten
from throughline.evaluation.intervals import paired_interval
from throughline.evaluation.suite import column, weighted_mean


def compare(
    reference: Evaluation,
    candidate: Evaluation,
    metric: str,
    *,
    confidence: float = 0.95,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compares `candidate` with `reference` on one metric, question by question.

    Where they never differ the interval has no width, which says that no difference was seen among `n`.

    Raises:
        DataError: If neither has the metric or they were asked different questions.
    """
    ids, a, a_weights = column(metric, reference.outcomes, reference.weights)
    others, b, b_weights = column(metric, candidate.outcomes, candidate.weights)
    if not ids and not others:
        raise DataError("no question bears on this metric", where=metric, fix=did_you_mean(metric, reference.metrics))
    if set(ids) != set(others):
        raise DataError(
            "evaluations are of different questions",
            where=metric,
            seen=f"not in both: {shorten(sorted(set(ids) ^ set(others)))}",
            fix="evaluate both models on the same acceptance set",
        )
    position = {key: index for index, key in enumerate(others)}
    order = [position[key] for key in ids]
    b, b_weights = b[order], b_weights[order]
    low, high = paired_interval(
        (a, a_weights), (b, b_weights), confidence=confidence, samples=bootstrap_samples, seed=seed
    )
    binary = bool(((a == 0) | (a == 1)).all() and ((b == 0) | (b == 1)).all())
    only_reference, only_candidate = int(((a == 1) & (b != 1)).sum()), int(((a != 1) & (b == 1)).sum())
    value, other = weighted_mean(a, a_weights), weighted_mean(b, b_weights)
    return Comparison(
        metric=metric,
        reference=value,
        candidate=other,
        difference=other - value,
        low=low,
        high=high,
        n=len(ids),
        only_reference=only_reference,
        only_candidate=only_candidate,
        p_value=mcnemar(only_reference, only_candidate) if binary else None,
        higher_is_better=metric not in LOWER_IS_BETTER,
    )


def mcnemar(only_reference: int, only_candidate: int) -> float:
    """Returns McNemar's exact two-sided p: how often a fair coin splits these pairs at least as unevenly."""
    n = only_reference + only_candidate
    tail = sum(math.comb(n, k) for k in range(min(only_reference, only_candidate) + 1))
    return min(1.0, tail / 2 ** (n - 1)) if n else 1.0
