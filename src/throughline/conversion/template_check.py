"""Whether a chat template keeps everything that a conversation holds.

Many checkpoints' templates ignore tools, or write a turn that is only a call as an empty one. Training on such a
template teaches nothing and serving it answers nonsense, both without any error; so it is refused here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from throughline.contracts.text import shorten
from throughline.contracts.tool_calls import parse_tool_calls
from throughline.conversion.rendering import RenderingError, render

Message = dict[str, Any]

SYSTEM = "Sort tickets; answer in short words — größe zählt."
# The first is never called, so what it holds can be found in its listing alone.
TOOLS: tuple[dict[str, Any], ...] = (
    {
        "type": "function",
        "function": {
            "name": "close_ticket",
            "description": "Ends the work on one request.",
            "parameters": {
                "type": "object",
                "properties": {
                    "verdict": {"type": "string", "enum": ["solved", "duplicate"], "description": "why it ends"},
                    "prüfziffer": {"type": "integer", "description": "check digit"},
                },
                "required": ["verdict"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Finds a customer.",
            "parameters": {"type": "object", "properties": {"customer_name": {"type": "string"}}},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "sort_ticket",
            "description": "Moves one ticket.",
            "parameters": {"type": "object", "properties": {"queue": {"type": "string"}, "flags": {"type": "array"}}},
        },
    },
)


def _call(name: str, arguments: Mapping[str, Any]) -> Message:
    return {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": dict(arguments)}}


FIRST_CALL = _call("look_up", {"customer_name": 'Ångström "GPU" Ltd 温度'})
SECOND_CALL = _call("sort_ticket", {"queue": "network 41", "flags": [True, None, {"depth": 2.5}]})
# Turns alternate, since some templates insist on it.
CONVERSATION: tuple[Message, ...] = (
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": "Is anybody there? 你好 🙂"},
    {"role": "assistant", "content": "Yes, ask away."},
    {"role": "user", "content": "Who is the customer of ticket T-1093?"},
    {"role": "assistant", "content": "", "tool_calls": [FIRST_CALL]},
    {"role": "tool", "tool_call_id": FIRST_CALL["id"], "name": "look_up", "content": '{"id": "K-77 ü"}'},
    {"role": "assistant", "content": "It is customer K-77."},
    {"role": "user", "content": "Sort the ticket, please."},
    {"role": "assistant", "content": "Sorting it now.", "tool_calls": [SECOND_CALL]},
    {"role": "tool", "tool_call_id": SECOND_CALL["id"], "name": "sort_ticket", "content": "sorted into network"},
    {"role": "assistant", "content": "Done, it is with the network team."},
)


def losses(template: str, special_tokens: Mapping[str, str]) -> list[str]:
    """Returns what the template would lose, in words; empty if it keeps everything.

    Args:
        template: The template's text.
        special_tokens: `bos_token` and the like, visible to the template.
    """
    try:
        text = render(template, special_tokens, CONVERSATION, TOOLS)
        before = render(template, special_tokens, CONVERSATION[:-1], TOOLS)
        prompt = render(template, special_tokens, CONVERSATION[:-1], TOOLS, add_generation_prompt=True)
    except RenderingError as error:
        return [f"a whole conversation with tools, which it refuses ({shorten(str(error))})"]
    found = _listed([(what, value) for what, value in _tool_parts() if value not in text])
    found += _message_losses(text)
    if not text.startswith(prompt):
        found.append("the prompt of an answer, which is not how the conversation with that answer begins")
    elif prompt == before:
        found.append("the beginning of an answer: add_generation_prompt changes nothing")
    return found


def _message_losses(text: str) -> list[str]:
    """What of the messages is missing or stands before what it follows; calls are read as the gateway does."""
    missing = []
    at = 0
    for what, value in _message_parts():
        where = text.find(value, at)
        if where < 0:
            missing.append((what, value))
        else:
            at = where + len(value)
    found = _listed(missing)
    wanted = [call["function"] for call in (FIRST_CALL, SECOND_CALL)]
    start = text.find("ticket T-1093?")
    calls = [{"name": call.name, "arguments": call.arguments} for call in parse_tool_calls(text[start:]).calls]
    if calls != wanted:
        lost = ", ".join(call["name"] for call in wanted if call not in calls) or "none, but others appear"
        found.append(f'calls in the form <tool_call>{{"name": …, "arguments": …}}</tool_call> ({lost})')
    return found


def _listed(missing: Iterable[tuple[str, str]]) -> list[str]:
    """One entry a kind, with all that is missing of it."""
    values: dict[str, list[str]] = {}
    for what, value in missing:
        values.setdefault(what, []).append(shorten(value))
    return [f"{what} ({', '.join(dict.fromkeys(lost))})" for what, lost in values.items()]


def _tool_parts() -> Iterator[tuple[str, str]]:
    for tool in TOOLS:
        function = tool["function"]
        yield "a tool's name", function["name"]
        yield "a tool's description", function["description"]
        for name, schema in function["parameters"]["properties"].items():
            yield "a property of a tool", name
            if "description" in schema:
                yield "a property's description", schema["description"]
            yield from (("an allowed value", value) for value in schema.get("enum", ()))


def _message_parts() -> Iterator[tuple[str, str]]:
    for message in CONVERSATION:
        if message["content"]:
            yield f"a text of {message['role']}", message["content"]


def special_tokens_of(*sources: Mapping[str, Any]) -> dict[str, str]:
    """Returns what transformers hands a template of `special_tokens_map.json` and `tokenizer_config.json`."""
    tokens: dict[str, str] = {}
    for source in sources:
        for role in ("bos_token", "eos_token", "unk_token", "pad_token"):
            value = source.get(role)
            content = value.get("content") if isinstance(value, Mapping) else value
            if isinstance(content, str):
                tokens[role] = content
    return tokens
