"""Traces by OpenTelemetry: a span for a request, one for each call to Triton, and the engine's own times below it.

Names are those of the `gen_ai`, HTTP and RPC conventions. What people wrote and models answered is in none of them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv._incubating.attributes import rpc_attributes as rpc
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes, url_attributes
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from throughline.gateway.call import Call
from throughline.gateway.embedding_jobs import EmbeddingJob
from throughline.gateway.errors import ApiError
from throughline.gateway.exporting import Exporting
from throughline.gateway.gen_ai import OPERATIONS, PROVIDER
from throughline.gateway.http import Exchange
from throughline.gateway.jobs import Job
from throughline.gateway.trace import STREAM, TOKENIZE_SECONDS, CallEnd, CallTrace, Metadata, RequestTrace

_SERVICE = "inference.GRPCInferenceService"
_PARENT, _STATE = "traceparent", "tracestate"
_W3C = TraceContextTextMapPropagator()
_ENDED_WITHOUT_ANSWER = frozenset({"abort", "error"})


class Traced:
    """The stage that makes a request a span; outermost, so that refusals have one too."""

    def __init__(self, exporting: Exporting) -> None:
        self._exporting = exporting

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Raises nothing of its own."""
        exchange = call.exchange
        tracer = self._exporting.tracer
        context = _W3C.extract(dict(_carrier(exchange)))
        span = tracer.start_span(f"{exchange.method} {exchange.route}", context, SpanKind.SERVER)
        if not span.is_recording():
            yield
            return
        recorded = RecordedRequest(tracer, span)
        exchange.trace = recorded
        exchange.headers.append((_PARENT.encode(), dict(recorded.metadata)[_PARENT].encode()))
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            recorded.end(exchange, call.job, error)


def _carrier(exchange: Exchange) -> Iterator[tuple[str, str]]:
    for name in (_PARENT, _STATE):
        value = exchange.header(name.encode())
        if value:
            yield name, value.decode("latin-1")


class RecordedRequest(RequestTrace):
    """A request with a span.

    Args:
        tracer: Makes the spans below it.
        span: Its own.
    """

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer, self._span = tracer, span
        self._context = trace.set_span_in_context(span)
        self.trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        self.error_type = ""
        self._tokenize_seconds = 0.0

    @property
    def metadata(self) -> Metadata:
        """The W3C headers that hand its context on."""
        return _headers(self._context)

    def call(self, url: str, method: str = STREAM) -> CallTrace:
        """See `RequestTrace.call`."""
        return RecordedCall(self, self._tracer, self._context, url, f"{_SERVICE}/{method}")

    @contextmanager
    def tokenizing(self) -> Iterator[None]:
        """See `RequestTrace.tokenizing`; several prompts add up."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._tokenize_seconds += time.perf_counter() - began

    def end(self, exchange: Exchange, job: Job | EmbeddingJob | None, error: BaseException | None) -> None:
        """Ends the span with what the request asked for and how it ended."""
        span = self._span
        status = exchange.status
        error_type = ""
        if isinstance(error, ApiError):
            status = status or error.status
            error_type = error.code or str(error.status)
        elif error is not None:
            # A client that leaves while it sends is the one error that is not ours.
            error_type = "abort" if isinstance(error, ConnectionError) else type(error).__name__
        elif exchange.outcome in _ENDED_WITHOUT_ANSWER:
            error_type = self.error_type or exchange.outcome
        span.set_attributes(_http(exchange, status))
        if job is not None:
            span.update_name(f"{OPERATIONS[exchange.route]} {job.model.id}")
            span.set_attributes(_asked(exchange, job))
            span.set_attributes(_answered(exchange, job))
            span.set_attribute(TOKENIZE_SECONDS, self._tokenize_seconds)
        if error_type:
            span.set_attribute(error_attributes.ERROR_TYPE, error_type)
            # By the HTTP conventions what a client did wrong is no error of the server.
            if status >= 500 if isinstance(error, ApiError) else error_type != "abort":
                span.set_status(StatusCode.ERROR)
        span.end()


def _http(exchange: Exchange, status: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        http_attributes.HTTP_REQUEST_METHOD: exchange.method,
        http_attributes.HTTP_ROUTE: exchange.route,
        url_attributes.URL_PATH: exchange.path,
        url_attributes.URL_SCHEME: "http",
    }
    if exchange.route in OPERATIONS:
        found[gen_ai.GEN_AI_OPERATION_NAME] = OPERATIONS[exchange.route]
        found[gen_ai.GEN_AI_PROVIDER_NAME] = PROVIDER
    if status:
        found[http_attributes.HTTP_RESPONSE_STATUS_CODE] = status
    return found


def _asked(exchange: Exchange, job: Job | EmbeddingJob) -> dict[str, Any]:
    if isinstance(job, EmbeddingJob):
        return {
            gen_ai.GEN_AI_REQUEST_MODEL: job.model.id,
            gen_ai.GEN_AI_EMBEDDINGS_DIMENSION_COUNT: job.dimensions,
            gen_ai.GEN_AI_REQUEST_ENCODING_FORMATS: ["base64" if job.base64 else "float"],
        }
    params = job.choices[0].params
    found: dict[str, Any] = {
        gen_ai.GEN_AI_REQUEST_MODEL: job.model.id,
        gen_ai.GEN_AI_REQUEST_MAX_TOKENS: params.max_tokens,
        gen_ai.GEN_AI_REQUEST_TEMPERATURE: params.temperature,
        gen_ai.GEN_AI_REQUEST_TOP_P: params.top_p,
        gen_ai.GEN_AI_REQUEST_STREAM: job.stream,
    }
    for name, value in (
        (gen_ai.GEN_AI_REQUEST_TOP_K, float(params.top_k)),
        (gen_ai.GEN_AI_REQUEST_FREQUENCY_PENALTY, params.frequency_penalty),
        (gen_ai.GEN_AI_REQUEST_PRESENCE_PENALTY, params.presence_penalty),
    ):
        if value:
            found[name] = value
    if job.n != 1:
        found[gen_ai.GEN_AI_REQUEST_CHOICE_COUNT] = job.n
    # OpenTelemetry's integers have 63 bits and a sign; a seed may have 64.
    if params.seed is not None and params.seed < 2**63:
        found[gen_ai.GEN_AI_REQUEST_SEED] = params.seed
    return found


def _answered(exchange: Exchange, job: Job | EmbeddingJob) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if exchange.outcome:
        found[gen_ai.GEN_AI_RESPONSE_MODEL] = job.model.id
        found[gen_ai.GEN_AI_USAGE_INPUT_TOKENS] = exchange.prompt_tokens
        if isinstance(job, EmbeddingJob):
            return found
        found[gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS] = exchange.completion_tokens
        if exchange.outcome not in _ENDED_WITHOUT_ANSWER:
            found[gen_ai.GEN_AI_RESPONSE_FINISH_REASONS] = exchange.outcome.split(",")
    return found


class RecordedCall(CallTrace):
    """A call to Triton with a span, of a request with one."""

    def __init__(self, request: RecordedRequest, tracer: trace.Tracer, parent: Any, url: str, method: str) -> None:
        self._request, self._tracer = request, tracer
        host, _, port = url.rpartition(":")
        attributes: dict[str, str | int] = {
            rpc.RPC_SYSTEM_NAME: rpc.RpcSystemNameValues.GRPC.value,
            rpc.RPC_METHOD: method,
            server_attributes.SERVER_ADDRESS: host,
            server_attributes.SERVER_PORT: int(port),
        }
        # The three clocks at one moment: of the wall, of the engine if it is on this machine, of `TokenStream`.
        self._wall, self._monotonic, self._counter = time.time_ns(), time.monotonic_ns(), time.perf_counter()
        self._span = tracer.start_span(method, parent, SpanKind.CLIENT, attributes, start_time=self._wall)
        self._context = trace.set_span_in_context(self._span)
        # Only what is recorded goes to Triton, which would record a context without the sampled flag too.
        self.metadata = _headers(self._context)

    def end(self, tokens: CallEnd) -> None:
        """Ends the span, with the engine's times below it where the engine has told them."""
        if tokens.finish_reason:
            self._span.set_attribute(rpc.RPC_RESPONSE_STATUS_CODE, "OK")
        else:
            self._request.error_type = tokens.error_type or "abort"
            self._span.set_attribute(error_attributes.ERROR_TYPE, self._request.error_type)
            self._span.set_status(StatusCode.ERROR)
        for name, begin, end in self._phases(tokens):
            self._tracer.start_span(name, self._context, start_time=begin).end(end)
        self._span.end()

    def _phases(self, tokens: CallEnd) -> Iterator[tuple[str, int, int]]:
        """Names, begins and ends, in nanoseconds of the wall clock."""
        times = tokens.times
        if not times:
            return
        arrival, first, last = times["arrival"], times["first_token"], times.get("last_token")
        read = self._monotonic + round((tokens.read_at - self._counter) * 1e9)
        if self._monotonic <= arrival <= first <= (last or first) <= read:
            shift = self._wall - self._monotonic
        elif last is not None:
            # Another machine's clock says how long things took; its last token was there just before it was read here.
            shift = self._wall - self._monotonic + read - last
        else:
            return
        scheduled = times.get("first_scheduled")
        if scheduled is None:
            yield "engine.first_token", arrival + shift, first + shift
        else:
            yield "engine.queue", arrival + shift, scheduled + shift
            yield "engine.prefill", scheduled + shift, first + shift
        if last is not None and last > first:
            yield "engine.decode", first + shift, last + shift


def _headers(context: Any) -> Metadata:
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, context)
    return tuple(carrier.items())
