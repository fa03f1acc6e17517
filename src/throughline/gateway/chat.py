"""Chat messages to prompt tokens with jinja2 and `tokenizers` alone, equal to transformers byte for byte."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from throughline.contracts.errors import GatewayError
from throughline.gateway.errors import ApiError, bad_request, context_exceeded
from throughline.gateway.literals import LiteralGuard

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOOL_CALL_START = "<tool_call>"
_TOOL_CALL_TAGS = (TOOL_CALL_START, "</tool_call>")
# Characters, and texts of any length; about ten milliseconds of tokenising.
_LONG_TEXT, _MANY_PARTS = 16_384, 256
# A normalizer may put one character in the place of several: Unicode's compositions (UAX 15) of four, as U+1F82 is.
_MOST_NORMALIZED = 4
# What transformers' `special_tokens_map` hands to a template.
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks what the model wrote; for rendering it is transparent.

    A call block and not the bare body, because `set` inside it must stay inside, as in transformers.
    """

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Wraps the statements up to `endgeneration`."""
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(lineno)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class ChatTemplate:
    """A compiled chat template in jinja2's immutable sandbox.

    Args:
        source: The template's text.
        special_tokens: `bos_token` and the like, visible to the template.

    Raises:
        GatewayError: If the template does not compile.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        env = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
        )
        env.filters["tojson"] = _tojson
        env.globals["raise_exception"] = _raise_exception
        env.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
        self._special = dict(special_tokens)
        try:
            self._template = env.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise GatewayError(
                "the chat template does not compile",
                where=f"chat_template.jinja:{error.lineno}",
                seen=error.message,
                fix="correct the template in the engine folder",
            ) from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Returns the prompt text that `apply_chat_template(tokenize=False)` gives.

        Raises:
            ApiError: 400 when the template refuses the messages.
        """
        try:
            return self._template.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **{**self._special, **variables},
            )
        except jinja2.exceptions.SecurityError:
            raise
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise bad_request(
                f"The chat template refuses these messages: {error}.", param="messages", code="invalid_value"
            ) from None


class PromptEncoder:
    """Tokenizer and chat template of one engine folder.

    Args:
        engine_dir: The engine's folder.
        max_seq_len: Its context in tokens; texts that cannot fit it are refused before they are tokenised.

    Attributes:
        writes_calls: Whether the template writes calls as JSON in `<tool_call>`, and not in another form or not at all.

    Raises:
        GatewayError: If the folder has no tokenizer.
    """

    def __init__(self, engine_dir: Path, *, max_seq_len: int | None = None) -> None:
        self._tokenizer = _load_tokenizer(engine_dir / "tokenizer.json")
        self._max_seq_len = max_seq_len
        self._longest = max(map(len, self._tokenizer.get_vocab(with_added_tokens=True)), default=1)
        if self._tokenizer.normalizer is not None:
            self._longest *= _MOST_NORMALIZED
        config = _read_config(engine_dir / "tokenizer_config.json")
        source, special = _template_source(engine_dir, config), _special_tokens(engine_dir, config)
        self._start_token = special.get("bos_token", "")
        self.template = None if source is None else ChatTemplate(source, special)
        added = self._tokenizer.get_added_tokens_decoder().values()
        self.writes_calls = self.template is not None and _writes_calls(self.template)
        # Some families do not flag their tool-call tags as special, though templates write them.
        self._guard = LiteralGuard(
            token.content for token in added if token.special or token.content in _TOOL_CALL_TAGS
        )

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        *,
        add_generation_prompt: bool = True,
        any_size: bool = False,
    ) -> tuple[list[int], str]:
        """Token ids and text of a chat up to where the assistant speaks, equal to transformers' for ordinary text.

        Special tokens inside messages and tools count as plain text, see `LiteralGuard`.

        Args:
            messages: Chat messages as the template reads them.
            tools: Tools as the template reads them.
            add_generation_prompt: Whether the assistant's turn is opened.
            any_size: Whether a text that no context is long enough for is tokenised all the same.

        Raises:
            ApiError: 400 when there is no template, it refuses the messages, or a text has no UTF-8 form.
        """
        if not any_size:
            self._check_size(sum(len(message.get("content") or "") for message in messages), "messages")
        parts = self._rendered(messages, tools, add_generation_prompt=add_generation_prompt)
        if not any_size:
            self._check_size(sum(map(len, parts)), "messages")
        return await self._encode(parts, add_special_tokens=False), "".join(parts)

    async def text_of(self, ids: list[int], text: str | None, *, add_special_tokens: bool) -> str | None:
        """A text of which the tokenizer makes just these ids; None if there is none.

        Args:
            ids: Token ids.
            text: Where they come from, if from a text.
            add_special_tokens: Whether the tokenizer puts its own tokens around a text.
        """
        start = self._start_token
        given = await self.decode(ids) if text is None else text
        for candidate in dict.fromkeys((given, given.removeprefix(start), start + given)):
            if await self._encode([candidate], add_special_tokens=add_special_tokens) == ids:
                return candidate
        return None

    async def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with the tokens that the tokenizer puts around it.

        Raises:
            ApiError: 400 for a text that has no UTF-8 form.
        """

        def encode() -> list[list[int]]:
            return [part.ids for part in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=True)]

        try:
            if len(texts) > _MANY_PARTS or sum(map(len, texts)) > _LONG_TEXT:
                return await asyncio.to_thread(encode)
            return encode()
        except TypeError:
            raise _not_unicode() from None

    def least_tokens(self, characters: int) -> int:
        """Tokens that a text of so many characters has at least: none stands for more than the longest one."""
        return characters // self._longest

    def count(self, text: str) -> int:
        """Tokens of a text that a model has written."""
        return len(self._ids([text], add_special_tokens=False))

    async def encode(self, text: str, *, add_special_tokens: bool, any_size: bool = False) -> list[int]:
        """Token ids of a text in which special tokens are special; long texts do not hold up the loop.

        Raises:
            ApiError: 400 for a text that has no UTF-8 form (a lone surrogate), or, without `any_size`, that no context
                is long enough for.
        """
        if not any_size:
            self._check_size(len(text), "prompt")
        return await self._encode([text], add_special_tokens=add_special_tokens)

    async def decode(self, ids: list[int]) -> str:
        """The text of token ids, special tokens with it."""
        return await asyncio.to_thread(self._tokenizer.decode, ids, skip_special_tokens=False)

    def token_strings(self, ids: list[int]) -> list[str]:
        """Each token as the vocabulary spells it; empty for an id that the tokenizer does not have."""
        return [self._tokenizer.id_to_token(token) or "" for token in ids]

    def _rendered(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        *,
        add_generation_prompt: bool = True,
    ) -> list[str]:
        """The parts of the prompt, see `LiteralGuard`."""
        if self.template is None:
            raise bad_request(
                "This model has no chat template: use /v1/completions.", param="messages", code="no_chat_template"
            )
        mark = self._guard.mark
        text = self.template.render(mark(messages), mark(tools), add_generation_prompt=add_generation_prompt)
        return self._guard.cut(text)

    def _check_size(self, characters: int, param: str) -> None:
        """Refuses what has more tokens than the context whatever it says."""
        least = self.least_tokens(characters)
        if self._max_seq_len is not None and least > self._max_seq_len:
            raise context_exceeded(limit=self._max_seq_len, prompt=least, output=None, param=param, at_least=True)

    async def _encode(self, parts: list[str], *, add_special_tokens: bool) -> list[int]:
        try:
            if len(parts) > _MANY_PARTS or sum(map(len, parts)) > _LONG_TEXT:
                return await asyncio.to_thread(self._ids, parts, add_special_tokens)
            return self._ids(parts, add_special_tokens)
        except TypeError:
            # The tokenizer's word for a string that has no UTF-8 form.
            raise _not_unicode() from None

    def _ids(self, parts: list[str], add_special_tokens: bool) -> list[int]:
        # `encode` would hold the interpreter lock all the time; the batch form lets go of it.
        batch = self._tokenizer.encode_batch_fast(parts, add_special_tokens=add_special_tokens)
        return [token for part in batch for token in part.ids]


def _not_unicode() -> ApiError:
    return bad_request("The prompt is not valid Unicode: it has a lone surrogate.", code="invalid_value")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _writes_calls(template: ChatTemplate) -> bool:
    call = {"type": "function", "function": {"name": "probe", "arguments": {}}}
    try:
        text = template.render([{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}])
    except ApiError:
        return False
    return re.search(rf'{TOOL_CALL_START}\s*{{"name": "probe"', text) is not None


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _load_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    if not path.is_file():
        raise GatewayError(
            "the engine folder holds no tokenizer",
            where=str(path),
            seen="no such file",
            fix="copy tokenizer.json and tokenizer_config.json of the checkpoint there",
        )
    tokenizer = Tokenizer.from_file(str(path))
    # tokenizer.json may carry the cutting and padding of training; a prompt is never cut unseen.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    data = json.loads(path.read_text(encoding="utf-8"))
    return data if isinstance(data, dict) else {}


def _template_source(engine_dir: Path, config: Mapping[str, Any]) -> str | None:
    path = engine_dir / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):
        found = {str(entry.get("name")): entry.get("template") for entry in found}.get("default")
    return found if isinstance(found, str) else None


def _special_tokens(engine_dir: Path, config: Mapping[str, Any]) -> dict[str, str]:
    values = {**_read_config(engine_dir / "special_tokens_map.json"), **config}
    tokens: dict[str, str] = {}
    for key in _SPECIAL:
        value = values.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            tokens[key] = text
    return tokens
