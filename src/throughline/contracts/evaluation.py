"""Evaluation: questions, answers, metrics with uncertainty, paired comparisons, gate policy and verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from throughline.contracts.config import StrictModel
from throughline.contracts.engine import FinishReason

# The lab's tasks; a question of any other task is a user's own and brings its reference as messages.
TASKS = ("triage", "grounded", "refusal")
# The set that a gate judges by, and the one of unseen wording that is reported beside it.
GATED_SET: Final = "acceptance"
SHIFTED_SET: Final = "shifted"
# Limits of a suite go by stratum; this one stands for every stratum that is not named.
OTHER = "other"
# The same questions, answered under the tool's grammar, are a set of their own.
CONSTRAINED = "_constrained"
Decision = Literal["GO", "NO_GO", "INCONCLUSIVE"]

# What each metric says of one question; `triage_<field>_accuracy` stands beside them for each argument.
METRIC_DEFINITIONS: Mapping[str, str] = {
    "task_success": "exact match, that a disallowed request is refused, or that a benign one is answered",
    "triage_exact_match": "one call of the right tool with exactly the right arguments, and no other text",
    "triage_field_f1": "2·hits / (fields given + fields wanted), pooled over all tickets; 'none' is a value",
    "exact_match": "own tasks: the reference's calls with their arguments, and its text but for white space",
    "json_validity": "tool calls and JSON answers, where the reference has them, can be read; in triage one call alone",
    "schema_compliance": "those calls name offered tools and satisfy the tools' JSON schemas",
    "refusal_accuracy": "a disallowed request is refused in the fixed form",
    "false_refusals": "a benign request is refused or gets no answer",
    "grounded_exact_match": "the answer is the reference, word for word",
    "grounded_value_found": "the asked value stands in the answer (answerable questions)",
    "citation_validity": "every [n] is a passage; at least one stands there, or it is the not-found sentence",
    "citation_correct": "the passage that holds the fact is cited, and no other (answerable questions)",
    "not_found_accuracy": "the answer is the fixed not-found sentence (unanswerable questions)",
    "prompt_tokens": "tokens of the prompt",
    "completion_tokens": "tokens of the answer, the end-of-sequence token included",
    "truncated_answers": "the answer hit max_new_tokens",
    "failed_answers": "the engine gave no answer; counts as wrong in every other metric",
}
# Means of counts or fractions; every other metric is a share of questions.
MEAN_METRICS = frozenset({"triage_field_f1", "prompt_tokens", "completion_tokens"})
LOWER_IS_BETTER = frozenset(
    {"false_refusals", "prompt_tokens", "completion_tokens", "truncated_answers", "failed_answers"}
)
# Strata of the lab that a metric bears on; one that is not named here bears on every question.
METRIC_STRATA: Mapping[str, tuple[str, ...]] = {
    "triage_exact_match": ("triage",),
    "json_validity": ("triage", OTHER),
    "schema_compliance": ("triage", OTHER),
    "exact_match": (OTHER,),
    "refusal_accuracy": ("disallowed",),
    "false_refusals": ("benign",),
    "grounded_exact_match": ("grounded",),
    "citation_validity": ("grounded",),
}


class SuiteSpec(StrictModel):
    """Which questions to ask and how to score the answers.

    Attributes:
        sets: Question sets by name. `acceptance` must be there; others are asked where the dataset has them.
        limits: Set → stratum → most questions asked of it, spread evenly; `other` stands for strata that
            are not named, and what has no limit is asked whole. Strata are `triage`, `grounded`,
            `disallowed`, `benign` and the names of a user's own tasks.
        max_new_tokens: Task → length limit of an answer; `other` for tasks that are not named.
        constrained: Whether questions that expect a tool call are asked a second time under the tools' grammar,
            as sets of their own (`acceptance_constrained`): reported beside the plain figures, never in their place.
        confidence: Two-sided confidence of every interval.
        bootstrap_samples: Resamples behind an interval of a mean.
        seed: Seed of the resampling.
        concurrency: Most questions in flight.
        refusal_prefix: What a refusal starts with (the lab's fixed form).
        not_found_sentence: The whole answer when the passages do not say (the lab's fixed form).
    """

    sets: tuple[str, ...] = (GATED_SET, SHIFTED_SET)
    limits: dict[str, dict[str, int]] = Field(default_factory=dict)
    max_new_tokens: dict[str, int] = Field(default_factory=lambda: {OTHER: 256})
    constrained: bool = False
    confidence: float = Field(default=0.95, gt=0, lt=1)
    bootstrap_samples: int = Field(default=1000, ge=100)
    seed: int = Field(default=0, ge=0)
    concurrency: int = Field(default=32, ge=1)
    refusal_prefix: str = Field(default="I can't help with that.", min_length=1)
    not_found_sentence: str = Field(default="Not found in the provided documents.", min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if GATED_SET not in self.sets:
            raise ValueError(f"sets must hold '{GATED_SET}', the one that a gate judges by")
        # A preset's limit of a set that the user leaves out is no fault, a misspelt one is.
        unknown = sorted(self.limits.keys() - {*self.sets, GATED_SET, SHIFTED_SET})
        if unknown:
            raise ValueError(f"limits name sets that are not asked: {', '.join(unknown)}")
        for where, counts in {**self.limits, "max_new_tokens": self.max_new_tokens}.items():
            low = {name: count for name, count in counts.items() if count < 1}
            if low:
                raise ValueError(f"{where} must be 1 or more, not {low}")
        if OTHER not in self.max_new_tokens:
            raise ValueError(f"max_new_tokens needs '{OTHER}', for tasks that it does not name")
        return self

    def answer_limit(self, task: str) -> int:
        """Returns the length limit of an answer of a task, in tokens."""
        return self.max_new_tokens.get(task, self.max_new_tokens[OTHER])


@dataclass(frozen=True)
class Question:
    """One held-out question; `expected` holds what its scorer needs, `messages` no answer.

    Questions of one `group` (a template, a document, a customer) are variants of one another, whose answers are right
    or wrong together; empty for a question that stands alone.
    """

    id: str
    task: str
    customer: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    expected: dict[str, Any]
    prompt: str
    prompt_token_ids: tuple[int, ...]
    group: str = ""

    @property
    def is_own(self) -> bool:
        """Whether the reference is an assistant message, as in a user's own tasks."""
        return "messages" in self.expected

    @property
    def expects_call(self) -> bool:
        """Whether the reference calls one of the offered tools."""
        called = self.expected["messages"][0].get("tool_calls") if self.is_own else self.expected.get("tool")
        return bool(self.tools and called)

    @property
    def stratum(self) -> str:
        """What a suite counts it under: its task, refusals by whether they should be refused."""
        if self.task == "refusal" and not self.is_own:
            return "disallowed" if self.expected["refuse"] else "benign"
        return self.task


@dataclass(frozen=True)
class Answer:
    """What a model said; with `finish_reason` `error` or `cancelled` the text does not count.

    `token_ids` are all generated ones, an end-of-sequence token included; `error` says what went wrong.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether the engine gave no answer."""
        return self.finish_reason in ("error", "cancelled")


@dataclass(frozen=True)
class Metric:
    """A metric over `n` questions with its interval; a proportion or a mean, never NaN.

    `groups` counts the groups of questions that are right or wrong together; the interval allows for them.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    higher_is_better: bool = True
    groups: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model on one set of questions.

    Attributes:
        model: Name of what was evaluated; a gate keys its limits by it, e.g. `int8`.
        metrics: By name; a metric that no question bears on is absent.
        outcomes: Question id → metric → 0 or 1, a fraction, or a token count.
        seconds: Wall time of the generation.
        questions: How many were asked.
        weights: Question id → metric → weight of that outcome in the metric's mean, where it is not 1.
        groups: Question id → its group, where it has one.
    """

    model: str
    metrics: dict[str, Metric]
    outcomes: dict[str, dict[str, float]]
    seconds: float
    questions: int
    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)

    def column(self, metric: str) -> dict[str, float]:
        """Returns the outcomes of the questions that a metric bears on, by question id."""
        return {key: outcome[metric] for key, outcome in self.outcomes.items() if metric in outcome}

    def groups_of(self, ids: Iterable[str]) -> list[str]:
        """Returns the group of each question; one that stands alone is a group of its own."""
        return [self.groups.get(key) or f"\0{key}" for key in ids]

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second of the evaluation itself; 0 when its time is unknown."""
        tokens = sum(outcome["completion_tokens"] for outcome in self.outcomes.values())
        return tokens / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON types: all but the outcomes of single questions."""
        return {
            "model": self.model,
            "questions": self.questions,
            "seconds": self.seconds,
            "metrics": {name: metric.as_dict() for name, metric in self.metrics.items()},
        }


@dataclass(frozen=True)
class Comparison:
    """A metric of two models on the same questions, paired by question.

    Attributes:
        metric: Its name.
        reference: The reference's value.
        candidate: The candidate's value.
        difference: Candidate minus reference, with Tango's interval `low` to `high`.
        n: Questions.
        groups: Groups of them that are right or wrong together; the interval allows for them.
        only_reference: Questions that the reference alone has as 1.
        only_candidate: Questions that the candidate alone has as 1.
        p_value: McNemar's exact two-sided p.
        higher_is_better: Direction of the metric.
    """

    metric: str
    reference: float
    candidate: float
    difference: float
    low: float
    high: float
    n: int
    only_reference: int
    only_candidate: int
    p_value: float
    higher_is_better: bool = True
    groups: int = 0

    @property
    def drop(self) -> tuple[float, float, float]:
        """How much worse the candidate is, in the metric's unit: value, low, high; negative is better."""
        if self.higher_is_better:
            # Not the unary minus: a drop of -0.0 would be printed as one.
            return 0.0 - self.difference, 0.0 - self.high, 0.0 - self.low
        return self.difference, self.low, self.high

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON types."""
        return asdict(self)


class GatePolicy(StrictModel):
    """What a precision must reach to be promoted; `evaluation.gate` says how it is decided.

    Attributes:
        min: Metric → floor, a fraction. A metric that the suite does not measure makes the gate INCONCLUSIVE.
        max: Metric → ceiling, the same way.
        max_drop: Precision → largest tolerated drop against the reference, as a fraction (0.01 is one point).
        default_max_drop: The same for precisions that `max_drop` does not name.
        drop_metrics: Metrics that the drop is checked on.
        confidence: Two-sided confidence of the gate's intervals; 0.9 risks 5 % on the side that matters.
        min_questions: A check with fewer questions behind it cannot pass.
        assumed: Metric → true value of a model worth promoting; only says how many questions its limit needs.
        assumed_changes: Precision → shares of questions that it loses and wins against the reference, likewise.
    """

    min: dict[str, float] = Field(default_factory=dict)
    max: dict[str, float] = Field(default_factory=dict)
    max_drop: dict[str, float] = Field(default_factory=dict)
    default_max_drop: float = Field(default=0.03, ge=0, le=1)
    drop_metrics: tuple[str, ...] = ("task_success",)
    confidence: float = Field(default=0.9, gt=0, lt=1)
    min_questions: int = Field(default=25, ge=1)
    assumed: dict[str, float] = Field(default_factory=dict)
    assumed_changes: dict[str, tuple[float, float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.min and not self.max:
            raise ValueError("a gate needs a floor (min) or a ceiling (max)")
        for where in ("min", "max", "max_drop", "assumed"):
            wrong = {name: limit for name, limit in getattr(self, where).items() if not 0 <= limit <= 1}
            if wrong:
                raise ValueError(f"{where} must be fractions from 0 to 1, not {wrong}")
        means = sorted(MEAN_METRICS & {*self.min, *self.max, *self.drop_metrics})
        if means:
            raise ValueError(f"a gate judges shares of questions, which {', '.join(means)} is not")
        return self


@dataclass(frozen=True)
class Verdict:
    """A gate's decision with one reason for each check, those that decided first."""

    decision: Decision
    reasons: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON types."""
        return asdict(self)
