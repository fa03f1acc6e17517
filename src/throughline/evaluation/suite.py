"""Scores a model's answers: outcomes per question, metrics with their intervals over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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
from throughline.evaluation.intervals import mean_interval, wilson
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

    `METRIC_DEFINITIONS` says what each metric means. Shares have Wilson's interval, means a bootstrap one.

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
    metrics = {name: _metric(name, outcomes, weights, spec) for name in names}
    return Evaluation(model, metrics, outcomes, seconds, len(questions), weights)


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


def _column(
    name: str, outcomes: dict[str, dict[str, float]], weights: dict[str, dict[str, float]]
) -> tuple[Floats, Floats]:
    """Outcomes and weights of the questions that `name` bears on, shape [n] each."""
    import numpy as np

    ids = [key for key, outcome in outcomes.items() if name in outcome]
    values = np.array([outcomes[key][name] for key in ids], dtype=np.float64)
    weight = np.array([weights.get(key, {}).get(name, 1.0) for key in ids], dtype=np.float64)
    return values, weight


def _weighted_mean(values: Floats, weights: Floats) -> float:
    """Σ w·v / Σ w, and 0 without any weight."""
    mass = float(weights.sum())
    return float((values * weights).sum()) / mass if mass else 0.0


def _metric(
    name: str, outcomes: dict[str, dict[str, float]], weights: dict[str, dict[str, float]], spec: SuiteSpec
) -> Metric:
    values, weight = _column(name, outcomes, weights)
    if name in MEAN_METRICS:
        low, high = mean_interval(
            values, weight, confidence=spec.confidence, samples=spec.bootstrap_samples, seed=spec.seed
        )
    else:
        low, high = wilson(round(values.sum()), values.size, spec.confidence)
    return Metric(name, _weighted_mean(values, weight), low, high, values.size, name not in LOWER_IS_BETTER)
