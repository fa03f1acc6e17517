"""What the diagnosis says: findings with their evidence, what each costs, and the overrides to try next."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from throughline.contracts.config import StrictModel

# In the order in which they are told apart: what spoils the measurement comes first.
FINDINGS = (
    "client-bound",
    "kv-cache-thrash",
    "kv-cache-pressure",
    "batch-starvation",
    "queueing",
    "prefix-reuse-miss",
    "prefill-bound",
    "chunk-interference",
    "decode-bandwidth-bound",
    "long-outputs",
    "tokenizer-cpu",
    "gateway-cpu",
    "throttling",
    "host-bound",
    "padding",
    # Of a profile alone.
    "copy-bound",
    "communication-bound",
    "kernel-bandwidth-bound",
)
# What a finding's severity is a share of.
Cost = Literal["latency", "time between tokens", "throughput", "GPU time"]
Kind = Literal["bottleneck", "waste"]


class Evidence(StrictModel):
    """One figure behind a finding.

    Attributes:
        name: What was measured, in words.
        value: The figure.
        unit: Its unit; `share` for a part of one.
        limit: What it is held against; None for a figure that only takes part in the arithmetic.
        source: Where the limit comes from: a document, a measurement, or the user's own limit.
    """

    name: str
    value: float
    unit: str
    limit: float | None = None
    source: str = ""


class Lever(StrictModel):
    """What to change.

    Attributes:
        overrides: Hydra overrides as they are typed, e.g. `engine.max_num_tokens=128`; empty where nothing that a
            recipe composes can be changed, and the client has to.
        why: What it does, and what it costs.
    """

    overrides: tuple[str, ...] = ()
    why: str


class Finding(StrictModel):
    """A bottleneck or a waste.

    Attributes:
        name: One of `FINDINGS`.
        kind: A `bottleneck` matters only where a limit is broken; a `waste` always.
        summary: What is the matter, in a sentence.
        severity: Estimated share of `cost` that would be gone without it, 0 to 1.
        cost: What it is a share of.
        arithmetic: How the severity was reckoned, with the figures.
        evidence: The figures, at least one of them with a limit.
        levers: What to change, the first one first.
        contradicted_by: What would be seen if the finding were wrong.
    """

    name: str
    kind: Kind
    summary: str
    severity: float = Field(ge=0, le=1)
    cost: Cost
    arithmetic: str
    evidence: tuple[Evidence, ...] = Field(min_length=1)
    levers: tuple[Lever, ...]
    contradicted_by: str


class Undecided(StrictModel):
    """A rule that could not speak: its finding's name, and the readings that it lacks."""

    name: str
    lacks: tuple[str, ...]


class Diagnosis(StrictModel):
    """All findings of a run.

    Attributes:
        findings: The costliest first; one that spoils the measurement before all others.
        over: How many times each broken limit is exceeded, by the limit's name.
        judged: Whether there were limits to judge by.
        undecided: Rules that lacked readings.
    """

    findings: tuple[Finding, ...] = ()
    over: dict[str, float] = Field(default_factory=dict)
    judged: bool = False
    undecided: tuple[Undecided, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether every limit was kept and nothing wasted."""
        return not self.findings and not self.over

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the findings, in their order."""
        return tuple(finding.name for finding in self.findings)


class Bound(StrictModel):
    """What the machine could do at best, by a roofline: seconds of a step and of a mean prompt.

    Attributes:
        decode_step_seconds: Of a step of the measured batch that makes one token for each sequence.
        prefill_seconds: Of the mean prompt, alone.
        source: How it was reckoned.
    """

    decode_step_seconds: float | None = None
    prefill_seconds: float | None = None
    source: str
