"""From a request's body to a job: tokens, sampling parameters and the frames of its answer."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from throughline.contracts.engine import SamplingParams
from throughline.gateway.http import Exchange
from throughline.gateway.params import sampling, template_messages, token_prompt, tool_use
from throughline.gateway.schemas import ChatRequest, CompletionRequest, GenerationFields
from throughline.gateway.served import ServedModel, ServedModels
from throughline.gateway.sse import ChatFrames, TextFrames
from throughline.gateway.toolcalls import ToolCallParser


@dataclass(slots=True)
class Job:
    """One generation, checked and ready to run.

    Attributes:
        model: Who answers.
        prompt: Token ids.
        params: Sampling.
        stream: Whether the answer is a stream of events.
        include_usage: Whether a stream ends with `usage`.
        frames: Bodies of the answer.
        parser: Finds tool calls in the text; None where all text is content.
    """

    model: ServedModel
    prompt: list[int]
    params: SamplingParams
    stream: bool
    include_usage: bool
    frames: ChatFrames | TextFrames
    parser: ToolCallParser | None = None


async def chat_job(exchange: Exchange, request: ChatRequest, models: ServedModels) -> Job:
    """Reads a chat completion; raises `ApiError` naming the field at fault."""
    model = _model(exchange, request, models)
    use = tool_use(request, model.encoder)
    prompt = await model.encoder.chat(template_messages(request.messages), use.tools)
    params = sampling(request, model.facts, prompt_tokens=len(prompt), guide=use.guide)
    stream, usage = _streaming(request)
    frames = ChatFrames(
        f"chatcmpl-{os.urandom(12).hex()}",
        int(time.time()),
        model.id,
        model.fingerprint,
        include_usage=usage,
    )
    parser = ToolCallParser() if use.parse else None
    return Job(model, prompt, params, stream, usage, frames, parser)


async def completion_job(exchange: Exchange, request: CompletionRequest, models: ServedModels) -> Job:
    """Reads a text completion; its prompt is the model's raw input, in which special tokens are special."""
    model = _model(exchange, request, models)
    prompt = await token_prompt(request.prompt, model.encoder, model.facts.vocab_size)
    params = sampling(request, model.facts, prompt_tokens=len(prompt))
    stream, usage = _streaming(request)
    frames = TextFrames(
        f"cmpl-{os.urandom(12).hex()}", int(time.time()), model.id, model.fingerprint, include_usage=usage
    )
    return Job(model, prompt, params, stream, usage, frames)


def _model(exchange: Exchange, request: GenerationFields, models: ServedModels) -> ServedModel:
    model = models.find(request.model)
    exchange.model = model.id
    exchange.headers.append((b"x-engine-digest", model.facts.engine_digest.encode()))
    return model


def _streaming(request: GenerationFields) -> tuple[bool, bool]:
    options = request.stream_options
    return bool(request.stream), options is not None and options.include_usage
