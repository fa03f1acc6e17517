"""`/v1/embeddings` before a scripted Triton: every form of input, the vectors' forms, refusals, limits and retries."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import jsonschema
import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.collector import Collector
from tests.tiny import VOCAB_SIZE, save_tiny_tokenizer, write_engine_info
from tests.unit.gateway.fake_triton import DIMENSIONS, EMBEDDING, MODEL, Fail, FakeTriton, vector_of
from tests.unit.gateway.key_stores import opened
from throughline.contracts.embedding import EmbeddingInfo
from throughline.contracts.gateway import GatewaySpec, ModelRoute
from throughline.gateway import GatewayProcess
from throughline.gateway.keys import KeyLimits, new_key

CONTEXT = 32
INFO = EmbeddingInfo(pooling="last", normalize=True, dimensions=DIMENSIONS)
MATRYOSHKA = INFO.model_copy(update={"is_matryoshka": True})
Spec = Callable[..., GatewaySpec]


@pytest.fixture(scope="module")
def make_both(
    tmp_path_factory: pytest.TempPathFactory, make_spec: Spec, engine_dir: Path, running_triton: FakeTriton
) -> Spec:
    """Makes a spec with a model that makes text, one that makes vectors, and one whose vectors have parts."""
    upstream = f"127.0.0.1:{running_triton.port}"
    routes = [ModelRoute(id="lab", upstream=upstream, triton_model=MODEL, engine_dir=engine_dir)]
    for name, info in (("embed", INFO), ("nested", MATRYOSHKA)):
        folder = save_tiny_tokenizer(tmp_path_factory.mktemp(name))
        write_engine_info(folder, max_seq_len=CONTEXT, embedding=info)
        routes.append(ModelRoute(id=name, upstream=upstream, triton_model=EMBEDDING, engine_dir=folder))

    def make(**values: object) -> GatewaySpec:
        return make_spec(models=tuple(routes), **values)

    return make


@pytest.fixture(scope="module")
def both(make_both: Spec) -> Iterator[GatewayProcess]:
    with GatewayProcess(make_both(limits={"max_inputs": 64})) as process:
        yield process


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_file(str(save_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")) / "tokenizer.json"))


def post(process: GatewayProcess, **fields: Any) -> httpx.Response:
    return httpx.post(f"{process.url}/v1/embeddings", json={"model": "embed", **fields}, timeout=20)


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return answer.status_code, error["code"], error["param"]


def near(found: Any, ids: list[int]) -> bool:
    return bool(np.allclose(found, np.array(vector_of(ids), np.float32), atol=1e-6))


def test_the_stock_client_gets_the_vectors_of_texts_in_order(
    both: GatewayProcess, triton: FakeTriton, tokenizer: Tokenizer
) -> None:
    client = openai.OpenAI(base_url=f"{both.url}/v1", api_key="none", max_retries=0)
    texts = ["one", "two and two", "three"]
    # It asks for base64 unless it is told otherwise, and gives numbers either way.
    for form in ({}, {"encoding_format": "float"}):
        answer = client.embeddings.create(model="embed", input=texts, user="me", **form)  # type: ignore[call-overload]
        ids = [tokenizer.encode(text).ids for text in texts]
        assert [item.index for item in answer.data] == [0, 1, 2]
        assert all(near(item.embedding, each) for item, each in zip(answer.data, ids, strict=True))
        count = sum(map(len, ids))
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens, answer.model) == (count, count, "embed")


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
tokens = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=CONTEXT)
forms = st.one_of(words, tokens, st.lists(words, min_size=1, max_size=5), st.lists(tokens, min_size=1, max_size=5))


@settings(max_examples=60)
@given(given=forms, as_base64=st.booleans())
def test_every_form_of_input_gives_a_vector_for_each_text(
    both: GatewayProcess, running_triton: FakeTriton, tokenizer: Tokenizer, given: Any, as_base64: bool
) -> None:
    running_triton.embedded.clear()
    several = isinstance(given, list) and not isinstance(given[0], int)
    items = given if several else [given]
    ids = [tokenizer.encode(item).ids if isinstance(item, str) else item for item in items]
    answer = post(both, input=given, encoding_format="base64" if as_base64 else "float")
    if any(len(each) > CONTEXT for each in ids):
        assert refusal(answer)[:2] == (400, "context_length_exceeded")
        return
    assert answer.status_code == 200, answer.text
    found = [item["embedding"] for item in answer.json()["data"]]
    if as_base64:
        found = [struct.unpack(f"<{DIMENSIONS}f", base64.b64decode(item)) for item in found]
    assert len(found) == len(ids)
    assert all(near(vector, each) for vector, each in zip(found, ids, strict=True))
    assert sorted(running_triton.embedded) == sorted(ids)


def test_fewer_dimensions_are_the_first_ones_at_length_one(both: GatewayProcess, triton: FakeTriton) -> None:
    answer = post(both, model="nested", input=[5, 6, 7], dimensions=3)
    cut = np.array(vector_of([5, 6, 7])[:3])
    assert np.allclose(answer.json()["data"][0]["embedding"], cut / np.linalg.norm(cut), atol=1e-6)
    for model in ("embed", "nested"):
        whole = post(both, model=model, input=[5, 6, 7], dimensions=DIMENSIONS).json()["data"][0]["embedding"]
        assert near(whole, [5, 6, 7])


@pytest.mark.parametrize(
    ("fields", "expected", "words"),
    [
        ({"input": ""}, (400, "invalid_value", "input"), "'input' is empty"),
        ({"input": []}, (400, "invalid_value", "input"), "'input' is empty"),
        ({"input": ["a", ""]}, (400, "invalid_value", "input[1]"), "'input[1]' is empty"),
        ({"input": [[5], []]}, (400, "invalid_value", "input[1]"), "is empty"),
        ({"input": ["a", [5]]}, (400, "invalid_value", "input[1]"), "all are texts or all lists"),
        ({"input": [[5], [VOCAB_SIZE]]}, (400, "invalid_value", "input[1][0]"), f"seen: {VOCAB_SIZE}"),
        ({"input": [5.5]}, (400, "invalid_value", "input[0]"), "seen: 5.5"),
        ({"input": {"a": 1}}, (400, "invalid_value", "input"), "input"),
        ({}, (400, "missing_required_parameter", "input"), "input"),
        ({"input": [5] * 33}, (400, "context_length_exceeded", "input"), "32 tokens, but 'input' has 33"),
        ({"input": ["a", "a " * 9000]}, (400, "context_length_exceeded", "input[1]"), "has at least"),
        ({"input": ["a"] * 65}, (400, "too_many_inputs", "input"), "65 texts, and a request may have 64"),
        ({"input": "a", "dimensions": 3}, (400, "unsupported_parameter", "dimensions"), "no part is a vector"),
        ({"input": "a", "dimensions": 9, "model": "nested"}, (400, "invalid_value", "dimensions"), "1 to 8"),
        ({"input": "a", "dimensions": 0}, (400, "invalid_value", "dimensions"), "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, (400, "invalid_value", "encoding_format"), "hex"),
        ({"input": "a", "inputs": "a"}, (400, "unknown_parameter", "inputs"), "did you mean 'input'"),
        ({"input": "a", "model": "gpt"}, (404, "model_not_found", "model"), "embed, lab, nested"),
        ({"input": "a", "model": "lab"}, (400, "model_not_supported", "model"), "no embeddings"),
    ],
)
def test_what_is_refused(
    both: GatewayProcess, triton: FakeTriton, fields: dict[str, Any], expected: tuple[Any, ...], words: str
) -> None:
    body = json.dumps({"model": "embed", **fields})
    answer = httpx.post(f"{both.url}/v1/embeddings", content=body, timeout=20)
    assert refusal(answer) == expected
    assert words in answer.json()["error"]["message"]
    assert triton.embedded == []


def test_the_text_routes_say_where_embeddings_are_made(both: GatewayProcess, triton: FakeTriton) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
        "completions": {"prompt": "Hi"},
    }
    for path, body in bodies.items():
        answer = httpx.post(f"{both.url}/v1/{path}", json={"model": "embed", **body})
        assert refusal(answer) == (400, "model_not_supported", "model")
        assert "send it to /v1/embeddings. Served here for this route: lab." in answer.json()["error"]["message"]


def test_models_headers_readiness_and_counting(both: GatewayProcess, triton: FakeTriton, tokenizer: Tokenizer) -> None:
    cards = httpx.get(f"{both.url}/v1/models").json()["data"]
    assert {card["id"]: card["task"] for card in cards} == {"lab": "generate", "embed": "embed", "nested": "embed"}
    answer = httpx.post(
        f"{both.url}/v1/embeddings", json={"model": "embed", "input": "a"}, headers={"x-request-id": "mine"}
    )
    assert (answer.headers["x-request-id"], answer.headers["x-engine-digest"]) == ("mine", "0123456789abcdef")
    assert httpx.get(f"{both.url}/health/ready").status_code == 200
    counted = httpx.post(f"{both.url}/tokenize", json={"model": "embed", "prompt": "one two"}).json()
    assert counted["tokens"] == tokenizer.encode("one two").ids


def test_not_ready_while_no_vector_comes(make_both: Spec, triton: FakeTriton) -> None:
    with GatewayProcess(make_both()) as process:
        triton.failures = [Fail(grpc.StatusCode.INTERNAL, "Stub process 'embedding_0' is not healthy.")] * 2
        answer = httpx.get(f"{process.url}/health/ready")
        assert (answer.status_code, answer.json()["error"]["message"]) == (503, "Not ready: embed, nested.")
        assert httpx.get(f"{process.url}/health/ready").status_code == 200


def test_an_engine_that_is_away_for_a_moment_is_asked_again(both: GatewayProcess, triton: FakeTriton) -> None:
    triton.failures = [Fail(grpc.StatusCode.UNAVAILABLE, "starting")]
    assert near(post(both, input=[5, 6]).json()["data"][0]["embedding"], [5, 6])
    assert triton.embedded == [[5, 6], [5, 6]]
    triton.failures = [Fail(grpc.StatusCode.INTERNAL, "out of luck")]
    answer = post(both, input=[[5], [6], [7]])
    assert refusal(answer) == (500, "upstream_error", None)
    triton.failures = [Fail(grpc.StatusCode.INVALID_ARGUMENT, "no")]
    assert refusal(post(both, input=[5])) == (400, None, None)


def test_metrics_count_texts_tokens_and_outcomes(make_both: Spec, triton: FakeTriton) -> None:
    with GatewayProcess(make_both()) as process:
        assert post(process, input=[[5, 6], [7]]).status_code == 200
        triton.failures = [Fail(grpc.StatusCode.INTERNAL, "out of luck")]
        assert post(process, input=[5]).status_code == 500
        page = httpx.get(f"{process.url}/metrics").text
    for line in (
        'vllm:prompt_tokens_total{model_name="embed"} 3.0',
        'vllm:num_requests_running{model_name="embed"} 0.0',
        'vllm:request_success_total{finished_reason="stop",model_name="embed"} 1.0',
        'throughline_failed_requests_total{model_name="embed",reason="error"} 1.0',
        'vllm:request_prompt_tokens_count{model_name="embed"} 3.0',
        'throughline_http_responses_total{route="/v1/embeddings",status="200"} 1.0',
    ):
        assert line in page
    assert 'gen_ai_operation_name="embeddings"' in page


def test_keys_pay_for_the_tokens_of_their_texts(make_both: Spec, triton: FakeTriton, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'keys.sqlite'}"
    key, secret = new_key(name="t", tenant="lab", limits=KeyLimits(tokens_per_minute=10), created=1, expires=None)

    async def create() -> None:
        async with opened(url) as store:
            await store.create(key)

    asyncio.run(create())
    headers = {"authorization": f"Bearer {secret.reveal()}", "idempotency-key": "once"}
    with GatewayProcess(make_both(keys={"store": url})) as process:
        assert refusal(post(process, input=[5]))[:2] == (401, "invalid_api_key")
        target = f"{process.url}/v1/embeddings"
        first = httpx.post(target, json={"model": "embed", "input": [[5, 6], [7, 8, 9]]}, headers=headers)
        assert (first.status_code, first.headers["x-ratelimit-remaining-tokens"]) == (200, "5")
        again = httpx.post(target, json={"model": "embed", "input": [[5, 6], [7, 8, 9]]}, headers=headers)
        assert again.content == first.content
        assert len(triton.embedded) == 2
        headers["idempotency-key"] = "twice"
        refused = httpx.post(target, json={"model": "embed", "input": [5] * 9}, headers=headers)
        assert refusal(refused)[:2] == (429, "rate_limit_exceeded")


def test_the_gateway_s_own_limits_hold(make_both: Spec, triton: FakeTriton) -> None:
    with GatewayProcess(make_both(limits={"max_body_bytes": 1024})) as process:
        assert refusal(post(process, input=["a" * 2000]))[:2] == (413, "request_too_large")


def test_the_document_has_the_route_as_it_is(both: GatewayProcess, triton: FakeTriton) -> None:
    document = httpx.get(f"{both.url}/openapi.json").json()
    operation = document["paths"]["/v1/embeddings"]["post"]

    def check(schema: dict[str, Any], value: Any) -> None:
        jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)

    for form in ("float", "base64"):
        body = {"model": "embed", "input": ["a"], "encoding_format": form}
        check(operation["requestBody"]["content"]["application/json"]["schema"], body)
        answer = httpx.post(f"{both.url}/v1/embeddings", json=body).json()
        check(operation["responses"]["200"]["content"]["application/json"]["schema"], answer)


def test_a_request_is_one_span_with_one_call(make_both: Spec, triton: FakeTriton, collector: Collector) -> None:
    tracing = {"endpoint": collector.endpoint, "sample_ratio": 0.0}
    trace_id = f"{77:032x}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with GatewayProcess(make_both(tracing=tracing)) as process:
            httpx.post(
                f"{process.url}/v1/embeddings",
                json={"model": "embed", "input": [[5, 6], [7]]},
                headers={"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"},
            )
            request, call = collector.trace(trace_id, spans=2)
    assert (request.name, call.name) == ("embeddings embed", "inference.GRPCInferenceService/ModelInfer")
    assert request.attributes["gen_ai.operation.name"] == "embeddings"
    assert request.attributes["gen_ai.usage.input_tokens"] == 3
    assert request.attributes["gen_ai.embeddings.dimension.count"] == DIMENSIONS
    assert call.attributes["rpc.response.status_code"] == "OK"


def test_a_client_that_leaves_stops_its_texts(make_both: Spec, triton: FakeTriton) -> None:
    """What has not gone to the engine yet does not go."""
    with GatewayProcess(make_both()) as process:
        triton.hold.clear()
        with contextlib.suppress(httpx.ReadTimeout):
            httpx.post(f"{process.url}/v1/embeddings", json={"model": "embed", "input": [[5]] * 100}, timeout=0.5)
        triton.hold.set()
        page = ""
        while 'reason="abort"' not in page:
            page = httpx.get(f"{process.url}/metrics").text
        assert 'throughline_failed_requests_total{model_name="embed",reason="abort"} 1.0' in page
        assert 'vllm:num_requests_running{model_name="embed"} 0.0' in page
    assert len(triton.embedded) <= 32
