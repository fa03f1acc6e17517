"""From a request's body to a job: tokens, sampling parameters and the frames of its answer."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from throughline.contracts.engine import SamplingParams
from throughline.gateway.errors import unsupported
from throughline.gateway.http import Exchange
from throughline.gateway.params import (
    UINT64_MAX,
    check_choices,
    prompts_of,
    refuse_lacking,
    sampling,
    template_messages,
    token_prompt,
    tool_use,
)
from throughline.gateway.schemas import ChatRequest, CompletionRequest, GenerationFields
from throughline.gateway.served import GeneratingModel, ServedModel, ServedModels
from throughline.gateway.sse import ChatFrames, TextFrames
from throughline.gateway.toolcalls import ToolCallParser


@dataclass(slots=True)
class Choice:
    """One output of a job, which is one request to the engine.

    Attributes:
        index: OpenAI's `index`: of prompt p the choices `p * n` to `p * n + n - 1`.
        prompt: Token ids.
        text: The same as text, where the engine reads that; else empty.
        params: Sampling.
        frames: Its part of the answer.
        parser: Finds tool calls in the text; None where all text is content.
    """

    index: int
    prompt: list[int]
    text: str
    params: SamplingParams
    frames: ChatFrames | TextFrames
    parser: ToolCallParser | None = None


@dataclass(slots=True)
class Job:
    """One generation, checked and ready to run.

    Attributes:
        model: Who answers.
        choices: Its outputs, by index.
        n: Choices of each prompt.
        stream: Whether the answer is a stream of events.
        include_usage: Whether a stream ends with `usage`.
        priority: In the engine's queue, where lower is served earlier; None for that of the API key.
    """

    model: GeneratingModel
    choices: Sequence[Choice]
    n: int
    stream: bool
    include_usage: bool
    priority: int | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts, each counted once however many choices it has."""
        return sum(len(choice.prompt) for choice in self.choices[:: self.n])

    @property
    def most_tokens(self) -> int:
        """What `usage` can come to."""
        return self.prompt_tokens + sum(choice.params.max_tokens for choice in self.choices)

    @property
    def engine_tokens(self) -> int:
        """What the engine has to hold at most: every choice its prompt and its output."""
        return sum(len(choice.prompt) + choice.params.max_tokens for choice in self.choices)


async def chat_job(exchange: Exchange, request: ChatRequest, models: ServedModels) -> Job:
    """Reads a chat completion; raises `ApiError` naming the field at fault."""
    model = _model(exchange, request, models)
    n = check_choices(request, prompts=1, limit=models.max_choices)
    refuse_lacking(request, model.facts, model.contract)
    use = tool_use(request, model.encoder)
    with exchange.trace.tokenizing():
        prompt, rendered = await model.encoder.chat(template_messages(request.messages), use.tools)
    params = sampling(request, model.facts, model.contract, prompt_tokens=len(prompt), guide=use.guide)
    text = await _text(model, prompt, rendered, "messages")
    stream, usage = _streaming(request)
    head = (f"chatcmpl-{os.urandom(12).hex()}", int(time.time()), model.id, model.fingerprint)
    frames = functools.partial(ChatFrames, *head, include_usage=usage)
    choices = [
        Choice(
            index, prompt, text, _seeded(params, index), frames(index=index), ToolCallParser() if use.parse else None
        )
        for index in range(n)
    ]
    return Job(model, choices, n, stream, usage, request.priority)


async def completion_job(exchange: Exchange, request: CompletionRequest, models: ServedModels) -> Job:
    """Reads a text completion; its prompts are the model's raw input, in which special tokens are special."""
    model = _model(exchange, request, models)
    refuse_lacking(request, model.facts, model.contract)
    prompts = prompts_of(request.prompt)
    n = check_choices(request, prompts=len(prompts), limit=models.max_choices)
    stream, usage = _streaming(request)
    head = (f"cmpl-{os.urandom(12).hex()}", int(time.time()), model.id, model.fingerprint)
    frames = functools.partial(TextFrames, *head, include_usage=usage)
    choices: list[Choice] = []
    for position, given in enumerate(prompts):
        where = "prompt" if given is request.prompt else f"prompt[{position}]"
        with exchange.trace.tokenizing():
            prompt = await token_prompt(given, model.encoder, model.facts.vocab_size, where)
        params = sampling(request, model.facts, model.contract, prompt_tokens=len(prompt))
        text = await _text(model, prompt, given if isinstance(given, str) else None, where)
        for number in range(n):
            index = len(choices)
            choices.append(Choice(index, prompt, text, _seeded(params, number), frames(index=index)))
    return Job(model, choices, n, stream, usage, request.priority)


def _seeded(params: SamplingParams, number: int) -> SamplingParams:
    """The parameters of a prompt's choice: as vLLM, each takes the next seed."""
    if params.seed is None or not number:
        return params
    return replace(params, seed=(params.seed + number) & UINT64_MAX)


async def _text(model: GeneratingModel, prompt: list[int], text: str | None, where: str) -> str:
    """The prompt for an engine that reads text, empty for others: only what becomes the same tokens there may go."""
    if not model.contract.reads_text:
        return ""
    found = await model.encoder.text_of(prompt, text, add_special_tokens=model.contract.adds_special_tokens)
    if found is None:
        raise unsupported(
            where,
            f"{model.facts.name} reads text (contract '{model.contract.name}'), and no text becomes just these tokens "
            "there: send no token ids that no text has, and no special token as plain text",
        )
    return found


def note_model(exchange: Exchange, model: ServedModel) -> None:
    """Says who answers, to the log and in the answer's headers."""
    exchange.model = model.id
    exchange.headers.append((b"x-engine-digest", model.facts.engine_digest.encode()))


def _model(exchange: Exchange, request: GenerationFields, models: ServedModels) -> GeneratingModel:
    model = models.generating(request.model)
    note_model(exchange, model)
    if model.contract.reads_text:
        # The engine gives no token counts.
        exchange.headers.append((b"x-usage-counted-by", b"gateway"))
    return model


def _streaming(request: GenerationFields) -> tuple[bool, bool]:
    options = request.stream_options
    return bool(request.stream), options is not None and options.include_usage
