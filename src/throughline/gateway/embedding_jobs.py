"""From the body of an embedding request to a job: which model, the tokens of each text, and the vectors' form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from throughline.gateway.errors import bad_request, input_too_long, unsupported
from throughline.gateway.http import Exchange
from throughline.gateway.jobs import note_model
from throughline.gateway.params import check_token_ids, prompts_of
from throughline.gateway.schemas import EmbeddingRequest
from throughline.gateway.served import EmbeddingModel, ServedModels

_FIELD = "input"


@dataclass(slots=True)
class EmbeddingJob:
    """One embedding request, checked and ready to run.

    Attributes:
        model: Who answers.
        prompts: Token ids of each text.
        dimensions: Numbers of a vector in the answer.
        base64: Whether a vector is the base64 of its float32 numbers, little-endian, and not a list.
    """

    model: EmbeddingModel
    prompts: Sequence[list[int]]
    dimensions: int
    base64: bool

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all texts."""
        return sum(map(len, self.prompts))

    @property
    def most_tokens(self) -> int:
        """What `usage` comes to."""
        return self.prompt_tokens


async def embedding_job(exchange: Exchange, request: EmbeddingRequest, models: ServedModels) -> EmbeddingJob:
    """Reads an embedding request; raises `ApiError` naming the field at fault."""
    model = models.embedding(request.model)
    note_model(exchange, model)
    dimensions = _dimensions(request.dimensions, model)
    given = prompts_of(request.input, _FIELD)
    if len(given) > models.max_inputs:
        message = f"'input' has {len(given)} texts, and a request may have {models.max_inputs}. Send several requests."
        raise bad_request(message, param=_FIELD, code="too_many_inputs")
    places = [_FIELD] if given[0] is request.input else [f"{_FIELD}[{index}]" for index in range(len(given))]
    for place, item in zip(places, given, strict=True):
        _check(item, model, place)
    prompts = await _tokens(given, model)
    limit = model.facts.max_seq_len
    for place, prompt in zip(places, prompts, strict=True):
        if len(prompt) > limit:
            raise input_too_long(limit=limit, tokens=len(prompt), param=place)
    return EmbeddingJob(model, prompts, dimensions, request.encoding_format == "base64")


def _dimensions(asked: int | None, model: EmbeddingModel) -> int:
    embedding = model.embedding
    if asked is None:
        return embedding.dimensions
    if embedding.allows(asked):
        return asked
    if not embedding.is_matryoshka:
        why = f"{model.id} has vectors of {embedding.dimensions} dimensions, of which no part is a vector"
        raise unsupported("dimensions", f"{why}, seen: {asked}; leave it out")
    known = embedding.matryoshka_dimensions
    sizes = f"1 to {embedding.dimensions}" if known is None else ", ".join(map(str, (*known, embedding.dimensions)))
    message = f"Invalid 'dimensions': {model.id} has vectors of {sizes} dimensions, seen: {asked}."
    raise bad_request(message, param="dimensions", code="invalid_value")


def _check(item: str | list[Any], model: EmbeddingModel, place: str) -> None:
    """Refuses what is no text and what is too long whatever its tokens are."""
    if not item:
        raise bad_request(f"'{place}' is empty.", param=place, code="invalid_value")
    if not isinstance(item, str):
        check_token_ids(item, model.facts.vocab_size, place)
        return
    limit, least = model.facts.max_seq_len, model.encoder.least_tokens(len(item))
    if least > limit:
        raise input_too_long(limit=limit, tokens=least, param=place, at_least=True)


async def _tokens(given: Sequence[str | list[Any]], model: EmbeddingModel) -> list[list[int]]:
    texts = [item for item in given if isinstance(item, str)]
    return await model.encoder.encode_all(texts) if texts else [item for item in given if isinstance(item, list)]
