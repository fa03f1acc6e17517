"""Records to tokens by the model's chat template, with labels on the assistant's tokens only."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.contracts.errors import CheckpointError, DataError
from throughline.contracts.text import shorten
from throughline.contracts.tool_calls import parse_tool_calls

IGNORE_INDEX = -100


@dataclass(frozen=True)
class Rendered:
    """A conversation in tokens; `labels` equal `input_ids` where the assistant speaks, else -100."""

    input_ids: list[int]
    labels: list[int]


class Renderer:
    """Chat template and tokenizer of a checkpoint folder.

    Args:
        folder: Folder with `tokenizer.json`, `tokenizer_config.json` and a chat template.

    Raises:
        CheckpointError: If the folder has no usable tokenizer or no chat template.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        if not (folder / "tokenizer.json").is_file():
            raise CheckpointError(
                "checkpoint has no tokenizer",
                where=str(folder),
                seen="no tokenizer.json",
                fix="give a Hugging Face folder with a fast tokenizer: model=hf model.path=…",
            )
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        template = self._tokenizer.chat_template
        if not template:
            raise CheckpointError(
                "tokenizer has no chat template",
                where=str(folder),
                fix="add chat_template.jinja to the folder",
            )
        self.marks_generation = "{% generation" in template or "{%- generation" in template
        self.special_tokens = tuple(sorted(set(self._tokenizer.all_special_tokens) | _added(self._tokenizer)))

    def foreign_special_token(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] = ()) -> str | None:
        """Returns a special token that stands in a text, a call or a tool, where it would act as a marker."""
        texts = [str(message.get("content") or "") for message in messages]
        # As templates write them; escapes of JSON would hide a token's own quotes only.
        calls = [call for message in messages for call in message.get("tool_calls") or []]
        texts += [json.dumps(_call(call), ensure_ascii=False) for call in calls]
        texts += [json.dumps(tool, ensure_ascii=False) for tool in tools]
        return next((token for token in self.special_tokens if any(token in text for text in texts)), None)

    def lost(self, messages: Sequence[Mapping[str, Any]], rendered: Rendered) -> str | None:
        """Returns what the assistant said and the tokens with loss do not hold, in words; None if nothing is lost.

        Every assistant turn that is trained on (the last one, where the template does not mark them) must be found
        again: its text but for white space, and its calls by name and arguments.
        """
        said = [message for message in messages if message["role"] == "assistant"]
        runs = [self._tokenizer.decode(run, skip_special_tokens=False) for run in _runs(rendered.labels)]
        if not self.marks_generation:
            said = said[-1:]
        if len(runs) != len(said):
            return f"{len(said)} assistant turns, {len(runs)} of them in the tokens"
        for number, (message, text) in enumerate(zip(said, runs, strict=True), 1):
            found = parse_tool_calls(text)
            if " ".join((message.get("content") or "").split()) not in " ".join(found.content.split()):
                return f"the text of assistant turn {number}: {shorten(text)}"
            calls = [_named(call) for call in message.get("tool_calls") or []]
            if calls != [(call.name, call.arguments) for call in found.calls]:
                return f"the calls of assistant turn {number}: {shorten(text)}"
        return None

    def prompt(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any]) -> tuple[str, list[int]]:
        """Returns the text and tokens up to where the assistant's next turn begins."""
        text = self._tokenizer.apply_chat_template(
            _for_template(messages), tools=list(tools) or None, tokenize=False, add_generation_prompt=True
        )
        return text, list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def conversation(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any]) -> Rendered:
        """Tokenises a conversation.

        A template with generation markers gives exact masks for every assistant turn. Without them only
        the last turn counts, from where the prompt for it ends.

        Raises:
            DataError: If the template refuses the messages or the prompt is no prefix of the conversation.
        """
        if self.marks_generation:
            found = self._tokenizer.apply_chat_template(
                _for_template(messages),
                tools=list(tools) or None,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
            ids, mask = list(found["input_ids"]), list(found["assistant_masks"])
        else:
            full = self._tokenizer.apply_chat_template(
                _for_template(messages), tools=list(tools) or None, tokenize=False
            )
            ids = list(self._tokenizer(full, add_special_tokens=False)["input_ids"])
            _, prompt = self.prompt(messages[:-1], tools)
            if ids[: len(prompt)] != prompt:
                raise DataError(
                    "the chat template's prompt is no prefix of the conversation",
                    fix="add generation markers to chat_template.jinja",
                )
            mask = [0] * len(prompt) + [1] * (len(ids) - len(prompt))
        labels = [token if marked else IGNORE_INDEX for token, marked in zip(ids, mask, strict=True)]
        return Rendered(ids, labels)


def _runs(labels: Sequence[int]) -> list[list[int]]:
    """Tokens with loss, one list for each stretch of them."""
    marked = itertools.groupby(labels, key=lambda label: label != IGNORE_INDEX)
    return [list(run) for has_loss, run in marked if has_loss]


def _named(call: Mapping[str, Any]) -> tuple[str, Any]:
    function = _call(call)["function"]
    return function["name"], function["arguments"]


def _for_template(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as the gateway hands them to templates: a text always, arguments of calls as objects.

    Many templates fail on a missing text, or quote arguments that are JSON text once more.
    """
    return [
        {**message, "content": message.get("content") or ""}
        | ({"tool_calls": [_call(call) for call in message["tool_calls"]]} if message.get("tool_calls") else {})
        for message in messages
    ]


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    try:
        arguments = json.loads(function["arguments"])
    except (KeyError, TypeError, ValueError):
        return dict(call)
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else dict(call)


def _added(tokenizer: Any) -> set[str]:
    return {str(token) for token in tokenizer.get_added_vocab()}
