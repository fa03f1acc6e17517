"""Puts all rules to a measurement and ranks what they find."""

from __future__ import annotations

from throughline.contracts.diagnosis import Bound, Diagnosis, Finding, Undecided
from throughline.contracts.measurement import Measurement
from throughline.diagnosis.readings import Seen
from throughline.diagnosis.rules import RULES

# What it says makes all others doubtful.
_SPOILS = "client-bound"


def diagnose(run: Measurement, *, baseline: Measurement | None = None, bound: Bound | None = None) -> Diagnosis:
    """Returns what limits or wastes in a run, the costliest first.

    Args:
        run: What was measured; its `slo` decides whether a bottleneck matters.
        baseline: A former run of the same workload, for what can only be told by comparison.
        bound: What the machine could do at best.
    """
    seen = Seen(run, baseline, bound)
    findings: list[Finding] = []
    undecided: list[Undecided] = []
    for rule in RULES:
        lacks = rule.lacks(seen)
        if lacks:
            undecided.append(Undecided(name=rule.name, lacks=lacks))
            continue
        found = rule.find(seen)
        if found is not None:
            findings.append(found)
    return Diagnosis(
        findings=tuple(ranked(findings)),
        over=run.over(run.slo) if run.slo is not None else {},
        judged=run.slo is not None,
        undecided=tuple(undecided),
    )


def ranked(findings: list[Finding]) -> list[Finding]:
    """Returns the findings in the order in which they should be dealt with."""
    return sorted(findings, key=lambda finding: (finding.name != _SPOILS, -finding.severity))
