"""Scores a model's answers: outcomes per question, metrics with their intervals over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from throughline.contracts.errors import DataError
from throughline.contracts.evaluation import (
    LOWER_IS_BETTER,
    MEAN_METRICS,
    METRIC_DEFINITIONS,
    Answer,
    Evaluation,
    Metric,
    Question,
    SuiteSpec,
)
from throughline.contracts.text import shorten
from throughline.evaluation.intervals import effective_size, mean_interval, wilson
from throughline.evaluation.tasks import score_answer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def score(
    model: str,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    spec: SuiteSpec,
    *,
    seconds: float = 0.0,
) -> Evaluation:
    """Scores the answers to questions of one set.

    `METRIC_DEFINITIONS` says what each metric means. Shares have Wilson's interval, means a bootstrap one; both allow
    for questions that come in groups.

    Args:
        model: Name of what answered, e.g. its precision.
        questions: What `generate` was given.
        answers: One for each question, in any order.
        spec: The same as for `generate`.
        seconds: Wall time of the generation.

    Raises:
        DataError: If the answers are not those of the questions, or a tool's schema cannot be used.
    """
    by_id = _by_id(questions, answers)
    outcomes: dict[str, dict[str, float]] = {}
    weights: dict[str, dict[str, float]] = {}
    for question in questions:
        outcomes[question.id], weight = score_answer(question, by_id[question.id], spec)
        if weight:
            weights[question.id] = weight
    found = dict.fromkeys(name for outcome in outcomes.values() for name in outcome)
    names = sorted(found, key=_rank)
    groups = {question.id: question.group for question in questions if question.group}
    scored = Evaluation(model, {}, outcomes, seconds, len(questions), weights, groups)
    return replace(scored, metrics={name: _metric(name, scored, spec) for name in names})


def _by_id(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, Answer]:
    wanted = Counter(question.id for question in questions)
    given = Counter(answer.id for answer in answers)
    if wanted != given:
        missing, extra = list((wanted - given).elements()), list((given - wanted).elements())
        raise DataError(
            "answers are not those of the questions",
            where=f"{len(answers)} answers, {len(questions)} questions",
            seen=f"missing {shorten(missing)}, extra {shorten(extra)}",
            fix="score with the questions that the answers were generated for",
        )
    return {answer.id: answer for answer in answers}


_ORDER = {name: index for index, name in enumerate(METRIC_DEFINITIONS)}


def _rank(name: str) -> float:
    """Order of the definitions; the fields' accuracies follow the field F1."""
    return _ORDER.get(name, _ORDER["triage_field_f1"] + 0.5)


def share_interval(evaluation: Evaluation, name: str, confidence: float) -> tuple[float, float]:
    """Returns Wilson's interval of a share of questions, with the effective size of questions that come in groups."""
    column = evaluation.column(name)
    values = list(column.values())
    size = effective_size(values, evaluation.groups_of(column), confidence)
    return wilson(sum(values) / len(values) * size, size, confidence)


def _weighted_mean(values: Floats, weights: Floats) -> float:
    """Σ w·v / Σ w, and 0 without any weight."""
    mass = float(weights.sum())
    return float((values * weights).sum()) / mass if mass else 0.0


def _metric(name: str, evaluation: Evaluation, spec: SuiteSpec) -> Metric:
    import numpy as np

    column = evaluation.column(name)
    groups = evaluation.groups_of(column)
    values = np.array(list(column.values()), dtype=np.float64)
    weights = np.array([evaluation.weights.get(key, {}).get(name, 1.0) for key in column], dtype=np.float64)
    if name in MEAN_METRICS:
        low, high = mean_interval(
            values, weights, groups, confidence=spec.confidence, samples=spec.bootstrap_samples, seed=spec.seed
        )
    else:
        low, high = share_interval(evaluation, name, spec.confidence)
    value = _weighted_mean(values, weights)
    return Metric(name, value, low, high, values.size, name not in LOWER_IS_BETTER, len(set(groups)))
