"""Traces of the gateway as a real collector takes them, and a gateway whose collector is away."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics as names
from prometheus_client.parser import text_string_to_metric_families

from tests.collector import Collector, Span
from tests.unit.gateway.fake_triton import Fail, FakeTriton, Say, Script, Seen, say
from tests.unit.gateway.key_stores import opened
from throughline.contracts.errors import ConfigError
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import GatewayProcess
from throughline.gateway.__main__ import read_spec
from throughline.gateway.keys import KeyLimits, new_key

SECRET = "the moon is made of cheese"
CHAT: dict[str, Any] = {"model": "lab", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 4}
SERVER, CLIENT = 2, 3


@pytest.fixture(scope="module")
def traced(make_spec: Callable[..., GatewaySpec], collector: Collector) -> Iterator[GatewayProcess]:
    """A gateway that hands on what it has recorded at once, and traces what others began and nothing else."""
    spec = make_spec(tracing={"endpoint": collector.endpoint, "sample_ratio": 0.0}, log_format="json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        with GatewayProcess(spec) as process:
            yield process


def chat(gateway: GatewayProcess, parent: str = "", path: str = "chat/completions", **fields: Any) -> httpx.Response:
    headers = {"traceparent": parent} if parent else {}
    body = {key: value for key, value in {**CHAT, **fields}.items() if value is not None}
    return httpx.post(f"{gateway.url}/v1/{path}", json=body, headers=headers, timeout=20)


def parent(number: int, flags: str = "01") -> tuple[str, str]:
    """A trace id and its `traceparent`."""
    trace_id = f"{number:032x}"
    return trace_id, f"00-{trace_id}-b7ad6b7169203331-{flags}"


def timed(script: Script, times: dict[str, int]) -> Script:
    """A script whose messages carry the engine's times."""

    def play(seen: Seen) -> Iterator[Say | Fail]:
        for step in script(seen):
            assert isinstance(step, Say)
            yield replace(step, times={f"{name}_time_ns": value for name, value in times.items()})

    return play


def test_a_request_is_a_span_of_its_caller_s_trace(
    traced: GatewayProcess, triton: FakeTriton, collector: Collector
) -> None:
    trace_id, header = parent(1)
    answer = chat(traced, header, temperature=0.5, top_p=0.9, seed=7, stream=True)
    request, call = collector.trace(trace_id, spans=2)
    assert (request.parent_id, request.kind, request.name) == ("b7ad6b7169203331", SERVER, "chat lab")
    assert (call.parent_id, call.kind) == (request.span_id, CLIENT)
    assert request.start <= call.start <= call.end <= request.end
    assert request.service == "throughline-gateway"
    assert answer.headers["traceparent"] == f"00-{trace_id}-{request.span_id}-01"
    assert triton.seen[0].metadata["traceparent"] == f"00-{trace_id}-{call.span_id}-01"
    assert request.attributes.pop("throughline.tokenize.seconds") > 0
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "url.path": "/v1/chat/completions",
        "url.scheme": "http",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "throughline",
        "gen_ai.request.model": "lab",
        "gen_ai.response.model": "lab",
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": len(triton.seen[0].prompt),
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.response.finish_reasons": ["stop"],
    }
    assert call.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelStreamInfer",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": triton.port,
    }


def test_no_span_has_what_was_said(traced: GatewayProcess, triton: FakeTriton, collector: Collector) -> None:
    trace_id, header = parent(2)
    triton.script = say("certainly of cheddar")
    chat(traced, header, stop=["cheddar!"], user="somebody")
    text = repr(collector.trace(trace_id, spans=2))
    assert [word for word in ("moon", "cheese", "certainly", "cheddar", "somebody") if word in text] == []


def test_the_log_names_the_trace(traced: GatewayProcess, triton: FakeTriton) -> None:
    trace_id, header = parent(3)
    chat(traced, header)
    # The answer leaves before the line is written.
    for _ in range(1000):
        if f'"trace_id":"{trace_id}"' in traced.log_tail(3):
            return
        httpx.get(f"{traced.url}/health")
    pytest.fail(traced.log_tail(3))


@pytest.mark.parametrize(
    ("header", "number"), [("", 0), (parent(4, "00")[1], 4), ("00-nonsense", 0)], ids=["none", "unsampled", "malformed"]
)
def test_what_is_not_sampled_reaches_neither_the_collector_nor_triton(
    traced: GatewayProcess, triton: FakeTriton, collector: Collector, header: str, number: int
) -> None:
    """Triton records whatever has a context, whether its flag says sampled or not."""
    before = collector.traces()
    answer = chat(traced, header)
    assert (answer.status_code, "traceparent" in answer.headers) == (200, False)
    assert "traceparent" not in triton.seen[0].metadata
    last, sampled = parent(100 + number)
    chat(traced, sampled)
    collector.trace(last, spans=2)
    # Earlier tests' spans may come now too; the gateway's own ids are large.
    assert [
        trace_id for trace_id in collector.traces() - before if int(trace_id, 16) == 4 or int(trace_id, 16) > 1000
    ] == []


@pytest.mark.parametrize(
    ("number", "method", "route", "path", "body", "status"),
    [
        (30, "POST", "/tokenize", "/tokenize", {"prompt": SECRET}, 200),
        (31, "POST", "/detokenize", "/detokenize", {"tokens": [5]}, 200),
        (32, "GET", "/v1/models", "/v1/models", None, 200),
        (33, "GET", "/v1/models/{id}", "/v1/models/lab", None, 200),
        (34, "GET", "/v1/models/{id}", "/v1/models/none", None, 404),
        (35, "POST", "/tokenize", "/tokenize", {"prompt": 5}, 400),
    ],
)
def test_routes_without_an_engine_are_one_span(
    traced: GatewayProcess,
    collector: Collector,
    number: int,
    method: str,
    route: str,
    path: str,
    body: Any,
    status: int,
) -> None:
    trace_id, header = parent(number)
    answer = httpx.request(method, traced.url + path, json=body, headers={"traceparent": header})
    [span] = collector.trace(trace_id, spans=1)
    assert (span.kind, span.name, span.parent_id) == (SERVER, f"{method} {route}", "b7ad6b7169203331")
    assert answer.headers["traceparent"] == f"00-{trace_id}-{span.span_id}-01"
    errors = {} if status == 200 else {"error.type": answer.json()["error"]["code"]}
    assert span.attributes == errors | {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": answer.status_code,
        "url.path": path,
        "url.scheme": "http",
    }
    assert answer.status_code == status
    assert SECRET not in repr(span)


def test_probes_are_no_spans(traced: GatewayProcess, triton: FakeTriton, collector: Collector) -> None:
    trace_id, header = parent(36)
    for path in ("/health", "/health/ready", "/metrics", "/openapi.json"):
        answer = httpx.get(traced.url + path, headers={"traceparent": header})
        assert answer.status_code == 200 and "traceparent" not in answer.headers
    # What came later has reached the collector, and nothing of the probes.
    httpx.get(f"{traced.url}/v1/models", headers={"traceparent": header})
    assert [span.name for span in collector.trace(trace_id, spans=1)] == ["GET /v1/models"]


def test_an_answer_to_a_key_carries_its_trace_and_its_limits(
    make_spec: Callable[..., GatewaySpec], triton: FakeTriton, collector: Collector, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'keys.sqlite'}"
    made, secret = new_key(name="test", tenant="lab", limits=KeyLimits(requests_per_minute=9), created=1)

    async def create() -> None:
        async with opened(url) as store:
            await store.create(made)

    asyncio.run(create())
    spec = make_spec(tracing={"endpoint": collector.endpoint}, keys={"store": url})
    with GatewayProcess(spec) as process:
        for number, path in ((37, "/v1/models"), (38, "/v1/chat/completions")):
            trace_id, header = parent(number)
            headers = {"traceparent": header, "authorization": f"Bearer {secret.reveal()}"}
            method, body = ("GET", None) if path == "/v1/models" else ("POST", CHAT)
            answer = httpx.request(method, process.url + path, json=body, headers=headers, timeout=20)
            assert answer.headers["traceparent"].startswith(f"00-{trace_id}-")
            assert answer.headers["x-ratelimit-limit-requests"] == "9"


def test_a_refusal_is_no_fault_of_the_server(traced: GatewayProcess, collector: Collector) -> None:
    trace_id, header = parent(5)
    assert chat(traced, header, max_tokenz=5).status_code == 400
    (refused,) = collector.trace(trace_id, spans=1)
    assert (refused.name, refused.attributes["http.response.status_code"]) == ("POST /v1/chat/completions", 400)
    assert (refused.attributes["error.type"], refused.failed) == ("unknown_parameter", False)


@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_s_fault(traced: GatewayProcess, triton: FakeTriton, collector: Collector, stream: bool) -> None:
    def broken(_: Seen) -> Iterator[Say | Fail]:
        yield Say("A", 1)
        yield Fail(grpc.StatusCode.INTERNAL, "it broke")

    triton.script = broken
    trace_id, header = parent(7 + stream)
    assert chat(traced, header, stream=stream).status_code == (200 if stream else 500)
    request, call = collector.trace(trace_id, spans=2)
    for span in (request, call):
        assert (span.attributes["error.type"], span.failed) == ("upstream_error", True)
    assert "gen_ai.response.finish_reasons" not in request.attributes
    assert "rpc.response.status_code" not in call.attributes


def test_a_request_that_is_sent_again_has_two_calls(
    traced: GatewayProcess, triton: FakeTriton, collector: Collector
) -> None:
    failed: list[Seen] = []

    def once_away(seen: Seen) -> Iterator[Say | Fail]:
        if not failed:
            failed.append(seen)
            yield Fail(grpc.StatusCode.UNAVAILABLE, "not yet")
        yield Say("A", 1, "stop")

    triton.script = once_away
    trace_id, header = parent(9)
    assert chat(traced, header).status_code == 200
    request, first, second = collector.trace(trace_id, spans=3)
    assert (first.parent_id, second.parent_id) == (request.span_id, request.span_id)
    assert (first.attributes["error.type"], first.failed) == ("upstream_unavailable", True)
    assert (second.failed, request.failed) == (False, False)
    assert "error.type" not in request.attributes


def phases(spans: list[Span]) -> dict[str, Span]:
    return {span.name: span for span in spans if span.name.startswith("engine.")}


def test_the_engine_s_times_on_this_machine_s_clock(
    traced: GatewayProcess, triton: FakeTriton, collector: Collector
) -> None:
    def now(seen: Seen) -> Iterator[Say | Fail]:
        at = time.monotonic_ns()
        times = {"arrival_time_ns": at - 3000, "first_scheduled_time_ns": at - 2000, "first_token_time_ns": at - 1000}
        yield Say("A", 1, times={**times, "last_token_time_ns": at - 1000})
        yield Say("B", 2, "stop", times={**times, "last_token_time_ns": at})

    triton.script = now
    trace_id, header = parent(10)
    before = time.time_ns()
    chat(traced, header, stream=True)
    spans = collector.trace(trace_id, spans=5)
    call = spans[1]
    found = phases(spans)
    assert list(found) == ["engine.queue", "engine.prefill", "engine.decode"]
    for span in found.values():
        assert (span.parent_id, span.end - span.start) == (call.span_id, 1000)
        assert before <= call.start <= span.start < span.end <= call.end


def test_the_engine_s_times_on_another_machine_s_clock(
    traced: GatewayProcess, triton: FakeTriton, collector: Collector
) -> None:
    """Only how long things took can be known: the last token was there before it was read here."""
    times = {"arrival": 5, "first_token": 5_000_005, "last_token": 7_000_005}
    triton.script = timed(say("Hello there"), times)
    trace_id, header = parent(11)
    chat(traced, header, stream=False)
    spans = collector.trace(trace_id, spans=4)
    found = phases(spans)
    assert {name: span.end - span.start for name, span in found.items()} == {
        "engine.first_token": 5_000_000,
        "engine.decode": 2_000_000,
    }
    request = next(span for span in spans if span.kind == SERVER)
    assert request.start < found["engine.decode"].end <= request.end


def test_the_settings_are_checked(make_spec: Callable[..., GatewaySpec], tmp_path: Path) -> None:
    spec = tmp_path / "gateway.json"
    for values in ({"endpoint": "localhost:4318"}, {"endpoint": "http://user:word@host"}, {"sample_ratio": 1.5}):
        spec.write_text(make_spec().model_copy(update={"tracing": values}).model_dump_json(warnings=False))
        with pytest.raises(ConfigError, match=rf"tracing\.{next(iter(values))}"):
            read_spec(spec)


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_collector_that_is_away_costs_one_line(
    make_spec: Callable[..., GatewaySpec], triton: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.5")
    endpoint = f"http://127.0.0.1:{unused_port()}"
    said = f"the collector takes no traces: spans are dropped until it does — {endpoint}"
    with GatewayProcess(make_spec(tracing={"endpoint": endpoint})) as gateway:
        deadline = time.monotonic() + 10
        while endpoint not in gateway.log_tail(1000) and time.monotonic() < deadline:
            assert chat(gateway).status_code == 200
        for _ in range(20):
            assert chat(gateway).status_code == 200
        log = gateway.log_tail(10_000)
    loud = [line for line in log.splitlines() if " INFO " not in line]
    assert len(loud) == 1 and said in loud[0]


def test_a_collector_that_never_answers_does_not_hold_the_end_up(
    make_spec: Callable[..., GatewaySpec], triton: FakeTriton
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with GatewayProcess(make_spec(tracing={"endpoint": endpoint})) as gateway:
            assert chat(gateway).status_code == 200
            begun = time.monotonic()
            gateway.stop()
        assert time.monotonic() - begun < 5


def samples(gateway: GatewayProcess) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Values of every `gen_ai` series by name and labels."""
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(httpx.get(f"{gateway.url}/metrics").text):
        for sample in family.samples:
            if sample.name.startswith("gen_ai"):
                found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def test_metrics_have_the_conventions_names_and_labels(traced: GatewayProcess, triton: FakeTriton) -> None:
    before = samples(traced)
    chat(traced, path="completions", stream=True, messages=None, prompt="Hi")
    after = samples(traced)
    prompt = len(triton.seen[0].prompt)
    labels = {
        "gen_ai_operation_name": "text_completion",
        "gen_ai_provider_name": "throughline",
        "gen_ai_request_model": "lab",
        "gen_ai_response_model": "lab",
    }

    def gain(name: str, **more: str) -> float:
        key = frozenset((labels | more).items())
        return after[name][key] - before.get(name, {}).get(key, 0.0)

    assert gain("gen_ai_client_token_usage_sum", gen_ai_token_type="input") == prompt
    assert gain("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == 4
    assert gain("gen_ai_server_request_duration_seconds_count", error_type="") == 1
    assert gain("gen_ai_server_time_to_first_token_seconds_count") == 1
    assert gain("gen_ai_server_time_per_output_token_seconds_count") == 1
    spelled = {re.sub(r"_seconds$", "", re.sub(r"_(bucket|sum|count|created)$", "", name)) for name in after}
    assert spelled == {
        name.replace(".", "_")
        for name in (
            names.GEN_AI_CLIENT_TOKEN_USAGE,
            names.GEN_AI_SERVER_REQUEST_DURATION,
            names.GEN_AI_SERVER_TIME_TO_FIRST_TOKEN,
            names.GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN,
        )
    }
