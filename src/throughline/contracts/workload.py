"""A workload: lengths of requests, how they arrive, what they share, who sends them.

The planner reads the lengths, a benchmark sends it all, and the tuner holds it fixed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from throughline.contracts.config import StrictModel

Process = Literal["closed", "constant", "poisson", "gamma", "burst", "ramp", "trace", "offline"]
# MLPerf Inference's scenarios, which fix how requests arrive and nothing else (MLCommons, inference_policies).
Scenario = Literal["SingleStream", "Server", "Offline"]
_AT_A_RATE = frozenset({"constant", "poisson", "gamma", "burst", "ramp"})


class ArrivalSpec(StrictModel):
    """When requests leave; of a session with several turns, its first one.

    Attributes:
        process: `closed`: each user sends its next request when its last one has ended. `constant`, `poisson`,
            `gamma`: gaps of that distribution. `burst`: `burst_size` requests at once, the bursts as a Poisson
            process. `ramp`: Poisson, at a rate that grows evenly to `ramp_to`. `trace`: when they left in a trace.
            `offline`: all at once.
        users: Of a closed loop.
        requests_per_second: Mean rate; of `ramp` the rate at its begin.
        burstiness: Shape of the gamma distribution, as vLLM's `--burstiness`: 1 is Poisson, less comes in bursts.
        burst_size: Requests of a burst.
        ramp_to: Requests a second at a ramp's end.
        offline_requests: Of an offline run, whose length is how long they take.
    """

    process: Process = "closed"
    users: int = Field(default=8, ge=1)
    requests_per_second: float | None = Field(default=None, gt=0)
    burstiness: float = Field(default=1.0, gt=0)
    burst_size: int = Field(default=8, ge=1)
    ramp_to: float | None = Field(default=None, gt=0)
    offline_requests: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _has_its_rate(self) -> Self:
        if self.process in _AT_A_RATE and self.requests_per_second is None:
            raise ValueError(f"process={self.process} needs requests_per_second")
        if (self.process == "ramp") != (self.ramp_to is not None):
            raise ValueError("ramp_to goes with process=ramp, and that with it")
        return self

    @property
    def mean_rate(self) -> float | None:
        """Requests a second over the whole run; None where no rate is asked for."""
        if self.process not in _AT_A_RATE or self.requests_per_second is None:
            return None
        return (self.requests_per_second + (self.ramp_to or self.requests_per_second)) / 2


class Workload(StrictModel):
    """Lengths of requests in tokens, how many are wanted at a time, and how they come.

    Attributes:
        input_tokens: Mean length of a prompt, of all turns together.
        output_tokens: Mean length of an answer.
        longest_input_tokens: Longest prompt that must be served.
        longest_output_tokens: Longest answer.
        input_cv: Coefficient of variation of the prompts' lengths (of first turns), which are log-normal and cut off
            at the longest; 0 for all alike.
        output_cv: The same of the answers.
        concurrency: Requests in flight that a plan is made for; 0 for as many as fit.
        lora_adapters: Adapters that stay loaded.
        lora_rank: Their rank.
        tasks: Tasks of the requests, by the names that a dataset has for them; empty where it does not matter.
        source: `synthetic` prompts of just these lengths, or questions and answer lengths of a `dataset`.
        arrivals: When requests leave.
        shared_prefix_tokens: Tokens that prompts begin with in common, as a system message.
        shared_prefixes: How many different such beginnings there are.
        turns: Requests of a session; each repeats what was said before.
        turn_tokens: Tokens that a user adds in each turn after the first.
        think_seconds: Between an answer and the next turn, or a closed loop's next request.
        cancelled_share: Share of requests whose client leaves before the answer is whole.
        tenants: Share of the requests by tenant; empty for one that has no name.
        trace: File of times and lengths to send again, see `benchmarking.traces`.
        trace_speed: How many times as fast as it was recorded.
    """

    input_tokens: int = Field(ge=1)
    output_tokens: int = Field(ge=1)
    longest_input_tokens: int = Field(ge=1)
    longest_output_tokens: int = Field(ge=1)
    input_cv: float = Field(default=0.0, ge=0, le=3)
    output_cv: float = Field(default=0.0, ge=0, le=3)
    concurrency: int = Field(default=0, ge=0)
    lora_adapters: int = Field(default=0, ge=0)
    lora_rank: int = Field(default=16, ge=1)
    tasks: tuple[str, ...] = ()
    source: Literal["synthetic", "dataset"] = "synthetic"
    arrivals: ArrivalSpec = ArrivalSpec()
    shared_prefix_tokens: int = Field(default=0, ge=0)
    shared_prefixes: int = Field(default=1, ge=1)
    turns: int = Field(default=1, ge=1)
    turn_tokens: int = Field(default=0, ge=0)
    think_seconds: float = Field(default=0.0, ge=0)
    cancelled_share: float = Field(default=0.0, ge=0, lt=1)
    tenants: dict[str, float] = Field(default_factory=dict)
    trace: Path | None = None
    trace_speed: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _longest_is_longest(self) -> Self:
        if self.longest_input_tokens < self.input_tokens or self.longest_output_tokens < self.output_tokens:
            raise ValueError("the longest request is shorter than the mean one")
        return self

    @model_validator(mode="after")
    def _turns_fit(self) -> Self:
        if self.turns > 1 and not self.turn_tokens:
            raise ValueError("turns needs turn_tokens, what a user adds in each")
        if self.turns > 1 and self.source == "dataset":
            raise ValueError("turns are of synthetic prompts: a dataset's questions have their own")
        if self.first_input_tokens < 1:
            raise ValueError(
                f"input_tokens={self.input_tokens} is too short for {self.turns} turns: the prompts grow by "
                f"{self.turn_tokens + self.output_tokens} tokens a turn"
            )
        if self.shared_prefix_tokens >= self.first_input_tokens:
            raise ValueError("shared_prefix_tokens leaves nothing of a first prompt")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if (self.arrivals.process == "trace") != (self.trace is not None):
            raise ValueError("arrivals.process=trace goes with trace=FILE, and that with it")
        if self.tenants and abs(sum(self.tenants.values()) - 1) > 1e-6:
            raise ValueError(f"tenants' shares sum to {sum(self.tenants.values()):g}, not to 1")
        return self

    @property
    def first_input_tokens(self) -> int:
        """Mean length of a session's first prompt."""
        growth = self.turn_tokens + self.output_tokens
        return self.input_tokens - round((self.turns - 1) / 2 * growth)

    def under(self, scenario: Scenario) -> Workload:
        """Returns the same requests under one of MLPerf's scenarios: `Server` needs `arrivals.requests_per_second`."""
        rate = self.arrivals.requests_per_second
        arrivals = {
            "SingleStream": ArrivalSpec(process="closed", users=1),
            "Server": ArrivalSpec(process="poisson", requests_per_second=rate) if scenario == "Server" else None,
            "Offline": ArrivalSpec(process="offline", offline_requests=self.arrivals.offline_requests),
        }[scenario]
        return self.model_copy(update={"arrivals": arrivals, "trace": None})
