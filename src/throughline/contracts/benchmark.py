"""What a benchmark is asked to do and what it measures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

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
    """

    scenario: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    prompt_token_ids: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True)
class RequestRecord:
    """What a client saw of one request; times in seconds on one monotonic clock.

    `ok` is False when the request failed; then `error` says how.
    """

    scenario: str
    start: float
    first_token: float
    end: float
    prompt_tokens: int
    completion_tokens: int
    ok: bool = True
    error: str = ""

    @property
    def time_to_first_token(self) -> float:
        """Seconds from sending the request to its first token."""
        return self.first_token - self.start

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
