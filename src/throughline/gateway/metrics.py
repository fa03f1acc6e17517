"""Metrics under vLLM's and OpenTelemetry `gen_ai` names, counted without locks and added up over the workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from throughline.gateway import gen_ai
from throughline.gateway.board import Board, Number, Row
from throughline.gateway.openapi import ERROR_STATUSES, OPERATIONS
from throughline.gateway.tallies import Tally

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40)
_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_REQUEST = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
_PREPARE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
_TALLIES = {
    "time_to_first_token": _FIRST_TOKEN,
    "engine_first_token": _FIRST_TOKEN,
    "framework_first_token": _FIRST_TOKEN,
    "inter_token_latency": _PER_TOKEN,
    "time_per_output_token": _PER_TOKEN,
    "e2e_latency": _REQUEST,
    "request_prompt_tokens": _TOKENS,
    "request_generation_tokens": _TOKENS,
    "prepare": _PREPARE,
}
SUCCESSES = ("stop", "length", "tool_calls")
_REASONS = (*SUCCESSES, "abort", "error")
_ROUTES = (*dict.fromkeys(operation.path for operation in OPERATIONS), "unknown")
# 0 for a client that left before its answer.
_STATUSES = (0, 200, *ERROR_STATUSES)
# Why a client's connection was ended; see `connections`.
_ENDED = ("head_too_slow", "head_too_large", "unread", "too_many", "pipelined", "malformed")
_PLAIN_NUMBERS = 5
_MODEL_LENGTH = (
    _PLAIN_NUMBERS
    + len(_REASONS)
    + sum(Tally.length(bounds) for bounds in _TALLIES.values())
    + len(gen_ai.OPERATIONS) * gen_ai.OPERATION_LENGTH
)


class ModelMetrics:
    """What is counted for one model, in the numbers of a row.

    Attributes:
        model: Its id.
        running: Requests in the engine; each choice is one.
        breaker_open: 1 while the circuit breaker keeps requests away.
        prompt_tokens: Prompt tokens.
        generation_tokens: Generated tokens.
        retries: Requests that were sent again.
    """

    running = Number(0)
    breaker_open = Number(1)
    prompt_tokens = Number(2)
    generation_tokens = Number(3)
    retries = Number(4)

    def __init__(self, model: str, row: Row) -> None:
        self.model = model
        self.numbers = row.take(_PLAIN_NUMBERS)
        self._finished = row.take(len(_REASONS))
        tallies = {name: Tally(bounds, row) for name, bounds in _TALLIES.items()}
        self.time_to_first_token = tallies["time_to_first_token"]
        self.engine_first_token = tallies["engine_first_token"]
        self.framework_first_token = tallies["framework_first_token"]
        self.inter_token_latency = tallies["inter_token_latency"]
        self.time_per_output_token = tallies["time_per_output_token"]
        self.e2e_latency = tallies["e2e_latency"]
        self.request_prompt_tokens = tallies["request_prompt_tokens"]
        self.request_generation_tokens = tallies["request_generation_tokens"]
        self.prepare = tallies["prepare"]
        self.gen_ai = {route: gen_ai.Operation(model, name, row) for route, name in gen_ai.OPERATIONS.items()}

    def finish(self, reason: str) -> None:
        """Counts the end of a choice (`stop`, `length`, `tool_calls`) or of a request (`abort`, `error`)."""
        self._finished[_REASONS.index(reason)] += 1

    def finished(self) -> Iterator[tuple[str, float]]:
        """Yields the reasons there were, and how often."""
        yield from ((reason, count) for reason, count in zip(_REASONS, self._finished, strict=True) if count)


def row_length(models: int) -> int:
    """Numbers of one worker that serves so many models."""
    return models * _MODEL_LENGTH + len(_ROUTES) * len(_STATUSES) + len(_ENDED)


class GatewayMetrics:
    """All models' metrics and the HTTP answers by status; collected when `/metrics` is read.

    Args:
        models: Ids of the served models.
        board: The workers' numbers; None for a gateway of one process.
        row: Which of them; our own by default.
    """

    def __init__(self, models: Sequence[str], board: Board | None = None, row: Row | None = None) -> None:
        self._board = board or Board.alone(row_length(len(models)))
        row = row or self._board.row()
        self.models = {model: ModelMetrics(model, row) for model in models}
        self._responses = row.take(len(_ROUTES) * len(_STATUSES))
        self._ended = row.take(len(_ENDED))

    def start_over(self) -> None:
        """Says that nothing runs, as a worker does that takes the place of one that died."""
        for model in self.models.values():
            model.running = model.breaker_open = 0

    def count_response(self, route: str, status: int) -> None:
        """Counts an HTTP answer; `route` is a pattern, never a client's own path."""
        self._responses[_ROUTES.index(route) * len(_STATUSES) + _STATUSES.index(status)] += 1

    def count_ended_connection(self, reason: str) -> None:
        """Counts a connection that was beyond a limit, or whose client speaks no HTTP."""
        self._ended[_ENDED.index(reason)] += 1

    def expose(self) -> bytes:
        """The text that Prometheus scrapes."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.registry import Collector

        metrics = GatewayMetrics(list(self.models), self._board, self._board.sums())

        class _Collector(Collector):
            def collect(self) -> Iterator[Metric]:
                return metrics._collect()

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector())
        return generate_latest(registry)

    def _collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        label = ["model_name"]
        running = GaugeMetricFamily("vllm:num_requests_running", "Requests in the engine.", labels=label)
        prompt = CounterMetricFamily("vllm:prompt_tokens", "Prompt tokens.", labels=label)
        generation = CounterMetricFamily("vllm:generation_tokens", "Generated tokens.", labels=label)
        success = CounterMetricFamily(
            "vllm:request_success",
            "Requests that got their whole answer, by reason.",
            labels=[*label, "finished_reason"],
        )
        failed = CounterMetricFamily(
            "throughline_failed_requests",
            "Requests without their whole answer: abort (the client left) or error.",
            labels=[*label, "reason"],
        )
        retries = CounterMetricFamily(
            "throughline_upstream_retries", "Requests that were sent to the engine again.", labels=label
        )
        breaker = GaugeMetricFamily(
            "throughline_circuit_breaker_open", "Workers that keep requests from a failing engine.", labels=label
        )
        for model in self.models.values():
            retries.add_metric([model.model], model.retries)
            breaker.add_metric([model.model], model.breaker_open)
            running.add_metric([model.model], model.running)
            prompt.add_metric([model.model], model.prompt_tokens)
            generation.add_metric([model.model], model.generation_tokens)
            for reason, count in model.finished():
                (success if reason in SUCCESSES else failed).add_metric([model.model, reason], count)
        yield from (running, prompt, generation, success, failed, retries, breaker)
        yield from self._histograms()
        yield from gen_ai.families([each for model in self.models.values() for each in model.gen_ai.values()])
        http = CounterMetricFamily("throughline_http_responses", "HTTP answers.", labels=["route", "status"])
        labels = ([route, str(status)] for route in _ROUTES for status in _STATUSES)
        for values, count in zip(labels, self._responses, strict=True):
            if count:
                http.add_metric(values, count)
        yield http
        ended = CounterMetricFamily(
            "throughline_ended_connections",
            "Connections that the gateway ended: beyond a limit, or no HTTP.",
            labels=["reason"],
        )
        for reason, count in zip(_ENDED, self._ended, strict=True):
            ended.add_metric([reason], count)
        yield ended

    def _histograms(self) -> Iterator[Metric]:
        from prometheus_client.core import HistogramMetricFamily

        for name, help_text, attribute in _HISTOGRAMS:
            family = HistogramMetricFamily(name, help_text, labels=["model_name"])
            for model in self.models.values():
                tally: Tally = getattr(model, attribute)
                family.add_metric([model.model], buckets=tally.buckets(), sum_value=tally.total)
            yield family


_HISTOGRAMS: tuple[tuple[str, str, str], ...] = (
    (
        "vllm:time_to_first_token_seconds",
        "From the request's arrival to its first token, streams only.",
        "time_to_first_token",
    ),
    (
        "throughline_engine_time_to_first_token_seconds",
        "The engine's part of the time to the first token: waiting for a place, and the prompt.",
        "engine_first_token",
    ),
    (
        "throughline_framework_time_to_first_token_seconds",
        "The rest of it: reading the body, the template, tokenising, gRPC, Triton and the way back.",
        "framework_first_token",
    ),
    (
        "vllm:inter_token_latency_seconds",
        "Between tokens; coalesced tokens share a gap.",
        "inter_token_latency",
    ),
    (
        "vllm:request_time_per_output_token_seconds",
        "(end - first token) / (tokens - 1) of a request, streams only.",
        "time_per_output_token",
    ),
    (
        "vllm:e2e_request_latency_seconds",
        "From the request's arrival to its last byte.",
        "e2e_latency",
    ),
    ("vllm:request_prompt_tokens", "Prompt tokens of a request.", "request_prompt_tokens"),
    ("vllm:request_generation_tokens", "Generated tokens of a request.", "request_generation_tokens"),
    (
        "throughline_gateway_prepare_seconds",
        "From the whole body to the request going upstream: decode, template, tokenise.",
        "prepare",
    ),
)
