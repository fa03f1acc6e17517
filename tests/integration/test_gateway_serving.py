"""The gateway before the real Triton and the real engine, through the stock `openai` client."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families

from tests.collector import Collector
from tests.conftest import RunningTriton
from tests.waiting import until
from throughline import engines
from throughline.contracts.engine import SamplingParams
from throughline.contracts.gateway import GatewaySpec, UpstreamSettings
from throughline.contracts.tracing import GatewayTracing
from throughline.gateway import GatewayProcess

pytestmark = pytest.mark.integration

MESSAGES: Any = [{"role": "user", "content": "Ticket 4821: pump P-101A trips. What is the code?"}]
LOOKUP = {
    "type": "object",
    "properties": {"code": {"type": "integer"}, "unit": {"enum": ["pump", "valve"]}},
    "required": ["code", "unit"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "function": {"name": "lookup", "parameters": LOOKUP}}]


@pytest.fixture(scope="module")
def gateway(triton_server: RunningTriton, collector: Collector) -> Iterator[GatewayProcess]:
    """Traces what a client has begun, and nothing else."""
    route = triton_server.route("lab-model")
    tracing = GatewayTracing(endpoint=collector.endpoint, sample_ratio=0.0)
    with GatewayProcess(GatewaySpec(port=0, models=(route,), tracing=tracing)) as process:
        yield process


@pytest.fixture(scope="module")
def multiplexed(triton_server: RunningTriton, tiny_engine: Path) -> Iterator[GatewayProcess]:
    """A gateway whose requests share one stream to Triton."""
    route = triton_server.route("lab-model")
    spec = GatewaySpec(port=0, models=(route,), upstream=UpstreamSettings(stream="multiplexed"))
    with GatewayProcess(spec) as process:
        yield process


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=30)


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    values = {"model": "lab-model", "messages": MESSAGES, "temperature": 0, "max_tokens": 24, **fields}
    return client.chat.completions.create(**values)


def joined(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def active(triton_server: RunningTriton) -> float:
    """Requests in the engine, as Triton's own metrics say."""
    text = httpx.get(f"http://127.0.0.1:{triton_server.metrics_port}/metrics").text
    found = re.search(r'nv_trt_llm_request_metrics\{[^}]*request_type="active"[^}]*\} ([0-9.e+]+)', text)
    return float(found[1]) if found else -1.0


def cancelled(triton_server: RunningTriton) -> float:
    """Requests that ended because their clients left, as Triton's own metrics say."""
    text = httpx.get(f"http://127.0.0.1:{triton_server.metrics_port}/metrics").text
    found = re.search(r'throughline_finished_requests_total\{[^}]*"cancelled"[^}]*\} ([0-9.e+]+)', text)
    return float(found[1]) if found else 0.0


def test_ready_and_models(gateway: GatewayProcess, client: openai.OpenAI) -> None:
    assert httpx.get(f"{gateway.url}/health/ready").status_code == 200
    assert [model.id for model in client.models.list()] == ["lab-model"]


def test_the_queue_and_the_cache_have_vllm_s_names_on_triton_s_page(triton_server: RunningTriton) -> None:
    page = httpx.get(f"http://127.0.0.1:{triton_server.metrics_port}/metrics").text
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.labels.get("model_name") == triton_server.model
    }
    assert found["vllm:num_requests_waiting"] == 0
    assert 0 <= found["vllm:kv_cache_usage_perc"] <= 1


def test_stream_and_whole_answer_are_the_same_text(client: openai.OpenAI) -> None:
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert joined(chunks) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len(chunks) > 3


def test_the_prompt_is_what_transformers_makes(client: openai.OpenAI, triton_server: RunningTriton) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(triton_server.engine_dir)
    ids = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    chat = ask(client)
    text = client.completions.create(model="lab-model", prompt=ids, temperature=0, max_tokens=24)
    assert text.choices[0].text == chat.choices[0].message.content
    assert text.usage
    assert text.usage.prompt_tokens == len(ids) == chat.usage.prompt_tokens


def test_lengths(client: openai.OpenAI) -> None:
    answer = ask(client, max_tokens=40, extra_body={"ignore_eos": True})
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (40, "length")
    least = ask(client, max_tokens=40, extra_body={"min_tokens": 30})
    assert least.usage.completion_tokens >= 30


def test_stop_ends_the_text_before_it(client: openai.OpenAI) -> None:
    full = ask(client, extra_body={"ignore_eos": True}).choices[0].message.content
    assert len(full) > 8
    stop = full[6:8]
    expected = full[: full.index(stop)]
    for stream in (False, True):
        answer = ask(client, stop=[stop], stream=stream, extra_body={"ignore_eos": True})
        if stream:
            chunks = list(answer)
            text, reason = joined(chunks), chunks[-1].choices[0].finish_reason
        else:
            text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert (text, reason) == (expected, "stop")


def test_seed(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str:
        answer = ask(client, temperature=1.5, seed=seed, extra_body={"ignore_eos": True})
        return str(answer.choices[0].message.content)

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "lookup"}}])
def test_a_forced_call_is_one_call_whose_arguments_follow_the_schema(
    client: openai.OpenAI, choice: Any, stream: bool
) -> None:
    answer = ask(client, tools=TOOLS, tool_choice=choice, stream=stream, max_tokens=100, temperature=1.0, seed=1)
    if stream:
        deltas = [chunk.choices[0].delta for chunk in answer if chunk.choices]
        assert not any(delta.content for delta in deltas)
        parts = [call.function for delta in deltas for call in delta.tool_calls or []]
        name, arguments = parts[0].name, "".join(part.arguments or "" for part in parts)
    else:
        [call] = answer.choices[0].message.tool_calls
        name, arguments = call.function.name, call.function.arguments
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (None, "tool_calls")
    assert name == "lookup"
    Draft202012Validator(LOOKUP).validate(json.loads(arguments))


@pytest.mark.parametrize("stream", [False, True])
def test_a_json_schema_holds_the_answer(client: openai.OpenAI, stream: bool) -> None:
    given = {"type": "json_schema", "json_schema": {"name": "code", "schema": LOOKUP, "strict": True}}
    answer = ask(client, response_format=given, stream=stream, max_tokens=200, temperature=1.0, seed=1)
    text = joined(list(answer)) if stream else answer.choices[0].message.content
    Draft202012Validator(LOOKUP).validate(json.loads(text))


def test_a_strict_tool_leaves_text_free(client: openai.OpenAI) -> None:
    strict: Any = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    free = ask(client, tools=TOOLS, extra_body={"ignore_eos": True}).choices[0]
    guided = ask(client, tools=strict, extra_body={"ignore_eos": True}).choices[0]
    assert guided.finish_reason == "length"
    assert bool(guided.message.content) == bool(free.message.content)


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_the_engines(client: openai.OpenAI, tiny_engine: Path, stream: bool) -> None:
    runtime = engines.load(tiny_engine)
    runtime.submit("a", [5, 6, 7], SamplingParams(max_tokens=8, ignore_eos=True, logprobs=True))
    outputs = [output for _ in range(20) for output in (runtime.step() if runtime.has_work() else ())]
    runtime.close()
    expected = [value for output in outputs for value in output.logprobs]
    answer: Any = client.completions.create(
        model="lab-model",
        prompt=[5, 6, 7],
        max_tokens=8,
        temperature=0,
        logprobs=0,
        stream=stream,
        extra_body={"ignore_eos": True},
    )
    choices = [chunk.choices[0] for chunk in answer if chunk.choices] if stream else answer.choices
    parts = [choice.logprobs for choice in choices if choice.logprobs]
    assert len(expected) == 8
    assert [value for part in parts for value in part.token_logprobs] == pytest.approx(expected, abs=1e-3)
    assert sum(len(part.tokens) for part in parts) == 8


@pytest.mark.parametrize("stream", [True, False])
def test_one_trace_from_the_client_through_triton_to_the_engine(
    client: openai.OpenAI, collector: Collector, stream: bool
) -> None:
    # Triton sometimes loses its own spans of an answer that comes at once (docs/log.md).
    caller, trace_ids = "b7ad6b7169203331", [secrets.token_hex(16) for _ in range(4)]
    for trace_id in trace_ids:
        header = {"traceparent": f"00-{trace_id}-{caller}-01"}
        answer = ask(client, stream=stream, extra_headers=header, extra_body={"ignore_eos": True})
        assert not stream or len(list(answer)) > 3
    spans = {span.name: span for span in collector.whole(trace_ids, spans=8)}
    request, call = spans["chat lab-model"], spans["inference.GRPCInferenceService/ModelStreamInfer"]
    assert (request.service, request.parent_id) == ("throughline-gateway", caller)
    assert request.attributes["gen_ai.usage.output_tokens"] == 24
    assert call.parent_id == request.span_id
    served, model = spans["InferRequest"], spans["lab"]
    assert {span.service for span in (served, model)} == {"throughline-triton"}
    assert (served.parent_id, model.parent_id) == (call.span_id, served.span_id)
    phases = [spans[f"engine.{name}"] for name in ("queue", "prefill", "decode")]
    assert {phase.parent_id for phase in phases} == {call.span_id}
    # One machine, one clock: the engine worked within the call, and that within the request.
    within = [phase.start for phase in phases] + [phases[-1].end]
    moments = [request.start, call.start, *within, call.end, request.end]
    assert moments == sorted(moments)
    assert [phase.end for phase in phases] == within[1:]


async def test_many_async_streams_at_once(gateway: GatewayProcess) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:

        async def one(number: int, stream: bool) -> str:
            messages: Any = [{"role": "user", "content": f"Ticket {number}"}]
            fields: Any = {"model": "lab-model", "messages": messages, "temperature": 0, "max_tokens": 16}
            answer: Any = await client.chat.completions.create(**fields, stream=stream)
            if stream:
                return joined([chunk async for chunk in answer])
            return str(answer.choices[0].message.content)

        numbers = [*range(8)] * 2
        streamed = await asyncio.gather(*(one(number, True) for number in numbers))
        whole = await asyncio.gather(*(one(number, False) for number in numbers))
    assert streamed == whole
    assert streamed[:8] == streamed[8:]


def test_a_client_that_leaves_stops_the_engine(client: openai.OpenAI, triton_server: RunningTriton) -> None:
    assert until(lambda: active(triton_server) == 0)
    fields = {"max_tokens": 440, "stream": True, "extra_body": {"ignore_eos": True}}
    with ask(client, **fields) as stream:
        next(iter(stream))
    assert until(lambda: active(triton_server) == 0)
    assert cancelled(triton_server) >= 1


def test_bad_requests_leave_others_undisturbed(gateway: GatewayProcess, client: openai.OpenAI) -> None:
    fields = {"max_tokens": 200, "extra_body": {"ignore_eos": True}}
    expected = ask(client, **fields).choices[0].message.content
    stream = iter(ask(client, stream=True, **fields))
    chunks = [next(stream)]
    chat = {"model": "lab-model", "messages": MESSAGES}
    bad: list[tuple[int, bytes]] = [
        (400, b"{nonsense"),
        (400, json.dumps({**chat, "max_tokenz": 5}).encode()),
        (404, json.dumps({**chat, "model": "other"}).encode()),
        (400, json.dumps({**chat, "max_tokens": -5}).encode()),
        (400, json.dumps({**chat, "max_tokens": 5000}).encode()),
        (400, json.dumps({**chat, "messages": [{"role": "user", "content": "x " * 5000}]}).encode()),
        (413, b"x" * (5 * 2**20)),
    ]
    for status, body in bad:
        response = httpx.post(f"{gateway.url}/v1/chat/completions", content=body, timeout=30)
        assert (response.status_code, list(response.json())) == (status, ["error"])
        chunks.append(next(stream))
    assert joined([*chunks, *stream]) == expected


def test_control_tokens_in_a_message_do_not_end_it(client: openai.OpenAI) -> None:
    def tokens(content: str) -> int:
        answer = ask(client, messages=[{"role": "user", "content": content}], max_tokens=1)
        return int(answer.usage.prompt_tokens)

    assert tokens("a<|im_end|>b") - tokens("ab") > 1


def test_choices_are_the_answers_of_their_seeds(client: openai.OpenAI) -> None:
    sampled = {"temperature": 0.9, "max_tokens": 12}
    alone = [ask(client, seed=7 + number, **sampled).choices[0].message.content for number in range(3)]
    urgent = {"priority": -5}
    together = ask(client, seed=7, n=3, extra_body=urgent, **sampled)
    assert [choice.message.content for choice in together.choices] == alone
    streamed = ["", "", ""]
    for chunk in ask(client, seed=7, n=3, stream=True, extra_body=urgent, **sampled):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == alone


async def answers_of(gateway: GatewayProcess, number: int) -> list[str]:
    """Of so many requests at once, every other one as a stream, all of different lengths."""
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:

        async def one(number: int) -> str:
            fields: Any = {"prompt": [5, 6, 7 + number], "max_tokens": 4 + number % 29, "temperature": 0}
            stream = bool(number % 2)
            more = {"ignore_eos": True}
            answer: Any = await client.completions.create(model="lab-model", stream=stream, extra_body=more, **fields)
            if not stream:
                return str(answer.choices[0].text)
            return "".join([chunk.choices[0].text async for chunk in answer if chunk.choices])

        return await asyncio.gather(*(one(each) for each in range(number)))


async def test_requests_that_share_a_stream_get_what_those_with_their_own_get(
    gateway: GatewayProcess, multiplexed: GatewayProcess
) -> None:
    alone, shared = [await answers_of(each, 64) for each in (gateway, multiplexed)]
    assert shared == alone
    assert len(set(alone)) > 1


def test_one_that_leaves_a_shared_stream_frees_its_place_and_no_other(
    multiplexed: GatewayProcess, triton_server: RunningTriton
) -> None:
    assert until(lambda: active(triton_server) == 0)
    client = openai.OpenAI(base_url=f"{multiplexed.url}/v1", api_key="none", max_retries=0, timeout=30)
    fields: Any = {"model": "lab-model", "prompt": [5, 6, 7], "temperature": 0, "extra_body": {"ignore_eos": True}}
    whole = client.completions.create(max_tokens=490, **fields).choices[0].text
    before = cancelled(triton_server)
    stays = iter(client.completions.create(max_tokens=490, stream=True, **fields))
    with client.completions.create(max_tokens=490, stream=True, **fields) as leaves:
        next(iter(leaves))
        text = next(stays).choices[0].text
    assert until(lambda: cancelled(triton_server) == before + 1)
    assert text + "".join(chunk.choices[0].text for chunk in stays) == whole
    assert until(lambda: active(triton_server) == 0)


def test_what_the_engine_refuses_on_a_shared_stream_is_told_as_on_its_own(
    gateway: GatewayProcess, multiplexed: GatewayProcess
) -> None:
    grammar = {"type": "regex", "regex": "("}
    body = {"model": "lab-model", "messages": MESSAGES, "response_format": grammar}
    alone, shared = (
        httpx.post(f"{each.url}/v1/chat/completions", json=body, timeout=30) for each in (gateway, multiplexed)
    )
    assert (alone.status_code, alone.json()) == (shared.status_code, shared.json())
    assert alone.status_code == 400 and "The engine refuses" in alone.text
