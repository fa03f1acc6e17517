"""The same request through both contracts of TensorRT-LLM on a real Triton (BLS, `llmapi`), and through the gateway."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from throughline.contracts.gateway import GatewaySpec, ModelRoute
from throughline.contracts.serving import ServeSpec
from throughline.gateway import GatewayProcess
from throughline.migration.contract import MOVES
from throughline.triton import repository
from throughline.triton.client import InferenceError, TritonClient
from throughline.triton.server import TritonServer

pytestmark = pytest.mark.integration
TEXT = "The server has stopped after the driver update."
# Our text contract → the llmapi contract, as `recipes.migrate` reports it.
NAMES = {move.name: move.target for move in MOVES if move.kind == "input" and move.target}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, tiny_engine: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("layouts")
    specs = {"bls": ServeSpec(), "llmapi": ServeSpec(layout="llmapi")}
    for name, spec in specs.items():
        repository.render(folder / "repository", name, tiny_engine, spec)
    with TritonServer(folder / "repository", list(specs), specs["bls"], run_dir=folder / "run") as server:
        yield server.grpc_url


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[TritonClient]:
    with TritonClient(address, timeout_seconds=30.0) as connected:
        yield connected


@pytest.fixture(scope="module")
def gateway(address: str, tiny_engine: Path) -> Iterator[GatewayProcess]:
    """The same engine under three contracts; the model `bls` speaks ours too."""
    routes = (
        ModelRoute(id="own", upstream=address, triton_model="bls", engine_dir=tiny_engine),
        ModelRoute(id="bls", upstream=address, triton_model="bls", engine_dir=tiny_engine, contract="bls"),
        ModelRoute(id="llmapi", upstream=address, triton_model="llmapi", engine_dir=tiny_engine, contract="llmapi"),
    )
    with GatewayProcess(GatewaySpec(port=0, models=routes)) as process:
        yield process


def translated(inputs: dict[str, Any]) -> dict[str, Any]:
    return {NAMES[name]: value for name, value in inputs.items()} | {"return_finish_reason": True}


@pytest.mark.parametrize(
    "inputs",
    [
        {"max_tokens": 12},
        {"max_tokens": 12, "temperature": 0.8, "seed": 7, "top_k": 20, "top_p": 0.9},
        {"max_tokens": 12, "presence_penalty": 0.5, "frequency_penalty": 0.25},
        {"max_tokens": 40, "stop_words": ["e", "zz"]},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_both_contracts_give_the_same_answer(client: TritonClient, inputs: dict[str, Any], stream: bool) -> None:
    asked = {"text_input": TEXT, "stream": stream, "exclude_input_in_output": True} | inputs
    one, other = list(client.stream("bls", asked)), list(client.stream("llmapi", translated(asked)))
    text = "".join(item.text for item in one)
    assert text and other[-1].text == text
    # Each message of NVIDIA's model repeats the text so far, and its reason is the word None while there is none.
    assert all(after.text.startswith(before.text) for before, after in itertools.pairwise(other))
    assert [item.finish_reason for item in other] == ["None"] * (len(other) - 1) + [one[-1].finish_reason]
    assert (len(one) > 1 and len(other) > 1) or not stream


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_and_their_sum(client: TritonClient, stream: bool) -> None:
    asked = {"text_input": TEXT, "stream": stream, "max_tokens": 6, "ignore_eos": True, "return_log_probs": True}
    tokens = list(client.stream("bls", asked))
    values = [value for item in tokens for value in item.log_probs]
    assert len(values) == 6 == sum(len(item.token_ids) for item in tokens)
    assert tokens[-1].cum_log_prob == pytest.approx(sum(values), abs=1e-4)
    other = {"text_input": TEXT, "streaming": stream, "sampling_param_max_tokens": 6}
    *_, last = client.stream("llmapi", {**other, "return_cumulative_logprob": True})
    assert last.cum_log_prob == pytest.approx(sum(values), abs=1e-4)
    assert all(item.cum_log_prob is None for item in client.stream("llmapi", other))


def test_the_prompt_comes_back_unless_it_is_declined(client: TritonClient) -> None:
    """The default of the llmapi model is the other way round."""
    [whole] = client.stream("llmapi", {"text_input": TEXT, "sampling_param_max_tokens": 4})
    asked = {"text_input": TEXT, "sampling_param_max_tokens": 4, "sampling_param_exclude_input_from_output": True}
    [alone] = client.stream("llmapi", asked)
    assert whole.text == TEXT + alone.text
    assert whole.finish_reason == ""


@pytest.mark.parametrize(
    ("inputs", "seen"),
    [
        ({"sampling_param_best_of": 2}, "sampling_param_best_of"),
        ({"sampling_param_temperature": -1.0}, "temperature"),
    ],
)
def test_what_the_engine_does_not_have_is_an_error(client: TritonClient, inputs: dict[str, Any], seen: str) -> None:
    with pytest.raises(InferenceError, match=seen):
        list(client.stream("llmapi", {"text_input": TEXT} | inputs))


def test_a_request_without_a_prompt_is_an_error(client: TritonClient) -> None:
    with pytest.raises(InferenceError, match="text_input"):
        list(client.stream("llmapi", {"sampling_param_max_tokens": 4}))


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 0.8, "seed": 7, "top_p": 0.9, "n": 2}])
@pytest.mark.parametrize("contract", ["bls", "llmapi"])
def test_the_gateway_gives_the_same_answer_by_every_contract(
    gateway: GatewayProcess, contract: str, fields: dict[str, Any]
) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=30) as stock:

        def ask(model: str, **more: Any) -> Any:
            messages: Any = [{"role": "user", "content": TEXT}]
            return stock.chat.completions.create(model=model, messages=messages, max_tokens=12, **fields, **more)

        own, other = ask("own"), ask(contract)
        texts = [choice.message.content for choice in own.choices]
        assert [choice.message.content for choice in other.choices] == texts and all(texts)
        assert other.usage.prompt_tokens == own.usage.prompt_tokens
        assert 0 < other.usage.completion_tokens <= 12 * len(texts)
        streamed = [""] * len(texts)
        reasons = [None] * len(texts)
        for chunk in ask(contract, stream=True):
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
                reasons[choice.index] = choice.finish_reason or reasons[choice.index]
        assert streamed == texts
        assert reasons == [choice.finish_reason for choice in own.choices]


@pytest.mark.parametrize("contract", ["bls", "llmapi"])
def test_the_gateway_ends_at_a_stop_string_of_every_contract(gateway: GatewayProcess, contract: str) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=30) as stock:
        whole = stock.completions.create(model="own", prompt=TEXT, max_tokens=24, temperature=0).choices[0].text
        stop = whole[6:8]
        found = stock.completions.create(model=contract, prompt=TEXT, max_tokens=24, temperature=0, stop=stop).choices[
            0
        ]
        assert (found.text, found.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_the_gateway_is_ready_when_every_contract_gives_a_token(gateway: GatewayProcess) -> None:
    assert httpx.get(f"{gateway.url}/health/ready", timeout=30).status_code == 200
