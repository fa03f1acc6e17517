"""Metrics under vLLM's and OpenTelemetry `gen_ai` names, counted without locks in the one event loop."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from throughline.gateway.resilience import Guard

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40)
_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_REQUEST = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
_PREPARE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
_FAILURES = frozenset({"abort", "error"})


class Tally:
    """A histogram of one event loop: no lock and no label look-up, since each message counts.

    Args:
        bounds: Upper bounds of the buckets, ascending, without infinity.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Counts `value` as seen `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them."""
        running = 0
        out: list[tuple[str, float]] = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            out.append(("+Inf" if bound == float("inf") else str(float(bound)), running))
        return out


class ModelMetrics:
    """What is counted for one model."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.running = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished: dict[str, int] = {}
        self.time_to_first_token = Tally(_FIRST_TOKEN)
        self.engine_first_token = Tally(_FIRST_TOKEN)
        self.framework_first_token = Tally(_FIRST_TOKEN)
        self.inter_token_latency = Tally(_PER_TOKEN)
        self.time_per_output_token = Tally(_PER_TOKEN)
        self.e2e_latency = Tally(_REQUEST)
        self.request_prompt_tokens = Tally(_TOKENS)
        self.request_generation_tokens = Tally(_TOKENS)
        self.prepare = Tally(_PREPARE)
        self.guard: Guard | None = None

    def finish(self, reason: str) -> None:
        """Counts the end of a request: `stop`, `length`, `tool_calls`, `abort` or `error`."""
        self.finished[reason] = self.finished.get(reason, 0) + 1


class GatewayMetrics:
    """All models' metrics and the HTTP answers by status; collected when `/metrics` is read.

    Args:
        models: Ids of the served models.
    """

    def __init__(self, models: Iterable[str]) -> None:
        self.models = {model: ModelMetrics(model) for model in models}
        self.responses: dict[tuple[str, int], int] = {}

    def count_response(self, route: str, status: int) -> None:
        """Counts an HTTP answer; `route` is a pattern, never a client's own path."""
        key = (route, status)
        self.responses[key] = self.responses.get(key, 0) + 1

    def expose(self) -> bytes:
        """The text that Prometheus scrapes."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.registry import Collector

        metrics = self

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
            "throughline_circuit_breaker_open", "1 while requests are kept from a failing engine.", labels=label
        )
        for model in self.models.values():
            if model.guard is not None:
                retries.add_metric([model.model], model.guard.retries)
                breaker.add_metric([model.model], model.guard.is_open)
            running.add_metric([model.model], model.running)
            prompt.add_metric([model.model], model.prompt_tokens)
            generation.add_metric([model.model], model.generation_tokens)
            for reason, count in model.finished.items():
                (failed if reason in _FAILURES else success).add_metric([model.model, reason], count)
        yield from (running, prompt, generation, success, failed, retries, breaker)
        yield from self._histograms()
        http = CounterMetricFamily("throughline_http_responses", "HTTP answers.", labels=["route", "status"])
        for (route, status), count in self.responses.items():
            http.add_metric([route, str(status)], count)
        yield http

    def _histograms(self) -> Iterator[Metric]:
        from prometheus_client.core import HistogramMetricFamily

        for names, help_text, attribute in _HISTOGRAMS:
            for name in names:
                label = "gen_ai_request_model" if name.startswith("gen_ai") else "model_name"
                family = HistogramMetricFamily(name, help_text, labels=[label])
                for model in self.models.values():
                    tally: Tally = getattr(model, attribute)
                    family.add_metric([model.model], buckets=tally.buckets(), sum_value=tally.total)
                yield family


_HISTOGRAMS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("vllm:time_to_first_token_seconds", "gen_ai_server_time_to_first_token_seconds"),
        "From the request's arrival to its first token, streams only.",
        "time_to_first_token",
    ),
    (
        ("throughline_engine_time_to_first_token_seconds",),
        "The engine's part of the time to the first token: waiting for a place, and the prompt.",
        "engine_first_token",
    ),
    (
        ("throughline_framework_time_to_first_token_seconds",),
        "The rest of it: reading the body, the template, tokenising, gRPC, Triton and the way back.",
        "framework_first_token",
    ),
    (
        ("vllm:inter_token_latency_seconds",),
        "Between tokens; coalesced tokens share a gap.",
        "inter_token_latency",
    ),
    (
        ("vllm:request_time_per_output_token_seconds", "gen_ai_server_time_per_output_token_seconds"),
        "(end - first token) / (tokens - 1) of a request, streams only.",
        "time_per_output_token",
    ),
    (
        ("vllm:e2e_request_latency_seconds", "gen_ai_server_request_duration_seconds"),
        "From the request's arrival to its last byte.",
        "e2e_latency",
    ),
    (("vllm:request_prompt_tokens",), "Prompt tokens of a request.", "request_prompt_tokens"),
    (("vllm:request_generation_tokens",), "Generated tokens of a request.", "request_generation_tokens"),
    (
        ("throughline_gateway_prepare_seconds",),
        "From the whole body to the request going upstream: decode, template, tokenise.",
        "prepare",
    ),
)
