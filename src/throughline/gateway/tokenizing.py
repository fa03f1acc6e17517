"""`/tokenize` and `/detokenize` in vLLM's shapes: how a prompt is counted, and what its tokens say."""

from __future__ import annotations

import asyncio

import orjson

from throughline.gateway.errors import bad_request, unsupported
from throughline.gateway.params import template_messages, tool_use
from throughline.gateway.schemas import ChatRequest, DetokenizeRequest, TokenizeRequest
from throughline.gateway.served import ServedModel, ServedModels


async def tokenize(request: TokenizeRequest, models: ServedModels) -> bytes:
    """The answer's body: `count`, `max_model_len`, `tokens` and, on request, `token_strs`.

    Messages give the very tokens that `/v1/chat/completions` sends to the engine. A text may be longer than the
    model's context, since counting it is what a client does before it cuts it.

    Raises:
        ApiError: 400 naming the field, 404 for an unknown model.
    """
    model = _model(request.model, models)
    if (request.prompt is None) == (request.messages is None):
        raise bad_request("Give either 'prompt' or 'messages'.", param="prompt", code="invalid_value")
    if request.prompt is not None:
        special = request.add_special_tokens is not False
        ids = await model.encoder.encode(request.prompt, add_special_tokens=special, any_size=True)
    else:
        ids = await _chat(request, model)
    strings = await asyncio.to_thread(model.encoder.token_strings, ids) if request.return_token_strs else None
    body = {"count": len(ids), "max_model_len": model.facts.max_seq_len, "tokens": ids, "token_strs": strings}
    return orjson.dumps(body)


async def detokenize(request: DetokenizeRequest, models: ServedModels) -> bytes:
    """The answer's body: `prompt`, the text of the tokens with special tokens in it.

    Raises:
        ApiError: 400 for an id that the model does not have, 404 for an unknown model.
    """
    model = _model(request.model, models)
    top = model.facts.vocab_size or 2**31
    for index, token in enumerate(request.tokens):
        if token >= top:
            where = f"tokens[{index}]"
            message = f"Invalid '{where}': this model's token ids are below {top}, seen: {token}."
            raise bad_request(message, param=where, code="invalid_value")
    return orjson.dumps({"prompt": await model.encoder.decode(request.tokens)})


async def _chat(request: TokenizeRequest, model: ServedModel) -> list[int]:
    if request.add_special_tokens:
        raise unsupported("add_special_tokens", "the chat template writes the special tokens of 'messages'")
    if request.continue_final_message:
        raise unsupported("continue_final_message", "chats are answered, never continued")
    if request.chat_template is not None or request.chat_template_kwargs:
        raise unsupported("chat_template", "the model's own template is the one that requests are rendered with")
    messages = request.messages or []
    use = tool_use(ChatRequest(model=model.id, messages=messages, tools=request.tools), model.encoder)
    ids, _ = await model.encoder.chat(
        template_messages(messages), use.tools, add_generation_prompt=request.add_generation_prompt, any_size=True
    )
    return ids


def _model(name: str | None, models: ServedModels) -> ServedModel:
    if name is not None:
        return models.find(name)
    if len(models.by_id) > 1:
        raise bad_request(
            f"Missing 'model': one of {', '.join(models.by_id)}.", param="model", code="missing_required_parameter"
        )
    return next(iter(models.by_id.values()))
