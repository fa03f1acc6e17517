"""A collector of traces on loopback: takes OTLP over HTTP, protobuf from Python and JSON from Triton."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WAIT = 15.0


@dataclass(frozen=True)
class Span:
    """One span as it came over the wire; ids in hexadecimal, times in nanoseconds since the epoch."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start: int
    end: int
    attributes: dict[str, Any]
    failed: bool


class Collector(ThreadingHTTPServer):
    """Keeps every span; `status` is what it answers with."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self._spans: list[Span] = []
        self._more = threading.Condition()

    @property
    def endpoint(self) -> str:
        """As in `OTEL_EXPORTER_OTLP_ENDPOINT`."""
        return f"http://127.0.0.1:{self.server_port}"

    def trace(self, trace_id: str, *, spans: int) -> list[Span]:
        """Waits until so many spans of a trace have come, and returns them by their start."""
        deadline = time.monotonic() + WAIT
        with self._more:
            while len(found := [span for span in self._spans if span.trace_id == trace_id]) < spans:
                if not self._more.wait(deadline - time.monotonic()):
                    raise AssertionError(f"{len(found)} of {spans} spans came: {[span.name for span in found]}")
        return sorted(found, key=lambda span: span.start)

    def whole(self, trace_ids: Sequence[str], *, spans: int) -> list[Span]:
        """Waits until one of the traces has so many spans; returns them by their start."""
        deadline = time.monotonic() + WAIT
        with self._more:
            while True:
                found = [[span for span in self._spans if span.trace_id == each] for each in trace_ids]
                for trace in found:
                    if len(trace) >= spans:
                        return sorted(trace, key=lambda span: span.start)
                if not self._more.wait(deadline - time.monotonic()):
                    raise AssertionError(f"of {spans} spans came: {[[span.name for span in each] for each in found]}")

    def traces(self) -> set[str]:
        """Ids of all traces that have come."""
        with self._more:
            return {span.trace_id for span in self._spans}

    def take(self, spans: list[Span]) -> None:
        """Called with every batch."""
        with self._more:
            self._spans += spans
            self._more.notify_all()


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that runs in a thread."""
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, daemon=True)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        """`/v1/traces`."""
        body = self._body()
        if self.path == "/v1/traces" and self.server.status == 200:
            kind = self.headers["content-type"]
            self.server.take(list(_spans(json.loads(body) if kind.startswith("application/json") else _decoded(body))))
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers["content-length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def _decoded(body: bytes) -> Any:
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    found = MessageToDict(ExportTraceServiceRequest.FromString(body), use_integers_for_enums=True)
    for span in (each for item in found["resourceSpans"] for scope in item["scopeSpans"] for each in scope["spans"]):
        # OTLP's own JSON has ids in hexadecimal, protobuf's in base64.
        for name in ("traceId", "spanId", "parentSpanId"):
            span[name] = base64.b64decode(span.get(name, "")).hex()
    return found


def _spans(request: Any) -> Iterator[Span]:
    for item in request["resourceSpans"]:
        service = _attributes(item["resource"])["service.name"]
        for span in (each for scope in item["scopeSpans"] for each in scope["spans"]):
            yield Span(
                service,
                span["name"],
                span["traceId"],
                span["spanId"],
                span.get("parentSpanId", ""),
                span["kind"],
                int(span["startTimeUnixNano"]),
                int(span["endTimeUnixNano"]),
                _attributes(span),
                span.get("status", {}).get("code", 0) == 2,
            )


def _attributes(owner: Any) -> dict[str, Any]:
    return {each["key"]: _value(each["value"]) for each in owner.get("attributes", ())}


def _value(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "intValue":
        return int(content)
    if kind == "arrayValue":
        return [_value(each) for each in content.get("values", ())]
    return content
