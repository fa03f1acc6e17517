"""The chat template: everything comes back out of it, and templates that lose something are refused with what."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throughline.contracts.errors import CheckpointError, ConfigError
from throughline.contracts.tool_calls import parse_tool_calls
from throughline.conversion.chatml import chatml
from throughline.conversion.rendering import RenderingError, render
from throughline.conversion.template_check import losses
from throughline.conversion.templates import ModelSide, TemplateSpec, choose, default_system

MARKS = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "</tools>")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(
    lambda text: not any(mark in text for mark in MARKS) and text == text.strip("\n")
)
NAME = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
CALL = st.builds(lambda name, arguments: {"name": name, "arguments": arguments}, NAME, st.dictionaries(TEXT, JSON))
# A text, as OpenAI's parts or plain.
CONTENT = TEXT | TEXT.map(lambda text: [{"type": "text", "text": text[:5]}, {"type": "text", "text": text[5:]}])
MESSAGES = st.lists(
    st.one_of(
        st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "tool"]), CONTENT),
        st.builds(
            lambda text, calls: {"role": "assistant", "content": text, "tool_calls": [{"function": c} for c in calls]},
            CONTENT | st.none(),
            st.lists(CALL, max_size=2),
        ),
    ),
    min_size=1,
    max_size=6,
)
TOOLS = st.lists(st.builds(lambda name, schema: {"name": name, "parameters": schema}, NAME, JSON), max_size=3)
# What SmolLM2's own template does.
DEAF = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def side(**changes: Any) -> ModelSide:
    values = {"where": "model.gguf", "template": DEAF, "special_tokens": {}, "has_turn_tokens": True, "begin": ""}
    return ModelSide(**{**values, **changes})


def text_of(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content or ())


def read_back(text: str) -> tuple[str, list[Any], list[dict[str, Any]]]:
    """The oracle: takes a rendered conversation apart into system text, tools and messages."""
    turns = [turn.removeprefix("<|im_start|>").split("\n", 1) for turn in text.split("<|im_end|>\n")[:-1]]
    assert turns[0][0] == "system"
    system, _, listing = turns[0][1].partition("\n\nTools:\n<tools>\n")
    tools = [json.loads(line) for line in listing.partition("</tools>\n")[0].split("\n") if line]
    messages: list[dict[str, Any]] = []
    for role, body in turns[1:]:
        if role == "user" and body.startswith("<tool_response>\n"):
            results = body.removeprefix("<tool_response>\n").removesuffix("\n</tool_response>")
            parts = results.split("\n</tool_response>\n<tool_response>\n")
            messages += [{"role": "tool", "content": part, "calls": []} for part in parts]
        elif role == "assistant" and "<tool_call>" in body:
            content = body[: body.index("<tool_call>")].removesuffix("\n")
            calls = [{"name": c.name, "arguments": c.arguments} for c in parse_tool_calls(body).calls]
            messages.append({"role": role, "content": content, "calls": calls})
        else:
            messages.append({"role": role, "content": body, "calls": []})
    return system, tools, messages


@settings(max_examples=80)
@given(system=TEXT, messages=MESSAGES, tools=TOOLS)
def test_everything_comes_back(system: str, messages: list[Any], tools: list[Any]) -> None:
    wrapped = [{"type": "function", "function": tool} for tool in tools]
    text = render(chatml(), {}, [{"role": "system", "content": system}, *messages], wrapped or None)
    found_system, found_tools, found = read_back(text)
    assert (found_system, found_tools) == (system, tools)
    wanted = [
        {
            "role": message["role"],
            "content": text_of(message["content"]),
            "calls": [call["function"] for call in message.get("tool_calls", [])],
        }
        for message in messages
    ]
    assert found == wanted


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


@settings(max_examples=30)
@given(messages=MESSAGES)
def test_marked_is_what_the_assistant_says_and_nothing_else(tokenizer: Any, messages: list[Any]) -> None:
    found = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    marked = [token for token, mark in zip(found["input_ids"], found["assistant_masks"], strict=True) if mark]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    start = "<|im_start|>assistant\n"
    said = [turn.removeprefix(start) for turn in text.split("<|im_end|>\n") if turn.startswith(start)]
    assert tokenizer.decode(marked) == "".join(f"{part}<|im_end|>" for part in said)


def test_the_form_that_training_and_serving_share() -> None:
    call = {"name": "find", "arguments": {"größe": 1, "ok": True}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": "none"},
    ]
    tool = {"type": "function", "function": {"name": "find", "parameters": {"properties": {"größe": {}}}}}
    assert render(chatml("Be kind."), {}, messages, [tool], add_generation_prompt=True) == (
        "<|im_start|>system\nBe kind.\n\nTools:\n<tools>\n"
        '{"name": "find", "parameters": {"properties": {"größe": {}}}}\n</tools>\n'
        'To call one, write:\n<tool_call>\n{"name": …, "arguments": {…}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nHi<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "find", "arguments": {"größe": 1, "ok": true}}\n</tool_call>'
        "<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nnone\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("system", ["", "plain", 'quo\'te "double" \\n {{ x }} {% y %}\nsecond line — ü'])
def test_default_system_message(system: str) -> None:
    user = [{"role": "user", "content": "x"}]
    turn = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    assert render(chatml(system), {}, user) == f"{turn}<|im_start|>user\nx<|im_end|>\n"
    assert default_system(chatml(system), {}) == system
    own = [{"role": "system", "content": "mine"}, *user]
    assert render(chatml(system), {}, own).startswith("<|im_start|>system\nmine<|im_end|>")


def test_what_the_template_cannot_say_it_refuses() -> None:
    for message in ({"role": "critic", "content": "x"}, {"role": "user", "content": [{"type": "image_url"}]}):
        with pytest.raises(RenderingError, match=r"critic|image_url"):
            render(chatml(), {}, [message])


def test_string_arguments_pass_through() -> None:
    call = {"name": "find", "arguments": '{"id":1}'}
    text = render(chatml(), {}, [{"role": "assistant", "content": "", "tool_calls": [{"function": call}]}])
    assert '{"name": "find", "arguments": {"id":1}}' in text


def test_our_template_loses_nothing() -> None:
    assert losses(chatml("Be kind."), {"bos_token": "<s>"}) == []


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        ("{%- for call in message.tool_calls or [] -%}", "{%- for call in [] -%}", r"look_up, sort_ticket"),
        ("{%- if tools -%}", "{%- if false -%}", "a tool's name.*close_ticket"),
        ("{{- text(message.content) -}}\n      {%- for", "{%- for", "a text of assistant.*Sorting it now"),
        ("+ text(message.content) + '\\n</tool_response>'", "+ '\\n</tool_response>'", "a text of tool.*K-77"),
        ('{"name": \' +', '{"function": \' +', "calls in the form"),
        ("function.arguments | tojson", "function.arguments | string", "calls in the form.*look_up, sort_ticket"),
        ("{%- if add_generation_prompt -%}", "{%- if false -%}", "add_generation_prompt changes nothing"),
        ("'<|im_start|>assistant\\n' -}}\n{%- endif", "'<|im_start|>answer\\n' -}}\n{%- endif", "prompt of an answer"),
        ("{{- begin -}}", "{{- raise_exception('no tools here') -}}", "a whole conversation.*no tools here"),
        ("{{- begin -}}", "{% if %}", "a whole conversation.*TemplateSyntaxError"),
    ],
)
def test_each_kind_of_loss_is_seen(old: str, new: str, lost: str) -> None:
    assert old in chatml()
    found = losses(chatml().replace(old, new), {})
    assert len(found) >= 1
    assert re.search(lost, "; ".join(found)), found


def test_a_deaf_template_is_refused_with_all_it_loses_and_the_cure() -> None:
    with pytest.raises(CheckpointError) as caught:
        choose(TemplateSpec("keep"), side())
    text = str(caught.value)
    for part in ("close_ticket", "why it ends", "duplicate", "look_up, sort_ticket", "model.chat_template=chatml"):
        assert part in text
    with pytest.raises(CheckpointError) as caught:
        choose(TemplateSpec("keep"), side(has_turn_tokens=False))
    assert "chatml" not in str(caught.value)


def test_chatml_takes_the_models_own_system_message_unless_told() -> None:
    own = side(template=chatml("I am Tiny."))
    assert choose(TemplateSpec("chatml"), own).default_system == "I am Tiny."
    assert choose(TemplateSpec("chatml", system_prompt=""), own).default_system == ""
    assert choose(TemplateSpec("chatml"), side(begin="<s>")).text.find('set begin = "<s>"') > 0
    assert 'set begin = ""' in choose(TemplateSpec("chatml"), side(begin="<|im_start|>")).text


def test_choices_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="are no tokens of this model"):
        choose(TemplateSpec("chatml"), side(has_turn_tokens=False))
    with pytest.raises(CheckpointError, match="no chat template"):
        choose(TemplateSpec("keep"), side(template=""))
    with pytest.raises(ConfigError, match=r"model\.system_prompt.*chatml"):
        choose(TemplateSpec("keep", system_prompt="x"), side())
    with pytest.raises(ConfigError, match="chat template cannot be read"):
        choose(TemplateSpec(str(tmp_path / "none.jinja")), side())
    path = tmp_path / "mine.jinja"
    path.write_text(chatml("Mine."))
    assert choose(TemplateSpec(str(path)), side()).origin == "mine.jinja"
