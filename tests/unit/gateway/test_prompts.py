"""Prompts against transformers as the oracle, and special tokens that a client wrote as text."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from throughline.contracts.errors import GatewayError
from throughline.gateway.chat import ChatTemplate, PromptEncoder
from throughline.gateway.errors import ApiError

SPECIAL = (*tiny.SPECIAL, *tiny.TOOL_TAGS)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(
    lambda text: not any(token in text for token in SPECIAL)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
NAME = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
CALLS = st.lists(
    st.fixed_dictionaries({"name": NAME, "arguments": st.dictionaries(TEXT, JSON, max_size=3)}).map(
        lambda function: {"id": "c1", "type": "function", "function": function}
    ),
    min_size=1,
    max_size=2,
)
MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "tool"]), "content": TEXT}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXT}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": st.none(), "tool_calls": CALLS}),
)
MESSAGES = st.lists(MESSAGE, min_size=1, max_size=5)
TOOLS = st.none() | st.lists(
    st.fixed_dictionaries(
        {"name": NAME, "parameters": st.fixed_dictionaries({"properties": st.dictionaries(NAME, JSON)})}
    ).map(lambda function: {"type": "function", "function": function}),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def encoder(engine_dir: Path) -> PromptEncoder:
    return PromptEncoder(engine_dir)


@pytest.fixture(scope="module")
def oracle(engine_dir: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(engine_dir)


def ids_of(encoder: PromptEncoder, messages: Sequence[Any], tools: Any = None) -> list[int]:
    return asyncio.run(encoder.chat(messages, tools))[0]


@settings(max_examples=50, deadline=None)
@given(messages=MESSAGES, tools=TOOLS)
def test_equal_to_transformers(encoder: PromptEncoder, oracle: Any, messages: Any, tools: Any) -> None:
    options = {"tools": tools, "add_generation_prompt": True}
    text = oracle.apply_chat_template(messages, tokenize=False, **options)
    assert encoder.template
    assert encoder.template.render(messages, tools) == text
    assert (
        ids_of(encoder, messages, tools)
        == oracle.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
        == oracle.encode(text, add_special_tokens=False)
    )


PIECES = st.lists(st.sampled_from([*SPECIAL, "<", "<|", "|>", "im_end", "\n", "a ", "É"]), max_size=8).map("".join)


@settings(max_examples=50, deadline=None)
@given(system=PIECES, user=PIECES, answer=PIECES, key=PIECES)
def test_a_client_cannot_write_control_tokens(
    encoder: PromptEncoder, oracle: Any, system: str, user: str, answer: str, key: str
) -> None:
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": user},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "x"},
    ]
    tool = {"name": "find", "parameters": {"properties": {key: {}}}}
    ids = ids_of(encoder, messages, [{"type": "function", "function": tool}])
    # One opening and one closing token for each of four messages, the tags that show how to call, one opening.
    assert [number for number in ids if number < len(SPECIAL)] == [1, 3, 4, 2, 1, 2, 1, 2, 1, 2, 1]
    # All the same the model reads every letter.
    expected = oracle.apply_chat_template(
        messages, tools=[{"type": "function", "function": tool}], tokenize=False, add_generation_prompt=True
    )
    assert oracle.decode(ids, skip_special_tokens=False) == expected


def test_tool_call_arguments_are_text_too(encoder: PromptEncoder) -> None:
    function = {"name": "find", "arguments": {"<|im_end|>": ["</tool_call>"]}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [{"function": function}]}]
    special = [number for number in ids_of(encoder, messages) if number < len(SPECIAL)]
    # The default system message, the turn with its call, the next turn's beginning.
    assert special == [1, 2, 1, 3, 4, 2, 1]


def test_a_long_text_is_the_same_as_a_short_one(encoder: PromptEncoder, oracle: Any) -> None:
    messages = [{"role": "user", "content": "Pump P-101 fails. " * 2000}]
    assert ids_of(encoder, messages) == oracle.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )


@pytest.mark.parametrize("count", [10, 3000])
def test_many_special_tokens_are_tokenised_at_once_and_beside_the_loop(
    count: int, encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    threads: list[bool] = []
    plain = encoder._ids

    def counting(parts: list[str], add_special_tokens: bool) -> list[int]:
        calls.append(len(parts))
        threads.append(threading.current_thread() is threading.main_thread())
        return plain(parts, add_special_tokens)

    monkeypatch.setattr(encoder, "_ids", counting)
    messages = [{"role": "user", "content": "<|im_end|>" * count}]
    ids = ids_of(encoder, messages)
    assert calls == [count + 1]
    assert threads == [count < 256]
    one_by_one = [token for part in encoder_parts(encoder, messages) for token in plain([part], False)]
    assert ids == one_by_one and ids.count(2) == 2


def encoder_parts(encoder: PromptEncoder, messages: Any) -> list[str]:
    assert encoder.template
    return encoder._guard.cut(encoder.template.render(encoder._guard.mark(messages)))


def test_what_no_context_is_long_enough_for_is_refused_before_it_is_tokenised(
    engine_dir: Path, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = PromptEncoder(engine_dir, max_seq_len=64)
    longest = max(map(len, oracle.get_vocab()))
    # What may fit for its length is let through, though this text does not.
    assert len(ids_of(encoder, [{"role": "user", "content": "x" * (longest * 32)}])) > 64
    monkeypatch.setattr(encoder, "_ids", lambda *_: pytest.fail("it was tokenised"))
    huge = "<|im_end|>" * (4 * 2**20 // 10)
    for messages, tools in (
        ([{"role": "user", "content": huge}], None),
        (
            [{"role": "user", "content": "x"}],
            [{"type": "function", "function": {"name": "f", "parameters": {"a": huge}}}],
        ),
    ):
        with pytest.raises(ApiError, match=r"64 tokens, but your prompt has at least \d{4,} tokens") as caught:
            ids_of(encoder, messages, tools)
        assert (caught.value.status, caught.value.code, caught.value.param) == (
            400,
            "context_length_exceeded",
            "messages",
        )
    with pytest.raises(ApiError, match="at least"):
        asyncio.run(encoder.encode(huge, add_special_tokens=True))


def test_a_template_that_refuses(engine_dir: Path) -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(ApiError, match="roles must alternate") as caught:
        template.render([{"role": "user", "content": "x"}])
    assert (caught.value.status, caught.value.param) == (400, "messages")


def test_a_template_cannot_reach_out() -> None:
    from jinja2.exceptions import SecurityError

    with pytest.raises(SecurityError):
        ChatTemplate("{{ messages.__class__.__mro__ }}", {}).render([])


def test_broken_folders_are_named(tmp_path: Path, engine_dir: Path) -> None:
    with pytest.raises(GatewayError, match=r"no tokenizer.*tokenizer\.json.*copy"):
        PromptEncoder(tmp_path)
    (tmp_path / "tokenizer.json").write_text((engine_dir / "tokenizer.json").read_text())
    (tmp_path / "chat_template.jinja").write_text("line\n{% if %}")
    with pytest.raises(GatewayError, match=r"does not compile — chat_template\.jinja:2"):
        PromptEncoder(tmp_path)


def test_a_folder_without_a_template_serves_completions_only(tmp_path: Path, engine_dir: Path) -> None:
    (tmp_path / "tokenizer.json").write_text((engine_dir / "tokenizer.json").read_text())
    encoder = PromptEncoder(tmp_path)
    with pytest.raises(ApiError, match="no chat template: use /v1/completions"):
        ids_of(encoder, [{"role": "user", "content": "x"}])
    assert asyncio.run(encoder.encode("x", add_special_tokens=True))


def test_a_lone_surrogate_is_refused(encoder: PromptEncoder) -> None:
    with pytest.raises(ApiError, match="lone surrogate"):
        ids_of(encoder, [{"role": "user", "content": json.loads('"\\ud800"')}])


# Characters that are tokenised on the loop, which takes about ten milliseconds; beyond them a thread does it.
ON_THE_LOOP = 16_384


@pytest.mark.parametrize(("size", "on_the_loop"), [(40, True), (ON_THE_LOOP, True), (ON_THE_LOOP + 1, False)])
async def test_a_long_text_does_not_hold_up_the_loop(encoder: PromptEncoder, size: int, on_the_loop: bool) -> None:
    text = ("a word " * size)[:size]
    task = asyncio.create_task(encoder.encode(text, add_special_tokens=False))
    # One turn of the loop: what a thread has to be asked for cannot be there after it.
    await asyncio.sleep(0)
    assert task.done() is on_the_loop
    assert await task == encoder._tokenizer.encode(text, add_special_tokens=False).ids
