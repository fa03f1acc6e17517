"""Compares two models on the same questions: paired difference with its interval, McNemar's exact test."""

from __future__ import annotations

from throughline.contracts.errors import DataError
from throughline.contracts.evaluation import LOWER_IS_BETTER, MEAN_METRICS, Comparison, Evaluation
from throughline.contracts.text import did_you_mean, shorten
from throughline.evaluation.intervals import effective_size, tango


def compare(reference: Evaluation, candidate: Evaluation, metric: str, *, confidence: float = 0.95) -> Comparison:
    """Compares `candidate` with `reference` on a share of questions, question by question.

    The interval is Tango's, with the effective size of questions that come in groups; its width never vanishes,
    however alike the two are. McNemar's p takes every question for itself.

    Raises:
        DataError: If neither has the metric, it is no share of questions, or they were asked different questions.
    """
    if metric in MEAN_METRICS:
        raise DataError("only shares of questions are compared in pairs", where=metric, fix="take a metric of 0 and 1")
    a, b = _outcomes(reference, metric), _outcomes(candidate, metric)
    if not a and not b:
        raise DataError("no question bears on this metric", where=metric, fix=did_you_mean(metric, reference.metrics))
    if a.keys() != b.keys():
        raise DataError(
            "evaluations are of different questions",
            where=metric,
            seen=f"not in both: {shorten(sorted(a.keys() ^ b.keys()))}",
            fix="evaluate both models on the same questions",
        )
    n = len(a)
    groups = reference.groups_of(a)
    size = effective_size([float(b[key]) - float(a[key]) for key in a], groups, confidence)
    only_reference = sum(a[key] and not b[key] for key in a)
    only_candidate = sum(b[key] and not a[key] for key in a)
    low, high = tango(only_reference * size / n, only_candidate * size / n, size, confidence)
    return Comparison(
        metric=metric,
        reference=sum(a.values()) / n,
        candidate=sum(b.values()) / n,
        difference=(only_candidate - only_reference) / n,
        low=low,
        high=high,
        n=n,
        only_reference=only_reference,
        only_candidate=only_candidate,
        p_value=mcnemar(only_reference, only_candidate),
        higher_is_better=metric not in LOWER_IS_BETTER,
        groups=len(set(groups)),
    )


def mcnemar(only_reference: int, only_candidate: int) -> float:
    """Returns McNemar's exact two-sided p: how often a fair coin splits these pairs at least as unevenly."""
    from scipy.stats import binomtest

    n = only_reference + only_candidate
    return float(binomtest(only_reference, n, 0.5).pvalue) if n else 1.0


def _outcomes(evaluation: Evaluation, metric: str) -> dict[str, bool]:
    return {key: value == 1 for key, value in evaluation.column(metric).items()}
