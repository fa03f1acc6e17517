"""Where traces go: an OpenTelemetry collector, or nobody."""

from __future__ import annotations

from pydantic import Field

from throughline.contracts.config import StrictModel

TRACES_PATH = "/v1/traces"
# A base URL as in OTEL_EXPORTER_OTLP_ENDPOINT: no query, no fragment, no password that a log could show.
_ENDPOINT = r"^https?://[^/\s?#@]+(/[^\s?#]*)?$"


class TracingSettings(StrictModel):
    """Spans of one process, by OTLP over HTTP.

    Attributes:
        endpoint: The collector's base URL, `http://host:4318`; `/v1/traces` is added. None switches tracing off.
        service_name: The spans' `service.name`; None takes `throughline-gateway` (or OTEL_SERVICE_NAME) and
            `throughline-triton`.
    """

    endpoint: str | None = Field(default=None, pattern=_ENDPOINT)
    service_name: str | None = Field(default=None, min_length=1, pattern=r"^[^\s,=]+$")

    @property
    def traces_url(self) -> str:
        """Where spans are posted; empty while tracing is off."""
        return f"{self.endpoint.rstrip('/')}{TRACES_PATH}" if self.endpoint else ""


class GatewayTracing(TracingSettings):
    """Spans of the gateway, where most traces begin.

    Attributes:
        sample_ratio: Part of the requests that is traced, of those that come without a `traceparent`; one that comes
            with it is traced if its caller's is.
    """

    sample_ratio: float = Field(default=1.0, ge=0.0, le=1.0)
