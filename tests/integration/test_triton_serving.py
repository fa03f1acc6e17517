"""The real Triton in front of a real engine, asked by stock clients over gRPC and HTTP."""

from __future__ import annotations

import codecs
import json
import queue
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import RunningTriton
from throughline import engines
from throughline.contracts.engine import SamplingParams
from throughline.triton.client import InferenceError, TritonClient

pytestmark = pytest.mark.integration

TEXT = "The server has stopped after the driver update."
KINDS = {bool: "BOOL", int: "INT32", float: "FP32", str: "BYTES", list: "INT32"}
DTYPES = {"BOOL": np.bool_, "INT32": np.int32, "FP32": np.float32, "BYTES": np.object_}
DEADLINE_SECONDS = 30.0


@pytest.fixture(scope="module")
def expected(tiny_engine: Path) -> Callable[[str, int], tuple[list[int], str, int]]:
    """The raw engine's greedy answer in this process: ids, text by the tokenizer, prompt length."""
    from tokenizers import Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokenizer = Tokenizer.from_file(str(tiny_engine / "tokenizer.json"))
    alphabet = {character: byte for byte, character in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]

    def answer(text: str, tokens: int) -> tuple[list[int], str, int]:
        runtime = engines.load(tiny_engine)
        prompt = tokenizer.encode(text).ids
        runtime.submit("x", prompt, SamplingParams(max_tokens=tokens, ignore_eos=True))
        ids: list[int] = []
        while runtime.has_work():
            ids += [token for output in runtime.step() for token in output.token_ids]
        runtime.close()
        shown = [tokenizer.id_to_token(token) for token in ids if token not in runtime.info.control_token_ids]
        raw = bytes(alphabet[character] for token in shown for character in token or "")
        # A character that the last token leaves unfinished is not shown; bytes that are none are.
        return ids, codecs.getincrementaldecoder("utf-8")("replace").decode(raw), len(prompt)

    return answer


@pytest.fixture
def client(triton_server: RunningTriton) -> Iterator[TritonClient]:
    with TritonClient(f"127.0.0.1:{triton_server.grpc_port}", timeout_seconds=DEADLINE_SECONDS) as connected:
        yield connected


def stock_inputs(values: Mapping[str, Any]) -> list[Any]:
    from tritonclient.grpc import InferInput

    found = []
    for name, value in values.items():
        kind = KINDS[type(value)]
        items = value if isinstance(value, list) else [value.encode() if isinstance(value, str) else value]
        tensor = InferInput(name, [len(items)], kind)
        tensor.set_data_from_numpy(np.array(items, dtype=DTYPES[kind]))
        found.append(tensor)
    return found


def stock_stream(server: RunningTriton, values: Mapping[str, Any]) -> list[Any]:
    """All results of one request through `tritonclient.grpc`'s streaming interface."""
    from tritonclient.grpc import InferenceServerClient

    results: queue.Queue[tuple[Any, Any]] = queue.Queue()
    found = []
    with InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as stock:
        stock.start_stream(callback=lambda result, error: results.put((result, error)))
        stock.async_stream_infer(server.model, stock_inputs(values), enable_empty_final_response=True)
        while True:
            result, error = results.get(timeout=DEADLINE_SECONDS)
            if error is not None:
                raise error
            if result.as_numpy("text_output") is not None:
                found.append(result)
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
        stock.stop_stream()
    return found


def scalar(result: Any, name: str) -> Any:
    value = result.as_numpy(name)[0]
    return value.decode() if isinstance(value, bytes) else int(value)


def metrics(server: RunningTriton) -> dict[str, float]:
    """Readings of the engine's own families by `family/label value`."""
    connection = HTTPConnection("127.0.0.1", server.metrics_port, timeout=DEADLINE_SECONDS)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    found = {}
    for family, labels, value in re.findall(r"^(\w+)\{(.*?)\} (\S+)$", page, re.MULTILINE):
        own = [text for key, text in re.findall(r'(\w+)="(.*?)"', labels) if key not in {"model", "version"}]
        found["/".join([family, *own])] = float(value)
    return found


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Looks again and again, each look being a request to the server."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"never happened: {what}")


def post(server: RunningTriton, path: str, values: Mapping[str, Any]) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", server.http_port, timeout=DEADLINE_SECONDS)
    connection.request("POST", path, json.dumps(values), {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def test_a_stock_streaming_client_gets_the_raw_engines_answer(
    triton_server: RunningTriton, expected: Callable[[str, int], tuple[list[int], str, int]]
) -> None:
    ids, text, prompt_tokens = expected(TEXT, 48)
    request = {"text_input": TEXT, "max_tokens": 48, "stream": True, "ignore_eos": True}
    results = stock_stream(triton_server, request)
    assert len(results) >= 2
    assert [int(token) for result in results for token in result.as_numpy("output_ids")] == ids
    assert "".join(scalar(result, "text_output") for result in results) == text
    assert [scalar(result, "finish_reason") for result in results] == [""] * (len(results) - 1) + ["length"]
    assert {scalar(result, "prompt_tokens") for result in results} == {prompt_tokens}
    counts = [scalar(result, "completion_tokens") for result in results]
    assert counts == sorted(counts)
    # The first token never waits for company.
    assert (counts[0], counts[-1]) == (1, 48)


async def test_the_stock_async_client_gets_it_too(
    triton_server: RunningTriton, expected: Callable[[str, int], tuple[list[int], str, int]]
) -> None:
    from tritonclient.grpc.aio import InferenceServerClient

    ids, text, _ = expected(TEXT, 24)
    values = {"text_input": TEXT, "max_tokens": 24, "stream": True, "ignore_eos": True}

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": triton_server.model, "inputs": stock_inputs(values)}

    async with InferenceServerClient(f"127.0.0.1:{triton_server.grpc_port}") as stock:
        found = [item async for item in stock.stream_infer(requests(), stream_timeout=DEADLINE_SECONDS)]
    assert [error for _, error in found if error is not None] == []
    results = [result for result, _ in found]
    assert [int(token) for result in results for token in result.as_numpy("output_ids")] == ids
    assert "".join(scalar(result, "text_output") for result in results) == text


def test_the_stock_http_client_reads_the_model(triton_server: RunningTriton) -> None:
    from tritonclient.http import InferenceServerClient, InferInput
    from tritonclient.utils import InferenceServerException

    prompt = InferInput("text_input", [1], "BYTES")
    prompt.set_data_from_numpy(np.array([TEXT.encode()], dtype=np.object_))
    with InferenceServerClient(f"127.0.0.1:{triton_server.http_port}") as stock:
        assert stock.is_server_live() and stock.is_server_ready() and stock.is_model_ready(triton_server.model)
        metadata = stock.get_model_metadata(triton_server.model)
        assert {"text_input", "max_tokens", "stream", "stop_words"} <= {item["name"] for item in metadata["inputs"]}
        assert {"text_output", "output_ids"} <= {item["name"] for item in metadata["outputs"]}
        config = stock.get_model_config(triton_server.model)
        assert config["model_transaction_policy"] == {"decoupled": True}
        # Answers of a decoupled model come by its gRPC stream or by /generate, as the server says itself.
        with pytest.raises(InferenceServerException, match="decoupled"):
            stock.infer(triton_server.model, [prompt])


def test_one_response_when_the_client_does_not_stream(
    triton_server: RunningTriton, expected: Callable[[str, int], tuple[list[int], str, int]]
) -> None:
    ids, text, prompt_tokens = expected(TEXT, 20)
    (result,) = stock_stream(triton_server, {"text_input": TEXT, "max_tokens": 20, "ignore_eos": True})
    assert result.as_numpy("output_ids").tolist() == ids
    assert scalar(result, "text_output") == text
    assert scalar(result, "finish_reason") == "length"
    assert (scalar(result, "prompt_tokens"), scalar(result, "completion_tokens")) == (prompt_tokens, 20)


def test_http_generate_and_generate_stream(
    triton_server: RunningTriton, expected: Callable[[str, int], tuple[list[int], str, int]]
) -> None:
    ids, text, prompt_tokens = expected(TEXT, 16)
    request = {"text_input": TEXT, "max_tokens": 16, "ignore_eos": True}
    status, body = post(triton_server, f"/v2/models/{triton_server.model}/generate", request)
    answer = json.loads(body)
    assert status == 200
    assert (answer["text_output"], answer["output_ids"], answer["prompt_tokens"]) == (text, ids, prompt_tokens)
    stream = post(triton_server, f"/v2/models/{triton_server.model}/generate_stream", {**request, "stream": True})
    events = [json.loads(line[6:]) for line in stream[1].splitlines() if line.startswith("data: ")]
    assert len(events) >= 2
    assert "".join(event["text_output"] for event in events) == text


def test_ids_instead_of_text_and_the_prompt_in_the_output(client: TritonClient, triton_server: RunningTriton) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(triton_server.engine_dir / "tokenizer.json"))
    common = {"max_tokens": 6, "ignore_eos": True}
    by_text = client.generate("lab", {**common, "text_input": TEXT})
    by_ids = client.generate("lab", {**common, "input_ids": tokenizer.encode(TEXT).ids})
    assert by_text == by_ids
    echoed = client.generate("lab", {**common, "text_input": TEXT, "exclude_input_in_output": False})
    assert echoed.text == TEXT + by_text.text


def test_stop_words_and_sampling_reach_the_engine(client: TritonClient) -> None:
    request = {"text_input": TEXT, "max_tokens": 40, "ignore_eos": True}
    whole = client.generate("lab", request).text
    stop = whole[15:19]
    for stream in (False, True):
        found = list(client.stream("lab", {**request, "stop_words": [stop, ""], "stream": stream}))
        assert "".join(item.text for item in found) == whole[: whole.index(stop)]
        assert found[-1].finish_reason == "stop"
    hot = {**request, "temperature": 1.5, "seed": 3}
    assert client.generate("lab", hot) == client.generate("lab", hot)
    assert client.generate("lab", hot).text != whole


def test_a_guide_holds_the_answer(client: TritonClient) -> None:
    asked = {"text_input": TEXT, "max_tokens": 100, "guided_decoding_guide_type": "regex"}
    answer = client.generate("lab", {**asked, "guided_decoding_guide": "(yes|no), [0-9]{3}"})
    assert re.fullmatch("(yes|no), [0-9]{3}", answer.text)
    assert answer.finish_reason == "stop"


def test_many_streams_at_once_each_get_their_own_answer(
    triton_server: RunningTriton, expected: Callable[[str, int], tuple[list[int], str, int]]
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    lengths = [5, 30, 12, 48, 1, 20, 40, 8]
    ids, _, _ = expected(TEXT, max(lengths))

    def ask(tokens: int) -> list[int]:
        with TritonClient(f"127.0.0.1:{triton_server.grpc_port}") as own:
            request = {"text_input": TEXT, "max_tokens": tokens, "ignore_eos": True, "stream": True}
            return [token for item in own.stream("lab", request) for token in item.token_ids]

    with ThreadPoolExecutor(len(lengths)) as pool:
        assert list(pool.map(ask, lengths)) == [ids[:tokens] for tokens in lengths]


def test_a_cancelled_stream_frees_the_request(client: TritonClient, triton_server: RunningTriton) -> None:
    name = "throughline_finished_requests_total/cancelled"
    active = "nv_trt_llm_request_metrics/active"
    before = metrics(triton_server).get(name, 0.0)
    request = {"input_ids": [5, 6, 7], "max_tokens": 500, "ignore_eos": True, "stream": True}
    for attempt in range(1, 4):
        stream = client.stream("lab", request)
        assert next(stream).completion_tokens == 1
        stream.close()

        def freed(wanted: float = before + attempt) -> bool:
            found = metrics(triton_server)
            return found.get(name, 0.0) == wanted and found[active] == 0

        wait_for(freed, "the cancelled request leaves the engine")
    assert client.generate("lab", {"text_input": TEXT, "max_tokens": 2, "ignore_eos": True}).completion_tokens == 2


@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_with_the_requests_id_ends_it_for_a_stock_client(triton_server: RunningTriton, stream: bool) -> None:
    from tritonclient.grpc import InferenceServerClient

    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    asked = {"input_ids": [5, 6, 7], "max_tokens": 490, "ignore_eos": True, "stream": stream}
    found: dict[str, list[Any]] = {"mine": [], "other": []}
    with InferenceServerClient(f"127.0.0.1:{triton_server.grpc_port}") as stock:
        stock.start_stream(callback=lambda result, error: answers.put((result, error)))

        def send(request_id: str, values: Mapping[str, Any]) -> None:
            stock.async_stream_infer(triton_server.model, stock_inputs(values), request_id=request_id)

        send("mine", asked)
        send("other", {**asked, "max_tokens": 20})
        # An id that is not known is answered, and ends nothing.
        send("unknown", {"stop": True})
        send("mine", {"stop": True})
        while not (len(found["mine"]) and found["mine"][-1] == "cancelled" and "length" in found["other"]):
            result, error = answers.get(timeout=DEADLINE_SECONDS)
            assert error is None
            name = result.get_response().id
            if result.as_numpy("finish_reason") is not None:
                found[name].append(scalar(result, "finish_reason"))
        stock.stop_stream()
    assert stream or found == {"mine": ["cancelled"], "other": ["length"]}


def test_a_stop_without_an_id_is_refused(client: TritonClient) -> None:
    with pytest.raises(InferenceError, match="send the id of the request that is to end"):
        list(client.stream("lab", {"stop": True}))


def test_a_paced_stream_says_from_time_to_time_that_it_goes_on(triton_server: RunningTriton) -> None:
    from tritonclient.grpc import InferenceServerClient

    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    values = {"input_ids": [5, 6, 7], "max_tokens": 200, "ignore_eos": True, "stream": True}
    counts, times = [], []
    with InferenceServerClient(f"127.0.0.1:{triton_server.grpc_port}") as stock:
        stock.start_stream(callback=lambda result, error: answers.put((result, error)))
        stock.async_stream_infer(triton_server.model, stock_inputs(values), parameters={"stream_interval_ms": 60})
        while not counts or counts[-1] < 200:
            result, error = answers.get(timeout=DEADLINE_SECONDS)
            assert error is None
            counts.append(scalar(result, "completion_tokens"))
            times.append(time.monotonic())
        stock.stop_stream()
    assert len(counts) <= 1 + (times[-1] - times[0] + 0.2) / 0.06


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"text_input": TEXT, "max_tokens": -1}, "max_tokens"),
        ({"text_input": TEXT, "input_ids": [1]}, "exactly one of the two"),
        ({"max_tokens": 3}, "exactly one of the two"),
        ({"text_input": ""}, "empty prompt"),
        ({"input_ids": [7] * 510, "max_tokens": 16}, "exceed the engine's context"),
        ({"input_ids": [2048]}, "outside the vocabulary"),
        ({"input_ids": [-1]}, "not negative"),
        ({"text_input": TEXT, "top_p": 0.0}, "top_p"),
        ({"text_input": TEXT, "temperature": float("nan")}, "temperature"),
        (
            {"text_input": TEXT, "guided_decoding_guide_type": "regex", "guided_decoding_guide": "("},
            "guided decoding cannot be compiled",
        ),
    ],
)
def test_bad_inputs_are_answered_and_the_next_request_works(
    values: dict[str, Any], words: str, client: TritonClient, triton_server: RunningTriton
) -> None:
    with pytest.raises(InferenceError, match=words):
        list(client.stream("lab", {**values, "stream": True}))
    if values != {"max_tokens": 3} and values.get("temperature", 0.0) == 0.0:
        # HTTP spells INVALID_ARG as 400.
        status, body = post(triton_server, f"/v2/models/{triton_server.model}/generate", values)
        assert (status, words in body) == (400, True)
    assert client.generate("lab", {"text_input": TEXT, "max_tokens": 1, "ignore_eos": True}).completion_tokens == 1
