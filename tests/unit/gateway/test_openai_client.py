"""The stock `openai` client against the gateway: answers, streams, usage, tools, stops, parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from tokenizers import Tokenizer

from tests.unit.gateway.fake_triton import FakeTriton, say

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
    assert triton.seen[0].inputs["stream"] is False


def test_chat_stream(client: openai.OpenAI, triton: FakeTriton) -> None:
    chunks = list(client.chat.completions.create(model="lab", messages=USER, stream=True))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello there"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks)
    assert triton.seen[0].inputs["stream"] is True


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
        extra_body={"ignore_eos": True, "min_tokens": 3, "top_k": 7, "repetition_penalty": 1.5},
    )
    seen = triton.seen[0].inputs
    del seen["input_ids"]
    assert seen == {
        "max_tokens": 9,
        "stream": False,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "seed": 2**64 - 1,
        "stop_words": ["\n", "END"],
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "ignore_eos": True,
        "min_tokens": 3,
        "repetition_penalty": 1.5,
    }


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


def test_a_forced_call_starts_inside_the_tag(client: openai.OpenAI, triton: FakeTriton, engine_dir: Path) -> None:
    triton.script = say('{"name": "find", "arguments": {"id": 1}}</tool_call>')
    choice = client.chat.completions.create(model="lab", messages=USER, tools=TOOLS, tool_choice="required").choices[0]
    assert choice.message.tool_calls
    assert choice.message.content is None
    plain = client.chat.completions.create(model="lab", messages=USER, tools=TOOLS)
    assert plain.choices
    forced, free = triton.seen[0].prompt, triton.seen[1].prompt
    opening = Tokenizer.from_file(str(engine_dir / "tokenizer.json")).encode("<tool_call>\n", add_special_tokens=False)
    assert forced == [*free, *opening.ids]


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
    assert model.model_extra == {"max_model_len": 256}


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
