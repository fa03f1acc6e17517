"""Metrics under OpenTelemetry's `gen_ai` names as Prometheus spells them, with the buckets that the conventions advise.

Names, attributes and boundaries: semantic conventions 1.41, docs/gen-ai/gen-ai-metrics.md. They have a name for tokens
on the client's side alone (`gen_ai.client.token.usage`), which is what this server counts by too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from throughline.gateway.board import Row
from throughline.gateway.tallies import Tally

if TYPE_CHECKING:
    from prometheus_client.core import HistogramMetricFamily, Metric

PROVIDER = "throughline"
# `gen_ai.operation.name` of the routes that an engine answers.
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
REQUEST_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKEN_BUCKETS = tuple(float(4**power) for power in range(14))
_LABELS = ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model"]
_TOKEN_TYPES = ("input", "output")
_OTHER = "_OTHER"
# Codes of the errors that an engine ends with, a client that left, and the conventions' word for all others.
_ERROR_TYPES = ("", "upstream_unavailable", "upstream_timeout", "upstream_error", "upstream_protocol", "abort", _OTHER)
OPERATION_LENGTH = (
    Tally.length(FIRST_TOKEN_BUCKETS)
    + Tally.length(PER_TOKEN_BUCKETS)
    + Tally.length(TOKEN_BUCKETS) * len(_TOKEN_TYPES)
    + Tally.length(REQUEST_BUCKETS) * len(_ERROR_TYPES)
)


class Operation:
    """What is counted for one model and one operation.

    Args:
        model: The model's id.
        name: `gen_ai.operation.name`.
        row: Where its numbers are; it takes `OPERATION_LENGTH` of them.

    Attributes:
        labels: Values of the labels that all of its series have.
        time_to_first_token: Seconds; streams that succeeded.
        time_per_output_token: Seconds; streams that succeeded.
        tokens: By `gen_ai.token.type`.
        durations: Seconds by `error.type`, which is empty for what succeeded.
    """

    def __init__(self, model: str, name: str, row: Row) -> None:
        self.labels = [name, PROVIDER, model, model]
        self.time_to_first_token = Tally(FIRST_TOKEN_BUCKETS, row)
        self.time_per_output_token = Tally(PER_TOKEN_BUCKETS, row)
        self.tokens = {kind: Tally(TOKEN_BUCKETS, row) for kind in _TOKEN_TYPES}
        self.durations = {kind: Tally(REQUEST_BUCKETS, row) for kind in _ERROR_TYPES}

    def ended(self, seconds: float, *, input_tokens: int, output_tokens: int, error_type: str = "") -> None:
        """Counts a request that has ended."""
        self.tokens["input"].observe(input_tokens)
        self.tokens["output"].observe(output_tokens)
        self.durations.get(error_type, self.durations[_OTHER]).observe(seconds)


def families(operations: Sequence[Operation]) -> Iterator[Metric]:
    """What Prometheus is shown of them; an operation that nobody asked for has no series."""
    from prometheus_client.core import HistogramMetricFamily as Family

    usage = Family("gen_ai_client_token_usage", "Input and output tokens used.", labels=[*_LABELS, "gen_ai_token_type"])
    duration = Family(
        "gen_ai_server_request_duration_seconds",
        "From the request's arrival to its last byte.",
        labels=[*_LABELS, "error_type"],
    )
    first = Family(
        "gen_ai_server_time_to_first_token_seconds",
        "From the request's arrival to its first token, streams that succeeded.",
        labels=_LABELS,
    )
    per_token = Family(
        "gen_ai_server_time_per_output_token_seconds",
        "(last token - first token) / (tokens - 1), streams that succeeded.",
        labels=_LABELS,
    )
    for each in operations:
        if not any(tally.count for tally in each.durations.values()):
            continue
        for kind, tally in each.tokens.items():
            _add(usage, [*each.labels, kind], tally)
        for error_type, tally in each.durations.items():
            if tally.count or not error_type:
                _add(duration, [*each.labels, error_type], tally)
        _add(first, each.labels, each.time_to_first_token)
        _add(per_token, each.labels, each.time_per_output_token)
    yield from (usage, duration, first, per_token)


def _add(family: HistogramMetricFamily, labels: list[str], tally: Tally) -> None:
    family.add_metric(labels, buckets=tally.buckets(), sum_value=tally.total)
