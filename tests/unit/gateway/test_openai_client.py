"""The stock `openai` client against the gateway: answers, streams, usage, tools, stops, parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from tokenizers import Tokenizer

from tests.unit.gateway.fake_triton import FakeTriton, Say, Seen, say
from throughline.contracts.guided import tool_call_guide

USER: Any = [{"role": "user", "content": "Hi"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": "find", "parameters": {"type": "object", "properties": {"id": {}}}},
    }
]
CALL = 'Look: <tool_call>{"name": "find", "arguments": {"id": "A-7"}}</tool_call>'


def test_chat(client: openai.OpenAI, triton: FakeTriton) -> None:
    answer = client.chat.completions.create(model="lab", messages=USER, max_tokens=5)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.content == "Hello there"
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"
    assert answer.system_fingerprint == "fp_0123456789ab_f32"
    prompt = len(triton.seen[0].prompt)
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, 4)
    assert answer.usage.total_tokens == prompt + 4
    assert not triton.seen[0].is_streamed


def test_chat_stream(client: openai.OpenAI, triton: FakeTriton) -> None:
    chunks = list(client.chat.completions.create(model="lab", messages=USER, stream=True))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello there"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks)
    assert triton.seen[0].is_streamed


def test_stream_usage_is_in_a_last_chunk_of_its_own(client: openai.OpenAI, triton: FakeTriton) -> None:
    stream = client.chat.completions.create(
        model="lab", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage
    assert last.usage.prompt_tokens == len(triton.seen[0].prompt)
    assert last.usage.completion_tokens == 4


def test_completion(client: openai.OpenAI, triton: FakeTriton) -> None:
    answer = client.completions.create(model="lab", prompt=[5, 6, 7])
    assert answer.object == "text_completion"
    assert answer.choices[0].text == "Hello there"
    assert answer.usage
    assert answer.usage.prompt_tokens == 3
    assert triton.seen[0].prompt == [5, 6, 7]
    # OpenAI's default for text completions.
    assert triton.seen[0].inputs["max_tokens"] == 16


def test_completion_stream(client: openai.OpenAI, triton: FakeTriton) -> None:
    triton.script = say("one two", "length")
    stream = client.completions.create(model="lab", prompt="Say", stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "one two"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.usage
    assert last.choices == []


def test_parameters_reach_the_engine(client: openai.OpenAI, triton: FakeTriton) -> None:
    client.chat.completions.create(
        model="lab",
        messages=USER,
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.25,
        seed=-1,
        stop=["\n", "END"],
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        extra_body={
            "ignore_eos": True,
            "min_tokens": 3,
            "top_k": 7,
            "repetition_penalty": 1.5,
            "bad_words": ["", "no", " never"],
        },
    )
    seen = triton.seen[0].inputs
    del seen["input_ids"]
    assert seen == {
        "max_tokens": 9,
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "seed": 2**64 - 1,
        "stop_words": ["\n", "END"],
        "bad_words": ["no", " never"],
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "ignore_eos": True,
        "min_tokens": 3,
        "repetition_penalty": 1.5,
        "return_perf_metrics": True,
    }


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bad_words": ["x"] * 65}, "64"),
        ({"bad_words": ["x"], "response_format": {"type": "json_object"}}, "not beside 'response_format'"),
    ],
)
def test_bad_words_that_cannot_be_kept_out_are_named(
    client: openai.OpenAI, triton: FakeTriton, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        client.chat.completions.create(model="lab", messages=USER, extra_body=fields)
    assert caught.value.param == "bad_words"
    assert triton.seen == []


def test_priority_and_the_time_left_reach_the_engine(client: openai.OpenAI, triton: FakeTriton) -> None:
    for priority in (-100, 0, 7):
        client.chat.completions.create(model="lab", messages=USER, n=2, extra_body={"priority": priority})
    assert [seen.inputs.get("priority") for seen in triton.seen] == [-100] * 2 + [None] * 2 + [7] * 2
    # Of the 600 s of `total_seconds`.
    assert all(500e6 < seen.parameters["timeout"] <= 600e6 for seen in triton.seen)
    with pytest.raises(openai.BadRequestError, match="priority") as caught:
        client.completions.create(model="lab", prompt="x", extra_body={"priority": 101})
    assert caught.value.param == "priority"


def test_chat_without_a_limit_may_fill_the_context(client: openai.OpenAI, triton: FakeTriton) -> None:
    client.chat.completions.create(model="lab", messages=USER)
    seen = triton.seen[0]
    assert len(seen.prompt) + seen.inputs["max_tokens"] == 256
    # OpenAI samples with temperature 1 unless told otherwise; the engine's own default is greedy.
    assert seen.inputs["temperature"] == 1.0


def test_tool_call(client: openai.OpenAI, triton: FakeTriton) -> None:
    triton.script = say(CALL)
    choice = client.chat.completions.create(model="lab", messages=USER, tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Look: "
    calls: Any = choice.message.tool_calls
    assert calls
    assert [(call.type, call.function.name) for call in calls] == [("function", "find")]
    assert json.loads(calls[0].function.arguments) == {"id": "A-7"}
    assert calls[0].id


def test_tool_call_stream(client: openai.OpenAI, triton: FakeTriton) -> None:
    triton.script = say(CALL, pieces=len(CALL))
    chunks = list(client.chat.completions.create(model="lab", messages=USER, tools=TOOLS, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert [call.function.name for call in calls if call.function and call.function.name] == ["find"]
    arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    assert json.loads(arguments) == {"id": "A-7"}
    assert sum(1 for call in calls if call.id) == 1
    assert "".join(delta.content or "" for delta in deltas) == "Look: "
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_forced_call_is_guided_by_its_schema(client: openai.OpenAI, triton: FakeTriton) -> None:
    triton.script = say('<tool_call>\n{"name": "find", "arguments": {"id": 1}}\n</tool_call>')
    choices: list[Any] = ["required", {"type": "function", "function": {"name": "find"}}]
    for choice in choices:
        answer: Any = client.chat.completions.create(model="lab", messages=USER, tools=TOOLS, tool_choice=choice)
        [call] = answer.choices[0].message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("find", {"id": 1})
        assert answer.choices[0].message.content is None
    free = client.chat.completions.create(model="lab", messages=USER, tools=TOOLS)
    assert free.choices
    required, named, auto = (seen.inputs for seen in triton.seen)
    assert required["guided_decoding_guide_type"] == named["guided_decoding_guide_type"] == ["structural_tag"]
    guide = tool_call_guide(TOOLS)
    assert guide is not None and [guide.structural_tag] == required["guided_decoding_guide"]
    assert required["guided_decoding_guide"] == named["guided_decoding_guide"]
    assert not any(name.startswith("guided") for name in auto)
    assert required["input_ids"] == auto["input_ids"]


def test_a_strict_tool_is_guided_where_it_is_called(client: openai.OpenAI, triton: FakeTriton) -> None:
    strict: Any = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    client.chat.completions.create(model="lab", messages=USER, tools=strict)
    [guide] = triton.seen[0].inputs["guided_decoding_guide"]
    part = json.loads(guide)["format"]
    assert part["type"] == "triggered_tags" and part["triggers"] == ["<tool_call>"]


def test_without_tools_a_block_is_content(client: openai.OpenAI, triton: FakeTriton) -> None:
    triton.script = say(CALL)
    for extra in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        choice = client.chat.completions.create(model="lab", messages=USER, **extra).choices[0]
        assert (choice.message.content, choice.finish_reason) == (CALL, "stop")


def test_a_call_cut_by_the_limit_says_so(client: openai.OpenAI, triton: FakeTriton) -> None:
    triton.script = say(CALL[:50], "length")
    choice = client.chat.completions.create(model="lab", messages=USER, tools=TOOLS).choices[0]
    assert choice.finish_reason == "length"
    calls: Any = choice.message.tool_calls
    assert calls[0].function.arguments.startswith("{")


def test_models(client: openai.OpenAI, triton: FakeTriton) -> None:
    assert [model.id for model in client.models.list()] == ["lab"]
    model = client.models.retrieve("lab")
    assert (model.id, model.object) == ("lab", "model")
    assert model.model_extra == {"max_model_len": 256, "task": "generate"}


async def test_async_client(client: openai.OpenAI, triton: FakeTriton) -> None:
    asynchronous = openai.AsyncOpenAI(base_url=client.base_url, api_key="none", max_retries=0)
    async with asynchronous:
        stream = await asynchronous.chat.completions.create(model="lab", messages=USER, stream=True)
        text = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(text) == "Hello there"


@pytest.mark.parametrize("text", ["", "π ≈ 3 \U0001f600\u2028\x00", 'a"\\b\n\ndata: x'])
def test_any_text_arrives_whole(client: openai.OpenAI, triton: FakeTriton, text: str) -> None:
    triton.script = say(text, pieces=max(1, len(text)))
    chunks = list(client.chat.completions.create(model="lab", messages=USER, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    whole = client.chat.completions.create(model="lab", messages=USER)
    assert whole.choices[0].message.content == text


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.mark.parametrize(
    ("response_format", "kind", "guide"),
    [
        ({"type": "json_object"}, "json_schema", {"type": "object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}},
            "json_schema",
            SCHEMA,
        ),
        ({"type": "json", "schema": SCHEMA}, "json_schema", SCHEMA),
        ({"type": "regex", "regex": "[ab]+"}, "regex", "[ab]+"),
        ({"type": "ebnf", "ebnf": 'root ::= "a"'}, "ebnf_grammar", 'root ::= "a"'),
        (
            {"type": "structural_tag", "format": {"type": "any_text"}},
            "structural_tag",
            {"type": "structural_tag", "format": {"type": "any_text"}},
        ),
    ],
)
def test_a_response_format_reaches_the_engine(
    client: openai.OpenAI, triton: FakeTriton, response_format: Any, kind: str, guide: Any
) -> None:
    client.chat.completions.create(model="lab", messages=USER, response_format=response_format)
    client.completions.create(model="lab", prompt="x", extra_body={"response_format": response_format})
    client.chat.completions.create(model="lab", messages=USER, response_format={"type": "text"})
    *guided, free = (seen.inputs for seen in triton.seen)
    for inputs in guided:
        assert inputs["guided_decoding_guide_type"] == [kind]
        [found] = inputs["guided_decoding_guide"]
        assert (found if isinstance(guide, str) else json.loads(found)) == guide
    assert "guided_decoding_guide" not in free


def scored(tokenizer: Tokenizer, text: str, end: int | None = 2) -> Any:
    """A script that says a text token by token, with log-probabilities -1, -2, … and an end token."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids

    def script(_: Seen) -> Any:
        for number, token in enumerate(ids, 1):
            yield Say(tokenizer.decode([token], skip_special_tokens=False), number, "", (token,), (-float(number),))
        yield Say("", len(ids) + 1, "stop" if end is not None else "length", (end or 0,), (-0.5,))

    return script


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_a_chat(client: openai.OpenAI, triton: FakeTriton, engine_dir: Path, stream: bool) -> None:
    tokenizer = Tokenizer.from_file(str(engine_dir / "tokenizer.json"))
    triton.script = scored(tokenizer, "Ja, π")
    answer: Any = client.chat.completions.create(model="lab", messages=USER, logprobs=True, stream=stream)
    parts = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    content = [entry for part in parts if part.logprobs for entry in part.logprobs.content]
    # The end token is no part of the answer.
    assert [entry.logprob for entry in content] == [-float(number) for number in range(1, len(content) + 1)]
    assert b"".join(bytes(entry.bytes) for entry in content).decode() == "Ja, π"
    assert all(entry.top_logprobs == [] for entry in content)
    assert triton.seen[0].inputs["return_log_probs"] is True
    if stream:
        assert sum(1 for part in parts if part.logprobs) == len(content) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_a_completion(
    client: openai.OpenAI, triton: FakeTriton, engine_dir: Path, stream: bool
) -> None:
    tokenizer = Tokenizer.from_file(str(engine_dir / "tokenizer.json"))
    triton.script = scored(tokenizer, "to be or", end=None)
    answer: Any = client.completions.create(model="lab", prompt="x", logprobs=0, stream=stream)
    parts = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    text = "".join(part.text for part in parts)
    found = [part.logprobs for part in parts if part.logprobs]
    tokens = [token for each in found for token in each.tokens]
    offsets = [offset for each in found for offset in each.text_offset]
    assert text == "to be or"
    for token, offset in zip(tokens[:-1], offsets, strict=False):
        assert text[offset:].startswith(token)
    # Cut by the limit, the last token counts.
    assert [value for each in found for value in each.token_logprobs][-1] == -0.5
    assert all(each.top_logprobs is None for each in found)


def test_log_probabilities_beside_tool_calls(client: openai.OpenAI, triton: FakeTriton, engine_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(str(engine_dir / "tokenizer.json"))
    triton.script = scored(tokenizer, CALL)
    chunks = list(client.chat.completions.create(model="lab", messages=USER, tools=TOOLS, logprobs=True, stream=True))
    content = [entry for c in chunks if c.choices[0].logprobs for entry in c.choices[0].logprobs.content or []]
    assert b"".join(bytes(entry.bytes or []) for entry in content).decode() == CALL
    calls = [call for c in chunks for call in c.choices[0].delta.tool_calls or []]
    assert calls and calls[0].function and calls[0].function.name == "find"


def test_an_engine_that_sends_no_log_probabilities_is_a_fault(client: openai.OpenAI, triton: FakeTriton) -> None:
    with pytest.raises(openai.APIStatusError, match="lacks the log-probabilities") as caught:
        client.chat.completions.create(model="lab", messages=USER, logprobs=True)
    assert caught.value.status_code == 502
