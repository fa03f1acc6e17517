"""The same request through both contracts of TensorRT-LLM on a real Triton: BLS and `llmapi`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from throughline.contracts.serving import ServeSpec
from throughline.migration.contract import MOVES
from throughline.triton import repository
from throughline.triton.client import InferenceError, TritonClient
from throughline.triton.server import TritonServer

pytestmark = pytest.mark.integration
TEXT = "The server has stopped after the driver update."
# Our text contract → the llmapi contract, as `recipes.migrate` reports it.
NAMES = {move.name: move.target for move in MOVES if move.kind == "input" and move.target}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, tiny_engine: Path) -> Iterator[TritonClient]:
    folder = tmp_path_factory.mktemp("layouts")
    specs = {"bls": ServeSpec(), "llmapi": ServeSpec(layout="llmapi")}
    for name, spec in specs.items():
        repository.render(folder / "repository", name, tiny_engine, spec)
    with (
        TritonServer(folder / "repository", list(specs), specs["bls"], run_dir=folder / "run") as server,
        TritonClient(server.grpc_url, timeout_seconds=30.0) as connected,
    ):
        yield connected


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
    assert text and "".join(item.text for item in other) == text
    assert other[-1].finish_reason == one[-1].finish_reason
    assert len(one) > 1 or not stream


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
