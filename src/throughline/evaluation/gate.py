"""Decides which precision may be promoted, and which of those to serve.

A check compares a point estimate and its interval with a limit:

- NO_GO: the point estimate violates the limit.
- INCONCLUSIVE: it does not, but the interval reaches beyond the limit, fewer than `min_questions` questions
  stand behind it, or the suite does not measure the metric.
- GO: the whole interval keeps the limit.

A verdict is NO_GO if any check is, else INCONCLUSIVE if any check is, else GO. Floors use Wilson's interval,
drops Tango's for pairs, both at `policy.confidence`; questions that come in groups (variants of one template, questions
on one document) count for fewer, see `intervals.effective_size`. To clear a floor f even a perfect score needs
z²·f/(1 − f) questions: 268 for 0.99 at the default confidence; `evaluation.power` says what a limit needs of questions
that stand alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from throughline.contracts.benchmark import Estimate
from throughline.contracts.errors import DataError
from throughline.contracts.evaluation import MEAN_METRICS, Decision, Evaluation, GatePolicy, Verdict
from throughline.evaluation.compare import compare
from throughline.evaluation.suite import share_interval

# The first of these that was measured stands beside the choice.
_PRAISED = ("triage_exact_match", "exact_match")
_ORDER: tuple[Decision, ...] = ("NO_GO", "INCONCLUSIVE", "GO")


@dataclass(frozen=True)
class _Check:
    decision: Decision
    reason: str


def decide(reference: Evaluation, candidates: Mapping[str, Evaluation], policy: GatePolicy) -> dict[str, Verdict]:
    """Judges the reference by the limits, each candidate by the limits and its drop against the reference.

    Args:
        reference: Evaluation of the reference precision.
        candidates: Precision → evaluation on the same questions; the precision picks the limit in `max_drop`.
        policy: The limits.

    Returns:
        Name → verdict, the reference first under its `model` name.

    Raises:
        DataError: If a candidate has the reference's name or was asked different questions.
    """
    if reference.model in candidates:
        raise DataError(
            "a candidate has the reference's name",
            where=reference.model,
            fix="leave the reference out of the candidates",
        )
    verdicts = {reference.model: _verdict(_limits(reference, policy))}
    for name, candidate in candidates.items():
        limit = policy.max_drop.get(name, policy.default_max_drop)
        verdicts[name] = _verdict([*_limits(candidate, policy), *_drops(reference, candidate, limit, policy)])
    return verdicts


def choose(
    verdicts: Mapping[str, Verdict],
    evaluations: Mapping[str, Evaluation],
    tokens_per_second: Mapping[str, float],
    speed_ratio: Callable[[str, str], Estimate],
    weight_bytes: Mapping[str, int],
) -> tuple[str, str]:
    """Picks the fastest precision that is GO; where its lead may be chance, the one with the smallest weights.

    Two precisions are as fast as one another unless the interval of their ratio, measured in the same rounds,
    excludes 1.

    Args:
        verdicts: As `decide` returns them, the reference first.
        evaluations: Name → evaluation, for the reason's figures.
        tokens_per_second: Name → output tokens per second.
        speed_ratio: Two names → speed of the first over that of the second, with its interval.
        weight_bytes: Name → size of the weights on disk.

    Returns:
        The name and the reason. Without any GO it is the reference, and the reason says why nothing passed.

    Raises:
        DataError: If there are no verdicts, or a precision that is GO has no speed or size.
    """
    if not verdicts:
        raise DataError("no verdicts to choose from", fix="evaluate the reference at least")
    reference = next(iter(verdicts))
    passed = [name for name, verdict in verdicts.items() if verdict.decision == "GO"]
    if not passed:
        return reference, _fallback(reference, verdicts)
    for name in passed:
        if name not in tokens_per_second or name not in weight_bytes:
            raise DataError("precision without speed or size", where=name, fix="benchmark every precision that is GO")
    fastest = max(passed, key=lambda name: tokens_per_second[name])
    ratios = {name: speed_ratio(fastest, name) for name in passed if name != fastest}
    tied = [name for name in passed if name == fastest or ratios[name].low <= 1]
    chosen = min(tied, key=lambda name: weight_bytes[name])
    return chosen, _praise(chosen, passed, tied, ratios, evaluations, tokens_per_second, weight_bytes)


def _limits(evaluation: Evaluation, policy: GatePolicy) -> list[_Check]:
    floors = [_share(evaluation, name, limit, policy, floor=True) for name, limit in policy.min.items()]
    return floors + [_share(evaluation, name, limit, policy, floor=False) for name, limit in policy.max.items()]


def _share(evaluation: Evaluation, name: str, limit: float, policy: GatePolicy, *, floor: bool) -> _Check:
    metric = evaluation.metrics.get(name)
    if metric is None:
        return _unmeasured(name, evaluation)
    low, high = share_interval(evaluation, name, policy.confidence)
    wanted = "at least" if floor else "at most"
    size = f"n={metric.n}" + (f" in {metric.groups} groups" if 0 < metric.groups < metric.n else "")
    text = f"{name} {metric.value:.4f} [{low:.4f}, {high:.4f}], {wanted} {limit:g} wanted, {size}"
    violated, beyond = (metric.value < limit, low < limit) if floor else (metric.value > limit, high > limit)
    return _judge(text, violated=violated, beyond=beyond, n=metric.n, policy=policy)


def _drops(reference: Evaluation, candidate: Evaluation, limit: float, policy: GatePolicy) -> list[_Check]:
    checks = []
    for name in policy.drop_metrics:
        if name not in reference.metrics and name not in candidate.metrics:
            checks.append(_unmeasured(name, candidate))
            continue
        compared = compare(reference, candidate, name, confidence=policy.confidence)
        drop, low, high = compared.drop
        text = (
            f"{name} drops by {drop:.4f} [{low:.4f}, {high:.4f}] against {reference.model}, "
            f"at most {limit:g} tolerated, n={compared.n}, McNemar p={compared.p_value:.3g}"
        )
        checks.append(
            _judge(text, violated=_above(drop, limit), beyond=_above(high, limit), n=compared.n, policy=policy)
        )
    return checks


def _above(value: float, limit: float) -> bool:
    """Whether a difference of shares is above the limit by more than rounding: 0.93 − 0.92 > 0.01 is not."""
    return value > limit + 1e-9


def _unmeasured(name: str, evaluation: Evaluation) -> _Check:
    """A limit on a metric that the suite does not have must not pass in silence."""
    shares = [metric for metric in evaluation.metrics if metric not in MEAN_METRICS]
    return _Check("INCONCLUSIVE", f"{name}: not measured by this suite ({', '.join(shares) or 'nothing'} is)")


def _judge(text: str, *, violated: bool, beyond: bool, n: int, policy: GatePolicy) -> _Check:
    if violated:
        return _Check("NO_GO", f"{text}: violated")
    if n < policy.min_questions:
        return _Check("INCONCLUSIVE", f"{text}: fewer than {policy.min_questions} questions")
    if beyond:
        return _Check("INCONCLUSIVE", f"{text}: the interval reaches beyond the limit")
    return _Check("GO", f"{text}: kept")


def _verdict(checks: list[_Check]) -> Verdict:
    ordered = sorted(checks, key=lambda check: _ORDER.index(check.decision))
    return Verdict(ordered[0].decision, [check.reason for check in ordered])


def _fallback(reference: str, verdicts: Mapping[str, Verdict]) -> str:
    """Why the reference is served although nothing is GO."""
    why = "; ".join(f"{name} is {verdict.decision}: {verdict.reasons[0]}" for name, verdict in verdicts.items())
    return f"fallback to the reference {reference}, no precision is GO ({why})"


def _praise(
    chosen: str,
    passed: list[str],
    tied: list[str],
    ratios: Mapping[str, Estimate],
    evaluations: Mapping[str, Evaluation],
    tokens_per_second: Mapping[str, float],
    weight_bytes: Mapping[str, int],
) -> str:
    among = f"of {', '.join(passed)}" if len(passed) > 1 else "of the only one that is GO"
    lead = "fastest" if len(tied) == 1 else f"smallest weights among the fastest ({', '.join(tied)})"
    mib = weight_bytes[chosen] / 2**20
    text = f"{lead} {among}: {tokens_per_second[chosen]:.1f} tokens/s, {mib:.1f} MiB of weights"
    fastest = next(name for name in passed if name not in ratios)
    if len(tied) > 1:
        # The fastest can be the smallest too: then the one that comes nearest.
        others = [name for name in tied if name != fastest]
        other = chosen if chosen in others else max(others, key=lambda name: tokens_per_second[name])
        text += f"; {fastest} is {_times(ratios[other])} as fast as {other}, which may be chance"
    elif ratios:
        other = min(ratios, key=lambda name: ratios[name].low)
        text += f"; {_times(ratios[other])} as fast as {other}"
    metrics = evaluations[chosen].metrics if chosen in evaluations else {}
    found = next((metrics[name] for name in _PRAISED if name in metrics), None)
    return f"{text}, {found.name} {found.value:.4f}" if found else text


def _times(ratio: Estimate) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] times"
