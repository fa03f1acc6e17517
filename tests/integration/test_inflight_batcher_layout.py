"""The rendered `inflight_batcher_llm` layout on the real Triton: our models, its ensembles, and our engine behind the
tensors of TensorRT-LLM's."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from throughline import engines
from throughline.contracts.engine import EngineSpec, SamplingParams
from throughline.contracts.gateway import GatewaySpec, ModelRoute
from throughline.contracts.gpu_serving import GpuServeSpec
from throughline.contracts.serving import ServeSpec
from throughline.documents import ModelConfigFile
from throughline.gateway import GatewayProcess
from throughline.triton.client import TritonClient
from throughline.triton.gpu import ServedEngine, write_inflight_batcher
from throughline.triton.model_config import to_text
from throughline.triton.server import TritonServer

pytestmark = pytest.mark.integration
TEXT = "The server has stopped after the driver update."
ENGINE = Path(__file__).parents[1] / "trtllm_model.py"
# The ensemble brings its steps, and BLS calls two of them.
MODELS = ("ensemble", "tensorrt_llm_bls")
KINDS = {
    "text_input": "BYTES",
    "max_tokens": "INT32",
    "stream": "BOOL",
    "stop_words": "BYTES",
    "bad_words": "BYTES",
    "temperature": "FP32",
    "top_k": "INT32",
    "seed": "UINT64",
    "exclude_input_in_output": "BOOL",
    "return_log_probs": "BOOL",
    "return_num_output_tokens": "BOOL",
    "embedding_bias_words": "BYTES",
    "embedding_bias_weights": "FP32",
}
DTYPES = {"BYTES": np.object_, "INT32": np.int32, "BOOL": np.bool_, "FP32": np.float32, "UINT64": np.uint64}
DEADLINE_SECONDS = 30.0


@dataclass(frozen=True)
class Served:
    """The server's addresses, and what the engine's model wrote of requests."""

    grpc: str
    http: str
    log_path: Path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def ended(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if "reason" in line]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The engine makes no step within the block, so that no request ends of itself."""
        hold = Path(f"{self.log_path}.hold")
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    def wait_for(self, prefix: str, key: str) -> dict[str, Any]:
        """The line of a request that begins with a prefix and has a key; each look is a request to the server."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            found = [line for line in self.lines() if line["id"].startswith(prefix) and key in line]
            if found:
                return found[-1]
            assert time.monotonic() < deadline
            httpx.get(f"http://{self.http}/v2/health/ready").raise_for_status()


@contextlib.contextmanager
def running(folder: Path, engine_dir: Path, **gpu: Any) -> Iterator[Served]:
    spec = ServeSpec(gpu=GpuServeSpec(checkpoint_dir=str(engine_dir), bls_instance_count=2, **gpu))
    engine = ServedEngine.of_spec("tiny", EngineSpec(backend="tensorrt", max_batch_size=4))
    write_inflight_batcher(folder, engine, spec)
    repository, log = folder / "repository", folder / "engine.jsonl"
    replace_engine(repository / "tensorrt_llm", engine_dir, log)
    with (
        TritonServer(repository, [], spec, run_dir=folder / "run") as server,
        TritonClient(server.grpc_url, timeout_seconds=60.0) as client,
    ):
        for model in MODELS:
            client.load(model)
        yield Served(server.grpc_url, server.http_url, log)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_engine: Path) -> Iterator[Served]:
    with running(tmp_path_factory.mktemp("layout"), tiny_engine) as found:
        yield found


def replace_engine(model: Path, engine_dir: Path, log: Path) -> None:
    """Puts our engine behind the rendered configuration: another back end, two more parameters."""
    file = ModelConfigFile.read(model / "config.pbtxt")
    file.config.backend = "python"
    file.config.parameters["cpu_engine_dir"].string_value = str(engine_dir)
    file.config.parameters["log_path"].string_value = str(log)
    file.path.write_text(to_text(file.config))
    shutil.copyfile(ENGINE, model / "1" / "model.py")


@pytest.fixture(scope="module")
def expected(tiny_engine: Path) -> Callable[[int], tuple[list[int], str]]:
    """The raw engine's greedy answer in this process: ids, and their text by the tokenizer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_engine / "tokenizer.json"))

    def answer(tokens: int) -> tuple[list[int], str]:
        runtime = engines.load(tiny_engine)
        runtime.submit("x", tokenizer.encode(TEXT).ids, SamplingParams(max_tokens=tokens))
        ids: list[int] = []
        while runtime.has_work():
            ids += [token for output in runtime.step() for token in output.token_ids]
        runtime.close()
        return ids, tokenizer.decode(ids).rstrip("\ufffd")

    return answer


def inputs(values: dict[str, Any]) -> list[Any]:
    from tritonclient.grpc import InferInput

    found = []
    for name, value in ({"text_input": TEXT} | values).items():
        items = value if isinstance(value, list) else [value]
        array = np.array([[item.encode() if isinstance(item, str) else item for item in items]], DTYPES[KINDS[name]])
        tensor = InferInput(name, list(array.shape), KINDS[name])
        tensor.set_data_from_numpy(array)
        found.append(tensor)
    return found


def ask(served: Served, model: str, **values: Any) -> list[Any]:
    """All results of one request of the stock client."""
    from tritonclient.grpc import InferenceServerClient

    results: queue.Queue[tuple[Any, Any]] = queue.Queue()
    found: list[Any] = []
    with InferenceServerClient(served.grpc) as client:
        client.start_stream(callback=lambda result, error: results.put((result, error)))
        client.async_stream_infer(model, inputs(values), enable_empty_final_response=True)
        while True:
            result, error = results.get(timeout=DEADLINE_SECONDS)
            if error is not None:
                raise error
            if result.as_numpy("text_output") is not None:
                found.append(result)
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
        client.stop_stream()
    return found


def text(results: list[Any]) -> str:
    return "".join(result.as_numpy("text_output").reshape(-1)[0].decode() for result in results)


@pytest.mark.parametrize("model", ["tensorrt_llm_bls", "ensemble"])
def test_an_answer_is_the_engine_s(
    served: Served, expected: Callable[[int], tuple[list[int], str]], model: str
) -> None:
    ids, whole = expected(24)
    found = ask(served, model, max_tokens=24, return_num_output_tokens=True)
    assert len(found) == 1
    assert text(found) == whole and whole
    assert found[0].as_numpy("num_output_tokens").reshape(-1).tolist() == [len(ids)]


def test_the_model_asked_itself_before_it_was_ready(served: Served) -> None:
    """The warm-up of the rendered configuration: eight tokens in, one out."""
    first = served.ended()[0]
    assert (first["id"][:8], first["tokens"], first["reason"]) == ("nameless", 1, "length")


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "top_k": 50, "seed": 11}])
def test_a_stream_is_the_answer_in_pieces(served: Served, sampling: dict[str, Any]) -> None:
    """Of a random model, whose bytes are seldom whole characters."""
    whole = text(ask(served, "tensorrt_llm_bls", max_tokens=60, **sampling))
    found = ask(served, "tensorrt_llm_bls", max_tokens=60, stream=True, **sampling)
    assert len(found) > 20
    assert text(found) == whole
    assert any(ord(letter) > 127 for letter in whole)


def test_http_streams_the_same(served: Served) -> None:
    whole = text(ask(served, "tensorrt_llm_bls", max_tokens=16))
    body = json.dumps({"text_input": TEXT, "max_tokens": 16, "stream": True})
    connection = HTTPConnection(served.http, timeout=DEADLINE_SECONDS)
    connection.request("POST", "/v2/models/tensorrt_llm_bls/generate_stream", body)
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    pieces = [json.loads(line.removeprefix("data: "))["text_output"] for line in lines if line]
    assert "".join(pieces) == whole and len(pieces) > 8


@pytest.mark.parametrize("stream", [False, True])
def test_text_ends_before_a_stop_word_that_no_token_begins(served: Served, stream: bool) -> None:
    """The engine meets the word's own ids never; the text has it all the same, and the engine is told."""
    whole = text(ask(served, "tensorrt_llm_bls", max_tokens=60))
    word = next(whole[at : at + 3] for at in range(8, 40) if whole.index(whole[at : at + 3]) == at)
    found = ask(served, "tensorrt_llm_bls", max_tokens=60, stop_words=[word], stream=stream)
    assert text(found) == whole[: whole.index(word)]
    last = served.ended()[-1]
    assert "stop_words_list" in last["inputs"]
    if stream:
        assert last["reason"] in ("stopped by request", "stop word") and last["tokens"] < 60


def test_lists_reach_the_engine_and_empty_ones_do_not(served: Served) -> None:
    ask(served, "tensorrt_llm_bls", max_tokens=2, bad_words=[""], stop_words=[""])
    assert not {"bad_words_list", "stop_words_list", "embedding_bias"} & set(served.ended()[-1]["inputs"])
    values = {"embedding_bias_words": ["bad"], "embedding_bias_weights": [-4.0]}
    ask(served, "tensorrt_llm_bls", max_tokens=2, bad_words=["bad", "worse"], **values)
    assert {"bad_words_list", "embedding_bias"} <= set(served.ended()[-1]["inputs"])


def test_the_prompt_comes_back_where_it_is_asked_for(served: Served) -> None:
    for model in ("tensorrt_llm_bls", "ensemble"):
        alone = text(ask(served, model, max_tokens=4))
        assert text(ask(served, model, max_tokens=4, exclude_input_in_output=False)) == TEXT + alone


def test_log_probs_pass(served: Served) -> None:
    [found] = ask(served, "tensorrt_llm_bls", max_tokens=4, return_log_probs=True)
    [sum_] = found.as_numpy("cum_log_probs").reshape(-1)
    assert sum_ < 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_ends_the_engine_s_request(served: Served, stream: bool) -> None:
    from tritonclient.grpc import InferenceServerClient

    name = f"leaver-{stream}"
    with served.held():
        with InferenceServerClient(served.grpc) as client:
            client.start_stream(callback=lambda result, error: None)
            values = inputs({"max_tokens": 450, "stream": stream})
            client.async_stream_infer("tensorrt_llm_bls", values, request_id=name)
            served.wait_for(name, "began")
            client.stop_stream(cancel_requests=True)
        last = served.wait_for(name, "reason")
    assert last["reason"] == "stopped by request" and last["tokens"] < 450
    # Its instance serves again, as does the other.
    assert text(ask(served, "tensorrt_llm_bls", max_tokens=2)) == text(ask(served, "tensorrt_llm_bls", max_tokens=2))


@pytest.mark.parametrize(
    ("model", "values", "words"),
    [
        ("tensorrt_llm_bls", {"text_input": ""}, "text_input has no token"),
        ("tensorrt_llm_bls", {"max_tokens": 0}, "max_tokens is 0"),
        ("ensemble", {"max_tokens": 0}, "max_tokens is 0"),
        ("tensorrt_llm_bls", {"text_input": "word " * 900}, "token"),
        ("tensorrt_llm_bls", {"embedding_bias_words": ["a"], "embedding_bias_weights": [1.0, 2.0]}, "one each"),
    ],
)
def test_what_a_model_refuses_comes_with_its_status(
    served: Served, model: str, values: dict[str, Any], words: str
) -> None:
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match=words) as caught:
        ask(served, model, **({"max_tokens": 4} | values))
    assert caught.value.status() in (None, "StatusCode.INVALID_ARGUMENT")


def test_the_ensemble_streams(served: Served) -> None:
    whole = text(ask(served, "ensemble", max_tokens=24))
    found = ask(served, "ensemble", max_tokens=24, stream=True)
    # Its postprocessing has no memory, so that characters may be lost between messages, and nothing else.
    pieces = [result.as_numpy("text_output").reshape(-1)[0].decode() for result in found]
    assert len(pieces) > 8 and "\ufffd" not in pieces[-1]
    assert "".join(pieces).encode("ascii", "ignore") == whole.encode("ascii", "ignore")


@pytest.fixture(scope="module")
def gateway(served: Served, tiny_engine: Path) -> Iterator[GatewayProcess]:
    routes = tuple(
        ModelRoute(id=model, upstream=served.grpc, triton_model=model, engine_dir=tiny_engine, contract="bls")
        for model in MODELS
    )
    with GatewayProcess(GatewaySpec(port=0, models=routes)) as process:
        yield process


@pytest.fixture(scope="module")
def stock(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=DEADLINE_SECONDS) as client:
        yield client


@pytest.mark.parametrize("model", MODELS)
def test_the_gateway_serves_it(
    stock: openai.OpenAI, expected: Callable[[int], tuple[list[int], str]], model: str
) -> None:
    ids, whole = expected(24)
    answer = stock.completions.create(model=model, prompt=TEXT, max_tokens=24, temperature=0)
    assert answer.choices[0].text == whole
    assert answer.usage and 0 < answer.usage.completion_tokens <= len(ids)
    [sampled] = stock.completions.create(model=model, prompt=TEXT, max_tokens=8, temperature=0.9, seed=11).choices
    assert (
        sampled.text
        == stock.completions.create(model=model, prompt=TEXT, max_tokens=8, temperature=0.9, seed=11).choices[0].text
    )


def test_the_gateway_streams_it(stock: openai.OpenAI, expected: Callable[[int], tuple[list[int], str]]) -> None:
    chunks = list(
        stock.completions.create(model="tensorrt_llm_bls", prompt=TEXT, max_tokens=60, temperature=0, stream=True, n=2)
    )
    texts = {0: "", 1: ""}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {0: expected(60)[1], 1: expected(60)[1]}
    assert len(chunks) > 40


def test_the_gateway_passes_on_that_its_client_has_gone(
    served: Served, gateway: GatewayProcess, stock: openai.OpenAI
) -> None:
    headers = {"x-request-id": "gateway-leaver"}
    with contextlib.ExitStack() as stack:
        with stock.completions.create(
            model="tensorrt_llm_bls", prompt=TEXT, max_tokens=450, temperature=0, stream=True, extra_headers=headers
        ) as stream:
            next(iter(stream))
            stack.enter_context(served.held())
        last = served.wait_for("gateway-leaver", "reason")
    assert last["reason"] == "stopped by request" and last["tokens"] < 450
    assert httpx.get(f"{gateway.url}/health/ready", timeout=DEADLINE_SECONDS).status_code == 200


def test_the_gateway_refuses_what_the_contract_lacks(stock: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="contract 'bls'"):
        stock.completions.create(model="tensorrt_llm_bls", prompt=TEXT, logprobs=0)


def test_without_decoupled_answers_come_in_one_piece(
    tmp_path: Path, tiny_engine: Path, expected: Callable[[int], tuple[list[int], str]]
) -> None:
    from tritonclient.utils import InferenceServerException

    with running(tmp_path, tiny_engine, decoupled=False, warm_up=False) as served:
        for model in ("tensorrt_llm_bls", "ensemble"):
            assert text(ask(served, model, max_tokens=12)) == expected(12)[1]
        with pytest.raises(InferenceServerException, match="stream needs a decoupled model"):
            ask(served, "tensorrt_llm_bls", max_tokens=4, stream=True)
        with pytest.raises(InferenceServerException, match="max_tokens is 0"):
            ask(served, "tensorrt_llm_bls", max_tokens=0)
