"""How an engine is served on Triton: ports, limits and streaming policy."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from throughline.contracts.config import StrictModel
from throughline.contracts.gpu_serving import GpuServeSpec
from throughline.contracts.tracing import TracingSettings

Layout = Literal["inflight_batcher_llm", "llmapi"]
LOOPBACK = "127.0.0.1"
_BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"


class ServeSpec(StrictModel):
    """Settings of one served engine; loopback by default, port 0 takes a free one.

    Attributes:
        runtime: `module:function` that turns an engine folder into an `EngineRuntime`; called in a child of the
            Python backend's process. An engine that makes vectors has its own in the place of this default.
        layout: Names of inputs and outputs: those of TensorRT-LLM's BLS model in `inflight_batcher_llm`, which our
            gateway speaks, or those of its `llmapi` model.
        host: IPv4 address that Triton's three ports are bound to. Triton asks nobody for a password: anything but
            loopback (`0.0.0.0` in a container) needs a network that only the gateway and Prometheus reach.
        http_port: Triton's HTTP port.
        grpc_port: Triton's gRPC port.
        metrics_port: Triton's Prometheus port.
        max_active_requests: Requests running or waiting before new ones are refused as unavailable.
        priority_aging_seconds: Waiting time that makes up for one step of a request's `priority`.
        default_max_tokens: `max_tokens` of a request that names none (TensorRT-LLM's default is 16).
        exclude_input_in_output: Whether text leaves the prompt out, for requests that do not say.
        stream_interval_tokens: Most tokens that one streamed message coalesces.
        flush_interval_ms: Longest time that a streamed token waits for company.
        max_responses_per_second: Messages a second over all streams above which tokens are coalesced.
        cancel_poll_interval_ms: Time between two looks at whether a request's client has gone.
        metrics_interval_ms: Time between two updates of the engine's gauges.
        drain_timeout_seconds: Time that running requests get when the model is unloaded.
        ready_timeout_seconds: Time until the first answer after a start.
        heartbeat_seconds: Time without a step of the engine after which the supervisor asks it for an answer.
        hang_seconds: Time without a step or answer after which the engine's process is killed and loaded again; longer
            than its longest step.
        exit_timeout_seconds: Time that Triton gets to finish running requests before it is killed.
        tracing: Where Triton's spans go. It traces the requests that come with a `traceparent`, and no others.
        gpu: Settings of TensorRT-LLM's layouts, for engines of GPUs.
    """

    runtime: str = Field(default="throughline.engines:load", pattern=r"^[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*$")
    layout: Layout = "inflight_batcher_llm"
    host: str = Field(default=LOOPBACK, pattern=rf"^{_BYTE}(\.{_BYTE}){{3}}$")
    http_port: int = Field(default=0, ge=0, le=65535)
    grpc_port: int = Field(default=0, ge=0, le=65535)
    metrics_port: int = Field(default=0, ge=0, le=65535)
    max_active_requests: int = Field(default=512, ge=1)
    priority_aging_seconds: float = Field(default=5.0, ge=0)
    default_max_tokens: int = Field(default=16, ge=1)
    exclude_input_in_output: bool = True
    stream_interval_tokens: int = Field(default=8, ge=1)
    flush_interval_ms: int = Field(default=100, ge=1)
    max_responses_per_second: int = Field(default=400, ge=1)
    cancel_poll_interval_ms: int = Field(default=50, ge=1)
    metrics_interval_ms: int = Field(default=250, ge=1)
    drain_timeout_seconds: float = Field(default=20.0, gt=0)
    ready_timeout_seconds: float = Field(default=120.0, gt=0)
    heartbeat_seconds: float = Field(default=10.0, gt=0)
    hang_seconds: float = Field(default=60.0, gt=0)
    exit_timeout_seconds: int = Field(default=25, ge=1)
    tracing: TracingSettings = TracingSettings()
    gpu: GpuServeSpec = GpuServeSpec()

    @model_validator(mode="after")
    def _a_heart_beats_before_it_is_given_up(self) -> Self:
        if self.hang_seconds <= self.heartbeat_seconds:
            raise ValueError(
                f"hang_seconds={self.hang_seconds:g} would kill an idle engine before "
                f"heartbeat_seconds={self.heartbeat_seconds:g} asks it for an answer: raise it"
            )
        return self

    @model_validator(mode="after")
    def _exit_leaves_time_to_drain(self) -> Self:
        if self.exit_timeout_seconds < self.drain_timeout_seconds:
            raise ValueError(
                f"exit_timeout_seconds={self.exit_timeout_seconds} would kill requests that "
                f"drain_timeout_seconds={self.drain_timeout_seconds:g} lets run"
            )
        return self
