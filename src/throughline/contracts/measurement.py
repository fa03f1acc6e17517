"""What one run of a load measured: the load as it came out, latencies, phases, the engine and the machine under it.

A benchmark writes it, the diagnosis reads it, and the tuner compares two of them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from throughline.contracts.benchmark import Estimate
from throughline.contracts.config import StrictModel
from throughline.contracts.slo import SloSpec

Target = Literal["raw", "triton", "gateway"]
# Of a request's way, in its order; `network` is what is left between the client's clock and the gateway's.
PHASES = ("gateway", "tokenize", "queue", "prefill", "decode", "detokenize", "network")
# By percentile, "p50" to "p99", and "mean"; seconds.
Latencies = dict[str, Estimate]


class ShapeTest(StrictModel):
    """One property of the load: what was asked, what came out, and whether both can be the same.

    Attributes:
        name: `rate`, `arrivals`, `input_tokens`, `output_tokens`, `concurrency`, `cancelled` or `tenants`.
        asked: As a number in the property's unit (1/s, tokens, requests, share).
        achieved: The same of what was sent.
        test: How they were compared, e.g. `relative error` or `Kolmogorov-Smirnov`.
        p_value: Of a test of fit; None for a plain tolerance.
        passed: Whether it holds.
    """

    name: str
    asked: float
    achieved: float
    test: str
    p_value: float | None = None
    passed: bool


class LoadProof(StrictModel):
    """Whether the load had the shape that was asked for; a run without it enters no comparison.

    Attributes:
        tests: One for each property that the workload asks for.
        generator_cores: Processor seconds that the load generator used in a second.
        lag_seconds: By percentile, how late requests left behind their schedule; open loops only.
    """

    tests: tuple[ShapeTest, ...]
    generator_cores: float | None = None
    lag_seconds: Latencies = Field(default_factory=dict)

    @property
    def valid(self) -> bool:
        """Whether every test passed."""
        return all(test.passed for test in self.tests)


class EngineReadings(StrictModel):
    """The engine over the window, from its gauges and steps; None where a server does not say.

    Attributes:
        max_batch_size: Most sequences in a step.
        max_num_tokens: Most tokens in a step.
        steps: Made in the window.
        step_seconds: By percentile.
        scheduled: Mean sequences in a step.
        waiting: Mean requests that wait for a place in the batch.
        kv_cache_usage: Mean share of the KV cache in use.
        kv_cache_usage_max: Largest.
        prompt_tokens: Tokens of prompts in the window.
        reused_tokens: Of them, those that the prefix cache had.
        paused_requests: Requests put back to make room for others.
        decoding_share: Share of the steps' time without any prompt token in the step.
        padded_tokens: Tokens that steps computed for no request: a batch padded to its longest, or to a graph's size.
    """

    max_batch_size: int | None = None
    max_num_tokens: int | None = None
    steps: int | None = None
    step_seconds: Latencies = Field(default_factory=dict)
    scheduled: float | None = None
    waiting: float | None = None
    kv_cache_usage: float | None = None
    kv_cache_usage_max: float | None = None
    prompt_tokens: int | None = None
    reused_tokens: int | None = None
    paused_requests: int | None = None
    decoding_share: float | None = None
    padded_tokens: int | None = None


class GpuReadings(StrictModel):
    """One GPU over the window, by NVML.

    Attributes:
        name: As NVML names it.
        utilisation: Mean share of time with a kernel running.
        memory_bytes: Most in use.
        power_watts: Mean.
        energy_joules: Of the window.
        sm_clock_hertz: Mean clock of the multiprocessors.
        sm_clock_max_hertz: Highest clock that the board has, where it can be read.
        throttled: Share of samples, by NVML's throttle reason; `gpu_idle` is none of them.
        pcie_bytes_per_second: Mean, both ways.
        nvlink_bytes_per_second: Mean, both ways; None without NVLink.
        process_bytes: Most memory of each process, by its id.
    """

    name: str
    utilisation: float
    memory_bytes: int
    power_watts: float
    energy_joules: float
    sm_clock_hertz: float
    sm_clock_max_hertz: float | None = None
    throttled: dict[str, float] = Field(default_factory=dict)
    pcie_bytes_per_second: float | None = None
    nvlink_bytes_per_second: float | None = None
    process_bytes: dict[str, int] = Field(default_factory=dict)


class MachineReadings(StrictModel):
    """The machine over the window.

    Attributes:
        cores: Processors that the run may use.
        busy_cores: Mean processors busy by process: `engine`, `triton`, `gateway`, `generator`,
            `other`, and `server` of a service that others run.
        memory_bytes: Most memory of the server's processes.
        bandwidth: Bytes a second that the engine must have read (weights and KV cache, by arithmetic).
        bandwidth_bound: Bytes a second that the machine can read, measured in the same run.
        energy_joules: Of the processor's package (RAPL), where the kernel lets it be read.
        clock_hertz: Mean clock of the processors, where it can be read.
        gpus: One for each GPU.
    """

    cores: int
    busy_cores: dict[str, float] = Field(default_factory=dict)
    memory_bytes: int | None = None
    bandwidth: float | None = None
    bandwidth_bound: float | None = None
    energy_joules: float | None = None
    clock_hertz: float | None = None
    gpus: tuple[GpuReadings, ...] = ()


class Measurement(StrictModel):
    """One target under one workload; rates are per second, latencies in seconds.

    Attributes:
        target: What the load went to.
        engine_digest: The engine that answered; empty for one that is not ours.
        settings: Of engine, server and gateway, as composed, by dotted key.
        workload: The workload as composed.
        slo: The limits that goodput counts by; None for no goodput.
        load: Whether the load had its shape.
        started_at: Unix time of the window's begin.
        warm_up_seconds: What was cut off before the steady state.
        steady: Whether the latencies came to rest; where they did not, as beyond an open loop's capacity, they grow
            with the run's length.
        seconds: Length of the window.
        requests: That were due in it, by whatever end; latencies are theirs, rates are of what ended in it.
        errors: Of them, those that failed, by OpenAI error code or `type` of the client's error.
        requests_per_second: Of those that ended well.
        tokens_per_second: Output tokens of those that ended well.
        goodput: Requests a second, of those due in the window, that ended well and kept every limit of latency.
        ttft: Time to the first token.
        itl: Gaps between tokens as they came; tokens of one message have no gap.
        tpot: Mean time of a token after the first, of each request.
        e2e: Time to the last token.
        input_tokens: Mean of the prompts.
        output_tokens: Mean of the answers.
        phases: Mean seconds of a request's parts, by `PHASES`; they sum to the mean of `e2e`.
        engine: The engine over the window.
        machine: The machine over the window.
    """

    target: Target
    engine_digest: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    workload: dict[str, Any] = Field(default_factory=dict)
    slo: SloSpec | None = None
    load: LoadProof
    started_at: float
    warm_up_seconds: float
    steady: bool = True
    seconds: float
    requests: int
    errors: dict[str, int] = Field(default_factory=dict)
    requests_per_second: Estimate
    tokens_per_second: Estimate
    goodput: Estimate | None = None
    ttft: Latencies
    itl: Latencies
    tpot: Latencies
    e2e: Latencies
    input_tokens: float
    output_tokens: float
    phases: dict[str, float] = Field(default_factory=dict)
    engine: EngineReadings = EngineReadings()
    machine: MachineReadings

    @property
    def error_rate(self) -> float:
        """Share of the requests that failed."""
        return sum(self.errors.values()) / self.requests if self.requests else 0.0

    def over(self, slo: SloSpec) -> dict[str, float]:
        """Returns how many times each broken limit of latency or errors is exceeded, by the limit's name."""
        found = {}
        for name, limit in slo.latencies().items():
            seen = getattr(self, name.removesuffix("_seconds")).get(f"p{slo.percentile}")
            if limit is not None and (seen is None or not seen.value <= limit):
                found[name] = seen.value / limit if seen is not None else float("inf")
        if self.error_rate > slo.error_rate:
            found["error_rate"] = self.error_rate / slo.error_rate if slo.error_rate else float("inf")
        return found
