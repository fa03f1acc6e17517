"""Takes the gateway's spans (OTLP over HTTP) on loopback, and makes the parts of requests of them."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from throughline.benchmarking.targets import Driven
from throughline.contracts.benchmark import BenchRequest, Load, RequestRecord

# Of a trace, by the spans' names: begin and end in seconds of the wall clock, and how long the tokenizer took.
Spans = Mapping[str, tuple[float, float, float]]
QUEUE, PREFILL, DECODE = "engine.queue", "engine.prefill", "engine.decode"
SERVER, CALL = "server", "call"
_NEEDED = frozenset({SERVER, CALL, QUEUE, PREFILL})
# As the gateway names it.
_TOKENIZE_SECONDS = "throughline.tokenize.seconds"
# Traced requests of a run: enough for means, and few enough to cost next to nothing.
_MOST_TRACES = 300
# OpenTelemetry's batches leave after five seconds.
_LONGEST_WAIT_SECONDS = 8.0
_SPAN_KINDS = {2: SERVER, 3: CALL}


class SpanReceiver:
    """Listens for the length of the block and keeps what comes, unread until somebody asks."""

    def __init__(self) -> None:
        self._server = _Server()
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        """As in `gateway.tracing.endpoint`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def traces(self, wanted: Iterable[str]) -> dict[str, Spans]:
        """Returns the spans of the traces by their ids, waiting a few seconds for those that have not come."""
        missing = set(wanted)
        ids = frozenset(missing)
        deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
        found: dict[str, dict[str, tuple[float, float, float]]] = defaultdict(dict)
        with self._server.more:
            while True:
                for body in self._server.take():
                    for trace, name, *times in _read(body):
                        if trace in ids:
                            found[trace][name] = (times[0], times[1], times[2])
                missing -= {trace for trace, spans in found.items() if spans.keys() >= _NEEDED}
                left = deadline - time.monotonic()
                if not missing or left <= 0:
                    return dict(found)
                self._server.more.wait(left)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.more = threading.Condition()
        self.bodies: list[bytes] = []

    def take(self) -> list[bytes]:
        bodies, self.bodies = self.bodies, []
        return bodies


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        """`/v1/traces`, in protobuf."""
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.server.more:
            self.server.bodies.append(body)
            self.server.more.notify_all()
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def _read(body: bytes) -> Iterator[tuple[str, str, float, float, float]]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                name = _SPAN_KINDS.get(span.kind, span.name)
                tokenize = sum(each.value.double_value for each in span.attributes if each.key == _TOKENIZE_SECONDS)
                yield (
                    span.trace_id.hex(),
                    name,
                    span.start_time_unix_nano / 1e9,
                    span.end_time_unix_nano / 1e9,
                    tokenize,
                )


def traced(sessions: Sequence[Sequence[BenchRequest]], seed: int) -> list[list[BenchRequest]]:
    """Returns the sessions with a trace context on an even share of the requests, a few hundred at most."""
    rng = random.Random(f"{seed}/traces")
    every = max(1, sum(len(session) for session in sessions) // _MOST_TRACES)
    found, number = [], 0
    for session in sessions:
        kept = []
        for request in session:
            if number % every == 0 and not request.cancel_after:
                parent = f"00-{rng.getrandbits(128) or 1:032x}-{rng.getrandbits(64) or 1:016x}-01"
                request = replace(request, trace_parent=parent)
            number += 1
            kept.append(request)
        found.append(kept)
    return found


def with_phases(driven: Driven, load: Load, receiver: SpanReceiver) -> Driven:
    """Returns the records with the parts of those requests whose trace has come."""
    ids = {
        (record.session, record.turn): parent.split("-")[1]
        for record in driven.records
        if record.ok and (parent := load.sessions[record.session][record.turn].trace_parent)
    }
    traces = receiver.traces(ids.values())
    # The records' clock has no date, the spans' has.
    shift = time.time() - time.perf_counter()
    records = [
        replace(record, phases=phases(record, traces[ids[key]], shift))
        if (key := (record.session, record.turn)) in ids and ids[key] in traces
        else record
        for record in driven.records
    ]
    return replace(driven, records=records)


def phases(record: RequestRecord, spans: Spans, shift: float) -> dict[str, float]:
    """Returns seconds by part; empty if a span is missing.

    Args:
        record: What the client saw.
        spans: The request's.
        shift: What makes a time of the record one of the wall clock.
    """
    if not spans.keys() >= _NEEDED:
        return {}
    begin, end = record.begin + shift, record.end + shift
    arrived, answered, tokenize = spans[SERVER]
    called, scheduled = spans[CALL][0], spans[QUEUE][1]
    prefill_begin, prefill_end, _ = spans[PREFILL]
    # An answer of one token has nothing to decode.
    decode_begin, decode_end, _ = spans.get(DECODE, (prefill_end, prefill_end, 0.0))
    return {
        "gateway": called - arrived - tokenize,
        "tokenize": tokenize,
        "queue": scheduled - called,
        "prefill": prefill_end - prefill_begin,
        "decode": decode_end - decode_begin,
        "detokenize": min(answered, end) - decode_end,
        "network": arrived - begin + max(0.0, end - answered),
    }
