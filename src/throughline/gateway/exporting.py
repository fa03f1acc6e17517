"""Sends spans to a collector from a thread of its own: no request waits for it, whatever state it is in."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_SERVICE_NAME
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from throughline import __version__
from throughline.contracts.tracing import GatewayTracing

logger = logging.getLogger("throughline.gateway")
SERVICE = "throughline-gateway"
_FLUSH_SECONDS = 2.0
# What these say of every failed try and every lost span, `_Exporter` says once.
_TRIES = logging.getLogger("opentelemetry.exporter")
_QUEUE = logging.getLogger("opentelemetry.sdk._shared_internal")


class Exporting:
    """One process's tracer and what it records.

    OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_*, OTEL_EXPORTER_OTLP_HEADERS, _TIMEOUT, _COMPRESSION, _CERTIFICATE and the like
    count as the SDK documents them; where spans go and how many are recorded is the settings' affair.

    Args:
        settings: With an endpoint.

    Attributes:
        tracer: Makes spans; records none before `open`.
    """

    def __init__(self, settings: GatewayTracing) -> None:
        self._settings = settings
        self._provider: TracerProvider | None = None
        self.tracer: trace.Tracer = trace.NoOpTracer()

    def open(self) -> None:
        """Starts the thread that sends."""
        settings = self._settings
        name = settings.service_name or os.environ.get(OTEL_SERVICE_NAME) or SERVICE
        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            resource=Resource.create({SERVICE_NAME: name, SERVICE_VERSION: __version__}),
            # The process's own end waits for nobody: `close` does, and not for long.
            shutdown_on_exit=False,
        )
        provider.add_span_processor(BatchSpanProcessor(_Exporter(settings.traces_url)))
        self._provider = provider
        self.tracer = provider.get_tracer("throughline.gateway", __version__)

    async def close(self) -> None:
        """Sends what is left, or what a collector takes of it within two seconds."""
        if self._provider is None:
            return
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, _FLUSH_SECONDS)


class _Exporter(SpanExporter):
    """Says once that the collector does not take spans, and once that it does again."""

    def __init__(self, url: str) -> None:
        self._inner = OTLPSpanExporter(endpoint=url)
        self._url = url
        self._away = False
        _TRIES.addHandler(logging.NullHandler())
        _TRIES.propagate = False
        _QUEUE.addFilter(lambda record: not self._away or record.levelno >= logging.ERROR)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See `SpanExporter.export`."""
        result = self._inner.export(spans)
        away = result is not SpanExportResult.SUCCESS
        if away and not self._away:
            logger.warning("the collector takes no traces: spans are dropped until it does — %s", self._url)
        elif self._away and not away:
            logger.info("the collector takes traces again — %s", self._url)
        self._away = away
        return result

    def shutdown(self) -> None:
        """See `SpanExporter.shutdown`."""
        self._inner.shutdown()  # type: ignore[no-untyped-call]  # untyped there
