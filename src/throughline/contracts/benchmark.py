"""What a benchmark is asked to do and what it measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pydantic import Field

from throughline.contracts.config import StrictModel


class BenchSpec(StrictModel):
    """A closed-loop load: each user sends its next request when the last one has ended.

    Attributes:
        concurrency: Numbers of users, one cell each.
        requests_per_user: Requests that each user sends in a cell, after warm-up.
        min_requests: Lower bound of the requests in a cell, so that percentiles mean something.
        min_seconds: Seconds of load that a cell has at least in all its rounds, by a first measurement of the lowest
            layer; the layers above it take longer for the same requests.
        repeats: Rounds over all cells; targets are interleaved inside a round.
        ignore_eos: Generate exactly `max_tokens`, so that every target does the same work.
        timeout_seconds: A request that takes longer counts as failed.
        seed: Seed of the scenario sample and of the bootstrap.
    """

    concurrency: tuple[int, ...] = (1, 8, 32)
    requests_per_user: int = Field(default=3, ge=1)
    min_requests: int = Field(default=12, ge=1)
    min_seconds: float = Field(default=0.0, ge=0)
    repeats: int = Field(default=2, ge=1)
    ignore_eos: bool = True
    timeout_seconds: float = Field(default=120.0, gt=0)
    seed: int = 0


@dataclass(frozen=True)
class BenchRequest:
    """One request of the scenario mix.

    Attributes:
        scenario: Task name, e.g. `triage`.
        messages: OpenAI chat messages.
        tools: OpenAI tools, possibly empty.
        prompt_token_ids: The same prompt through the chat template, for targets without one.
        max_tokens: Output length drawn from the workload.
        tenant: Who sends it; empty where nobody is named.
        cancel_after: Messages with text after which the client leaves; 0 for one that stays.
        trace_parent: W3C `traceparent` that it is sent with, empty for none.
    """

    scenario: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    tenant: str = ""
    cancel_after: int = 0
    trace_parent: str = ""


@dataclass(frozen=True)
class Load:
    """What a target is loaded with; every request of it gets a record.

    Attributes:
        sessions: Each the turns of one user, the next one sent `think_seconds` after the last answer.
        due: Seconds from the begin at which each session is due (open loop); None for a closed loop.
        users: Of a closed loop: each takes the next session when its last one is over.
        seconds: Of a closed loop: after it no session begins, and no turn.
        think_seconds: Between an answer and what its reader sends next.
        ignore_eos: Generate exactly `max_tokens`.
        timeout_seconds: A request that takes longer has failed.
    """

    sessions: list[list[BenchRequest]]
    due: list[float] | None = None
    users: int = 1
    seconds: float | None = None
    think_seconds: float = 0.0
    ignore_eos: bool = True
    timeout_seconds: float = 120.0

    @classmethod
    def closed(cls, requests: Sequence[BenchRequest], users: int, *, ignore_eos: bool, timeout_seconds: float) -> Self:
        """Every request once, with at most `users` of them in flight."""
        sessions = [[request] for request in requests]
        return cls(sessions, users=users, ignore_eos=ignore_eos, timeout_seconds=timeout_seconds)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """Reads what `asdict` and JSON made of one."""
        sessions = [[BenchRequest(**request) for request in session] for session in values["sessions"]]
        return cls(**{**values, "sessions": sessions})

    @property
    def limit_seconds(self) -> float:
        """Seconds after which it hangs: every session at its limit, one after another where a loop is closed."""
        turns = max((len(session) for session in self.sessions), default=0)
        longest = turns * (self.timeout_seconds + self.think_seconds)
        if self.due is not None:
            return max(self.due, default=0.0) + longest
        if self.seconds is not None:
            return self.seconds + self.timeout_seconds + self.think_seconds
        return math.ceil(len(self.sessions) / self.users) * longest


@dataclass(frozen=True)
class RequestRecord:
    """What a client saw of one request; times in seconds on one monotonic clock.

    Attributes:
        scenario: As the request's.
        start: When it was sent.
        first_token: When its first token was read.
        end: When its last token was read.
        prompt_tokens: As the server counts.
        completion_tokens: As the server counts; of a cancelled request the messages with text.
        ok: False when the request failed.
        error: How it failed.
        error_type: The same in a word: the code of OpenAI's error, the HTTP status, or the client's exception.
        due: When it should have been sent; None where nothing but the last answer decides.
        gaps: Seconds between its messages with text.
        tenant: As the request's.
        cancelled: Whether the client left, as it was asked to.
        session: Number of its session in the load.
        turn: Its place there.
        phases: Seconds by phase, of `contracts.measurement.PHASES`, where a target knows them; else empty.
    """

    scenario: str
    start: float
    first_token: float
    end: float
    prompt_tokens: int
    completion_tokens: int
    ok: bool = True
    error: str = ""
    error_type: str = ""
    due: float | None = None
    gaps: Sequence[float] = ()
    tenant: str = ""
    cancelled: bool = False
    session: int = 0
    turn: int = 0
    phases: Mapping[str, float] = field(default_factory=dict)

    @property
    def begin(self) -> float:
        """Where latencies count from: when the request was due, so that a late client hides nothing, or was sent."""
        return self.start if self.due is None else self.due

    @property
    def time_to_first_token(self) -> float:
        """Seconds until its first token."""
        return self.first_token - self.begin

    @property
    def e2e_latency(self) -> float:
        """Seconds until its last token."""
        return self.end - self.begin

    @property
    def inter_token_latency(self) -> float | None:
        """Mean seconds between tokens, `(end - first) / (tokens - 1)` as AIPerf defines it."""
        if self.completion_tokens < 2:
            return None
        return (self.end - self.first_token) / (self.completion_tokens - 1)


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval and the number of samples behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class CellResult:
    """One target at one concurrency over all repeats.

    Latencies are in seconds, memory in bytes, `cpu_seconds_per_token` over every server process. `seconds` is the time
    under load, `generator_cores` the processor time of the load generator per second of it; None where the engine's own
    thread asks.
    """

    target: str
    concurrency: int
    tokens_per_second: Estimate
    time_to_first_token: dict[str, Estimate]
    inter_token_latency: dict[str, Estimate]
    e2e_latency: dict[str, Estimate]
    requests: int
    failed: int
    per_repeat_tokens_per_second: list[float] = field(default_factory=list)
    memory_bytes: int | None = None
    cpu_seconds_per_token: float | None = None
    seconds: float = 0.0
    generator_cores: float | None = None
    gpu: dict[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON types."""
        return asdict(self)
