"""Runs an embedding job on its engine, several texts at a time, and sends the vectors."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from throughline.contracts.gateway import GatewayTimeouts
from throughline.gateway.admission import Admission
from throughline.gateway.answers import together
from throughline.gateway.embedding_jobs import EmbeddingJob
from throughline.gateway.errors import ApiError, timed_out
from throughline.gateway.http import Exchange
from throughline.gateway.trace import Metadata
from throughline.gateway.upstream import METHOD, ClientGoneError, Vector

# Texts of one request in the engine at a time: as many as fill its batches, few enough to leave room for others.
_AT_ONCE = 32


@dataclass(slots=True)
class _End:
    """How the job's calls to Triton went; see `CallEnd`."""

    finish_reason: str = ""
    error_type: str = "internal_error"
    read_at: float = 0.0
    times: dict[str, int] = field(default_factory=dict)


async def answer_embeddings(
    exchange: Exchange, job: EmbeddingJob, admission: Admission, timeouts: GatewayTimeouts, *, prepare_seconds: float
) -> None:
    """Admits, runs and answers a job; if one text fails, its error is the answer.

    Args:
        exchange: The client.
        job: What to embed.
        admission: Where it counts.
        timeouts: Limits in time.
        prepare_seconds: How long it took to make the job, for the metrics.

    Raises:
        ApiError: 429 when full, 503 while the engine is away, 504 past `total_seconds`.
    """
    model, size, count = job.model, job.prompt_tokens, min(_AT_ONCE, len(job.prompts))
    model.guard.admit()
    admission.enter(size, count)
    model.metrics.prepare.observe(prepare_seconds)
    model.metrics.running += count
    entered = time.perf_counter()
    trace, end = exchange.trace.call(model.upstream.url, METHOD), _End()
    try:
        async with asyncio.timeout(timeouts.total_seconds):
            run = _Run(exchange, job, timeouts.first_token_seconds, trace.metadata)
            vectors = await _unless_gone(exchange, run.all(count))
        end.finish_reason, end.error_type, end.read_at = "stop", "", time.perf_counter()
        await exchange.answer(200, _body(job, vectors))
    except (ClientGoneError, asyncio.CancelledError) as error:
        end.finish_reason, end.error_type = "", "abort"
        if isinstance(error, asyncio.CancelledError):
            raise
    except TimeoutError:
        late = timed_out(f"The request took longer than {timeouts.total_seconds:g} seconds.")
        end.error_type = late.code or ""
        raise late from None
    except ApiError as error:
        end.error_type = error.code or str(error.status)
        raise
    finally:
        ended = time.perf_counter()
        model.metrics.running -= count
        _count(exchange, job, end, ended - exchange.started)
        admission.leave(size, ended - entered, count)
        trace.end(end)
        exchange.end(end.finish_reason or ("abort" if end.error_type == "abort" else "error"))


class _Run:
    """The texts of a job, each a request to the engine of so many `seconds` at most, sent again while it is away."""

    def __init__(self, exchange: Exchange, job: EmbeddingJob, seconds: float, metadata: Metadata) -> None:
        self._exchange, self._job, self._seconds, self._metadata = exchange, job, seconds, metadata
        self._vectors: list[Vector | None] = [None] * len(job.prompts)
        self._next = iter(range(len(job.prompts)))

    async def all(self, at_once: int) -> list[Vector]:
        """The vectors in the order of the texts."""
        await together([self._take() for _ in range(at_once)])
        return [vector for vector in self._vectors if vector is not None]

    async def _take(self) -> None:
        for index in self._next:
            self._vectors[index] = await self._one(index)

    async def _one(self, index: int) -> Vector:
        model = self._job.model
        return await model.until_answered(
            lambda: model.upstream.embed(
                model.triton_model,
                self._job.prompts[index],
                request_id=f"{self._exchange.request_id}-{index}" if index else self._exchange.request_id,
                seconds=self._seconds,
                metadata=self._metadata,
            )
        )


async def _unless_gone(exchange: Exchange, work: Any) -> list[Vector]:
    """The result of `work`, which is cancelled when the client leaves.

    Raises:
        ClientGoneError: If it has left.
    """
    running, gone = asyncio.ensure_future(work), asyncio.ensure_future(exchange.disconnected())
    try:
        await asyncio.wait((running, gone), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise ClientGoneError
        found: list[Vector] = running.result()
        return found
    finally:
        running.cancel()
        gone.cancel()


def _body(job: EmbeddingJob, vectors: list[Vector]) -> bytes:
    rows = _shortened(np.stack(vectors), job)
    data = [
        {"object": "embedding", "index": index, "embedding": base64.b64encode(row).decode() if job.base64 else row}
        for index, row in enumerate(rows)
    ]
    usage = {"prompt_tokens": job.prompt_tokens, "total_tokens": job.prompt_tokens}
    answer = {"object": "list", "data": data, "model": job.model.id, "usage": usage}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _shortened(vectors: npt.NDArray[np.float32], job: EmbeddingJob) -> npt.NDArray[np.float32]:
    """The first `dimensions` numbers of each, of length 1 again if the whole ones are."""
    if job.dimensions == vectors.shape[1]:
        return vectors
    cut = np.ascontiguousarray(vectors[:, : job.dimensions])
    if not job.model.embedding.normalize:
        return cut
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    scaled: npt.NDArray[np.float32] = cut / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scaled


def _count(exchange: Exchange, job: EmbeddingJob, end: _End, seconds: float) -> None:
    metrics = job.model.metrics
    metrics.e2e_latency.observe(seconds)
    for prompt in job.prompts:
        metrics.request_prompt_tokens.observe(len(prompt))
    exchange.prompt_tokens = job.prompt_tokens
    if end.finish_reason:
        metrics.prompt_tokens += job.prompt_tokens
        metrics.finish("stop")
    else:
        metrics.finish("abort" if end.error_type == "abort" else "error")
    metrics.gen_ai[exchange.route].ended(
        seconds, input_tokens=job.prompt_tokens, output_tokens=0, error_type=end.error_type
    )
