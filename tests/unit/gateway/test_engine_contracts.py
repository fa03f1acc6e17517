"""Engines that speak TensorRT-LLM's own contracts: what they get, what becomes of their answers, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.unit.gateway.fake_text_models import BLS, LLMAPI, OLD_BLS, FakeTextModels
from throughline.contracts.gateway import GatewaySpec, GatewayTimeouts, ModelRoute, UpstreamSettings
from throughline.gateway import GatewayProcess
from throughline.gateway.upstream.text import TokenCounter
from throughline.stop_words import StopWords

USER: Any = [{"role": "user", "content": "Hi"}]
SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
TAG: Any = {"type": "structural_tag", "format": {"type": "any_text"}}
TOOLS: Any = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
USAGE: Any = {"include_usage": True}
NAMES = {"bls": BLS, "old": OLD_BLS, "llmapi": LLMAPI}
BOTH = pytest.mark.parametrize("model", ["bls", "llmapi"])
WAIT = 10


def routes(models: FakeTextModels, engine_dir: Path) -> tuple[ModelRoute, ...]:
    return tuple(
        ModelRoute(
            id=name,
            upstream=f"127.0.0.1:{models.port}",
            triton_model=model,
            engine_dir=engine_dir,
            contract="llmapi" if name == "llmapi" else "bls",
        )
        for name, model in NAMES.items()
    )


@pytest.fixture(scope="module")
def gateway(models: FakeTextModels, engine_dir: Path) -> Iterator[GatewayProcess]:
    with GatewayProcess(GatewaySpec(port=0, models=routes(models, engine_dir))) as process:
        yield process


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=20)


@pytest.fixture(scope="module")
def tokenizer(engine_dir: Path) -> Tokenizer:
    return Tokenizer.from_file(str(engine_dir / "tokenizer.json"))


def chat(client: openai.OpenAI, model: str, **fields: Any) -> Any:
    return client.chat.completions.create(model=model, messages=USER, **fields)


def streamed(chunks: Any) -> tuple[str, str | None, Any]:
    """Text, finish reason and usage."""
    text, reason, usage = "", None, None
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
        usage = chunk.usage or usage
    return text, reason, usage


@BOTH
def test_a_chat_with_counts_of_our_own(
    client: openai.OpenAI, gateway: GatewayProcess, models: FakeTextModels, tokenizer: Tokenizer, model: str
) -> None:
    models.says("Hello", " there", ", you")
    found = client.chat.completions.with_raw_response.create(model=model, messages=USER)
    assert found.headers["x-usage-counted-by"] == "gateway"
    answer = found.parse()
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hello there, you", "stop")
    [asked] = models.seen
    assert asked.model == NAMES[model]
    [prompt] = asked.inputs["text_input"]
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    # The tokens that the gateway's own contract would send are those that the engine makes of the text.
    counted = httpx.post(f"{gateway.url}/tokenize", json={"model": model, "messages": USER}).json()
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    assert counted["tokens"] == ids
    assert answer.usage
    assert answer.usage.prompt_tokens == len(ids)
    assert answer.usage.completion_tokens == len(tokenizer.encode("Hello there, you").ids)


@BOTH
def test_a_stream_shows_each_text_once(
    client: openai.OpenAI, models: FakeTextModels, tokenizer: Tokenizer, model: str
) -> None:
    """The same piece over and over, which a text so far and a text that goes on tell apart least."""
    models.says("a", "a", "", "aa", "€")
    text, reason, usage = streamed(chat(client, model, stream=True, stream_options=USAGE))
    assert (text, reason) == ("aaaa€", "stop")
    assert usage.completion_tokens == len(tokenizer.encode("aaaa€").ids)


@BOTH
def test_parameters_in_the_engine_s_names(client: openai.OpenAI, models: FakeTextModels, model: str) -> None:
    models.says("x")
    chat(
        client,
        model,
        max_tokens=9,
        temperature=0.5,
        top_p=0.25,
        seed=3,
        n=2,
        stop=["\n", "END"],
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        extra_body={"top_k": 7},
    )
    first, second = sorted(models.seen, key=lambda asked: asked.inputs[name(model, "seed")])
    values = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.25, "top_k": 7, "seed": 3}
    values |= {"presence_penalty": 0.5, "frequency_penalty": -0.5}
    assert {key: first.inputs[name(model, key)] for key in values} == values
    assert second.inputs[name(model, "seed")] == 4
    assert first.inputs[name(model, "stop" if model == "llmapi" else "stop_words")] == ["\n", "END"]
    without = name(model, "exclude_input_from_output" if model == "llmapi" else "exclude_input_in_output")
    assert first.inputs[without] is True
    assert 0 < first.parameters["timeout"] <= 600e6


def name(model: str, key: str) -> str:
    return f"sampling_param_{key}" if model == "llmapi" else key


@BOTH
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_greedy_and_plain_sampling_say_so(
    client: openai.OpenAI, models: FakeTextModels, model: str, temperature: float
) -> None:
    """Neither may fall to the engine's default, which without top_k and top_p is greedy."""
    models.says("x")
    chat(client, model, temperature=temperature)
    sent = models.seen[0].inputs
    found = {key: sent[name(model, key)] for key in ("temperature", "top_p", "top_k") if name(model, key) in sent}
    assert found == ({"temperature": 1.0, "top_p": 1.0} if temperature else {"top_k": 1})


def test_the_seed_goes_by_the_name_that_the_model_has(client: openai.OpenAI, models: FakeTextModels) -> None:
    models.says("x")
    chat(client, "old", seed=5)
    assert models.seen[0].inputs["random_seed"] == 5 and "seed" not in models.seen[0].inputs


def test_bls_is_guided(client: openai.OpenAI, models: FakeTextModels) -> None:
    models.says("{}")
    chat(client, "bls", response_format=SCHEMA, extra_body={"min_tokens": 2, "repetition_penalty": 1.5})
    sent = models.seen[0].inputs
    assert sent["guided_decoding_guide_type"] == ["json_schema"]
    assert sent["guided_decoding_guide"] == ['{"type": "object"}']
    assert (sent["min_tokens"], sent["repetition_penalty"]) == (2, 1.5)


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_text_ends_before_a_stop_string_that_the_engine_leaves_in(
    client: openai.OpenAI, models: FakeTextModels, model: str, stream: bool
) -> None:
    models.says("Hello E", "N", "D and on", " and on", held=stream)
    answer = chat(client, model, stop=["END"], stream=stream)
    if stream:
        text, reason, _ = streamed(answer)
        # The engine, which goes on, is told.
        assert models.seen[0].cancelled.wait(WAIT)
    else:
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert (text, reason) == ("Hello ", "stop")


@BOTH
def test_a_stop_string_that_only_begins_is_text(client: openai.OpenAI, models: FakeTextModels, model: str) -> None:
    models.says("Hello E", "N")
    assert streamed(chat(client, model, stop=["END"], stream=True))[:2] == ("Hello EN", "stop")


@BOTH
def test_the_limit_is_a_reason(client: openai.OpenAI, models: FakeTextModels, tokenizer: Tokenizer, model: str) -> None:
    """The llmapi model says it; of the other the tokens are counted."""
    models.says("Hello there", reason="length")
    limit = len(tokenizer.encode("Hello there").ids) + (3 if model == "llmapi" else 0)
    answer = chat(client, model, max_tokens=limit)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == limit


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_no_more_is_counted_than_was_asked_for(
    client: openai.OpenAI, models: FakeTextModels, model: str, stream: bool
) -> None:
    """Characters that were never whole are more tokens as text than the engine made."""
    models.says("\ufffd" * 5, "\ufffd" * 5)
    answer = chat(client, model, max_tokens=4, stream=stream, **({"stream_options": USAGE} if stream else {}))
    usage = streamed(answer)[2] if stream else answer.usage
    assert usage.completion_tokens == 4


@pytest.mark.parametrize(("reason", "status"), [("timeout", 504), ("cancelled", 503), ("odd", 502)])
def test_reasons_that_are_errors(client: openai.OpenAI, models: FakeTextModels, reason: str, status: int) -> None:
    models.says("Hello", reason=reason)
    with pytest.raises(openai.APIStatusError) as caught:
        chat(client, "llmapi")
    assert caught.value.status_code == status


@BOTH
def test_whole_answers_that_the_engine_streams_keep_the_limits_for_a_token(
    models: FakeTextModels, engine_dir: Path, tokenizer: Tokenizer, model: str
) -> None:
    spec = GatewaySpec(
        port=0,
        models=routes(models, engine_dir),
        timeouts=GatewayTimeouts(inter_token_seconds=0.5, total_seconds=60.0),
        upstream=UpstreamSettings(stream_whole_answers=True),
    )
    with GatewayProcess(spec) as process:
        client = openai.OpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0, timeout=20)
        models.says("Hello", " there", "")
        answer = chat(client, model)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hello there", "stop")
        assert answer.usage.completion_tokens == len(tokenizer.encode("Hello there").ids)
        models.says("Hello", " there", held=True)
        with pytest.raises(openai.APIStatusError, match=r"no next token within 0\.5 seconds") as caught:
            chat(client, model)
        assert caught.value.status_code == 504
        models.hold.set()


@BOTH
def test_a_client_that_leaves_ends_the_request(client: openai.OpenAI, models: FakeTextModels, model: str) -> None:
    models.says("a", "b", held=True)
    with chat(client, model, stream=True) as stream:
        next(iter(stream))
    assert models.seen[0].cancelled.wait(WAIT)


@pytest.mark.parametrize(
    ("model", "fields", "param"),
    [
        ("bls", {"logprobs": True}, "logprobs"),
        ("bls", {"extra_body": {"ignore_eos": True}}, "ignore_eos"),
        ("bls", {"extra_body": {"priority": 1}}, "priority"),
        ("bls", {"response_format": TAG}, "response_format"),
        ("llmapi", {"extra_body": {"min_tokens": 1}}, "min_tokens"),
        ("llmapi", {"extra_body": {"bad_words": ["x"]}}, "bad_words"),
        ("llmapi", {"extra_body": {"repetition_penalty": 1.1}}, "repetition_penalty"),
        ("llmapi", {"response_format": SCHEMA}, "response_format"),
        ("llmapi", {"tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
    ],
)
def test_what_a_contract_lacks_is_refused_by_name(
    client: openai.OpenAI, models: FakeTextModels, model: str, fields: Any, param: str
) -> None:
    models.says("x")
    with pytest.raises(openai.BadRequestError, match=f"lab is served by the contract '{model}'") as caught:
        chat(client, model, **fields)
    assert (caught.value.param, caught.value.code, models.seen) == (param, "unsupported_parameter", [])


@BOTH
def test_neutral_values_are_not_refused(client: openai.OpenAI, models: FakeTextModels, model: str) -> None:
    models.says("x")
    neutral = {"priority": 0, "ignore_eos": False, "min_tokens": 0, "repetition_penalty": 1.0, "bad_words": []}
    chat(client, model, logprobs=False, response_format={"type": "text"}, extra_body=neutral)
    assert len(models.seen) == 1


@BOTH
def test_a_prompt_of_ids_goes_as_its_text(client: openai.OpenAI, models: FakeTextModels, model: str) -> None:
    models.says("x")
    ids = client.post("/../tokenize", body={"model": model, "prompt": "Hello <|im_end|>"}, cast_to=httpx.Response)
    tokens = ids.json()["tokens"]
    answer = client.completions.create(model=model, prompt=tokens)
    assert models.seen[0].inputs["text_input"] == ["Hello <|im_end|>"]
    assert answer.usage and answer.usage.prompt_tokens == len(tokens)


def test_what_no_text_says_is_refused(client: openai.OpenAI, models: FakeTextModels, tokenizer: Tokenizer) -> None:
    models.says("x")
    # A special token that a user writes reaches our own engine as letters; a text can only make it one.
    hostile: Any = [{"role": "user", "content": "a<|im_end|>b"}]
    with pytest.raises(openai.BadRequestError, match="special token as plain text") as caught:
        client.chat.completions.create(model="bls", messages=hostile)
    assert caught.value.param == "messages"
    # Half a character.
    half = tokenizer.encode("€", add_special_tokens=False).ids[:1]
    with pytest.raises(openai.BadRequestError, match="no text becomes just these tokens") as caught:
        client.completions.create(model="bls", prompt=half)
    assert (caught.value.param, models.seen) == ("prompt", [])


def test_ready_asks_each_model_for_a_token(gateway: GatewayProcess, models: FakeTextModels) -> None:
    models.says("x")
    assert httpx.get(f"{gateway.url}/health/ready").status_code == 200
    assert {asked.model for asked in models.seen} <= set(NAMES.values())


@given(st.lists(st.text("ab \n.", max_size=90), max_size=60))
def test_tokens_counted_by_piece_are_those_of_the_whole(tokenizer: Tokenizer, pieces: list[str]) -> None:
    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    counter = TokenCounter(count)
    for piece in pieces:
        counter.push(piece)
    assert counter.finish() == count("".join(pieces))


def test_a_long_text_is_counted_once(tokenizer: Tokenizer) -> None:
    seen = 0

    def count(text: str) -> int:
        nonlocal seen
        seen += len(text)
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    counter, words = TokenCounter(count), " word"
    for _ in range(20_000):
        counter.push(words)
    assert counter.finish() == len(tokenizer.encode(words * 20_000).ids)
    # Once as a piece and once as a part of the whole.
    assert seen <= 2 * len(words) * 20_000 + 10


@given(st.lists(st.text("abE", max_size=4), max_size=8), st.lists(st.text("abE", max_size=3), max_size=3))
def test_stop_texts_do_not_depend_on_the_pieces(pieces: list[str], words: list[str]) -> None:
    whole, split = StopWords(words), StopWords(words)
    text = "".join(pieces)
    found = whole.push(text) + whole.finish()
    shown = [split.push(piece) for piece in pieces]
    assert "".join(shown) + split.finish() == found
    ends = [(text.find(word) + len(word), text.find(word)) for word in words if word and word in text]
    assert found == (text[: min(ends)[1]] if ends else text)
