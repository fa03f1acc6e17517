"""Embeddings of the real engine on the real Triton, through the stock `openai` client and through Triton's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.grpc as triton_grpc
from tokenizers import Tokenizer
from tritonclient.utils import InferenceServerException

from tests.conftest import RunningTriton
from throughline import engines
from throughline.contracts.gateway import GatewaySpec, ModelRoute
from throughline.gateway import GatewayProcess

pytestmark = pytest.mark.integration

TEXTS = [f"Ticket {number}: {'pump P-101A trips ' * (number % 7)}again." for number in range(40)]


@pytest.fixture(scope="module")
def gateway(triton_server: RunningTriton) -> Iterator[GatewayProcess]:
    """Text and vectors of one server."""
    upstream = f"127.0.0.1:{triton_server.grpc_port}"
    served = {triton_server.model: triton_server.engine_dir, triton_server.embedding_model: triton_server.embedding_dir}
    routes = [
        ModelRoute(id=name, upstream=upstream, triton_model=name, engine_dir=folder) for name, folder in served.items()
    ]
    with GatewayProcess(GatewaySpec(port=0, models=tuple(routes))) as process:
        yield process


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=30)


@pytest.fixture(scope="module")
def expected(triton_server: RunningTriton) -> Any:
    """The texts' vectors from the engine itself, each alone."""
    tokenizer = Tokenizer.from_file(str(triton_server.embedding_dir / "tokenizer.json"))
    runtime = engines.load_embedding(triton_server.embedding_dir, max_batch_size=1)
    try:
        return runtime.embed([tokenizer.encode(text).ids for text in TEXTS])
    finally:
        runtime.close()


def count(triton_server: RunningTriton, name: str) -> float:
    page = httpx.get(f"http://127.0.0.1:{triton_server.metrics_port}/metrics").text
    found = re.search(rf'{name}\{{[^}}]*model="{triton_server.embedding_model}"[^}}]*\}} (\S+)', page)
    assert found is not None
    return float(found[1])


def test_texts_have_the_engine_s_vectors_whatever_company_they_have(
    client: openai.OpenAI, triton_server: RunningTriton, expected: Any
) -> None:
    before = {name: count(triton_server, f"nv_inference_{name}") for name in ("count", "exec_count")}
    for form in ({}, {"encoding_format": "float"}):
        answer = client.embeddings.create(model="embedding", input=TEXTS, **form)  # type: ignore[call-overload]
        found = np.array([item.embedding for item in answer.data])
        np.testing.assert_allclose(found, expected, atol=1e-5)
    # Texts of different lengths were embedded together.
    texts = count(triton_server, "nv_inference_count") - before["count"]
    batches = count(triton_server, "nv_inference_exec_count") - before["exec_count"]
    assert texts == 2 * len(TEXTS)
    assert batches < texts / 2


def test_tokens_are_what_texts_become(client: openai.OpenAI, triton_server: RunningTriton, expected: Any) -> None:
    tokenizer = Tokenizer.from_file(str(triton_server.embedding_dir / "tokenizer.json"))
    ids = [tokenizer.encode(text).ids for text in TEXTS[:3]]
    for given, rows in ((ids, expected[:3]), (ids[0], expected[:1]), (TEXTS[0], expected[:1])):
        answer = client.embeddings.create(model="embedding", input=given)
        np.testing.assert_allclose(np.array([item.embedding for item in answer.data]), rows, atol=1e-5)
    assert answer.usage.prompt_tokens == len(ids[0])


def test_the_dimensions_that_the_checkpoint_allows(client: openai.OpenAI, expected: Any) -> None:
    answer = client.embeddings.create(model="embedding", input=TEXTS[0], dimensions=16)
    cut = expected[0, :16] / np.linalg.norm(expected[0, :16])
    np.testing.assert_allclose(answer.data[0].embedding, cut, atol=1e-5)
    with pytest.raises(openai.BadRequestError, match="16, 32, 64 dimensions"):
        client.embeddings.create(model="embedding", input=TEXTS[0], dimensions=17)


def test_both_models_are_served_and_each_says_what_it_is(gateway: GatewayProcess, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["lab", "embedding"]
    assert httpx.get(f"{gateway.url}/health/ready").status_code == 200
    chat: Any = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    assert client.chat.completions.create(model="lab", **chat).usage
    with pytest.raises(openai.BadRequestError, match="send it to /v1/embeddings"):
        client.chat.completions.create(model="embedding", **chat)
    with pytest.raises(openai.BadRequestError, match="makes text and no embeddings"):
        client.embeddings.create(model="lab", input="Hi")
    with pytest.raises(openai.BadRequestError, match="256 tokens, but 'input' has 257"):
        client.embeddings.create(model="embedding", input=[5] * 257)


def test_triton_s_own_client_sends_padded_batches(triton_server: RunningTriton) -> None:
    prompts = [[5, 6, 7, 8], [9, 10]]
    ids = np.array([prompts[0], [*prompts[1], 0, 0]], np.int64)
    runtime = engines.load_embedding(triton_server.embedding_dir)
    try:
        expected = runtime.embed(prompts)
    finally:
        runtime.close()
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{triton_server.grpc_port}") as client:

        def infer(mask: Any) -> Any:
            tensors = []
            for name, values in (("input_ids", ids), ("attention_mask", np.array(mask, np.int64))):
                tensors.append(triton_grpc.InferInput(name, list(values.shape), "INT64"))
                tensors[-1].set_data_from_numpy(values)
            return client.infer(triton_server.embedding_model, tensors).as_numpy("sentence_embedding")

        np.testing.assert_allclose(infer([[1, 1, 1, 1], [1, 1, 0, 0]]), expected, atol=1e-5)
        for mask, words in (
            ([[1, 1, 1, 1], [0, 0, 1, 1]], "pad on the right"),
            ([[1, 1, 1, 1], [0, 0, 0, 0]], "empty or too long"),
        ):
            with pytest.raises(InferenceServerException, match=words):
                infer(mask)
