"""The ASGI application: routes, the one place where errors become answers, and the log line of a request."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import orjson

from throughline.contracts.errors import MissingDependencyError
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import openapi
from throughline.gateway.access import Access
from throughline.gateway.admission import Admission
from throughline.gateway.board import Board
from throughline.gateway.call import Call, Handler, Stage
from throughline.gateway.chain import Chains
from throughline.gateway.embedding_jobs import EmbeddingJob, embedding_job
from throughline.gateway.errors import ApiError, bad_request, server_error, unavailable
from throughline.gateway.http import Exchange, Receive, Scope, Send
from throughline.gateway.jobs import Job, chat_job, completion_job
from throughline.gateway.metrics import CONTENT_TYPE, GatewayMetrics, row_length
from throughline.gateway.schemas import BodyDecoder
from throughline.gateway.served import ServedModels
from throughline.gateway.store import StoreError
from throughline.gateway.tokenizing import detokenize, tokenize

if TYPE_CHECKING:
    from throughline.gateway.exporting import Exporting

logger = logging.getLogger("throughline.gateway")
_MODEL_PREFIX = "/v1/models/"


class GatewayApp:
    """See `create_app`.

    Attributes:
        metrics: What `/metrics` shows.
        models: The served models.
        admission: Requests and tokens in the engines.
        access: The key store; None where nobody is asked for a key.
        exporting: Sends spans to a collector; None without one.
        startup_error: Why the key store could not be opened, empty if it could.
    """

    def __init__(self, spec: GatewaySpec, board: Board | None) -> None:
        board = board or Board.alone(row_length(len(spec.models)))
        self.metrics = GatewayMetrics([route.id for route in spec.models], board)
        self.metrics.start_over()
        self.models = ServedModels(spec, self.metrics)
        self.admission = Admission(spec.limits, board)
        self._decoder = BodyDecoder(strict=spec.unknown_fields == "refuse")
        self._document = openapi.document(strict=spec.unknown_fields == "refuse", keys=spec.keys.store is not None)
        self.access = None if spec.keys.store is None else Access(spec.keys, spec.keys.store)
        self.startup_error = ""
        self.exporting = _exporting(spec)
        traced = None if self.exporting is None else _traced(self.exporting)
        self._routes = self._make_routes(Chains(spec, self.access, self.admission, traced))

    def _make_routes(self, chains: Chains) -> dict[str, dict[str, Handler]]:
        models, model = chains.asked(self._list_models), chains.asked(self._one_model)
        return {
            "/v1/chat/completions": {"POST": chains.engine(self._chat)},
            "/v1/completions": {"POST": chains.engine(self._completion)},
            "/v1/embeddings": {"POST": chains.engine(self._embedding)},
            "/v1/models": {"GET": models, "HEAD": models},
            f"{_MODEL_PREFIX}{{id}}": {"GET": model, "HEAD": model},
            "/tokenize": {"POST": chains.posted(self._tokenize)},
            "/detokenize": {"POST": chains.posted(self._detokenize)},
            # Open to everyone: what describes the gateway, and what a load balancer and Prometheus ask.
            "/openapi.json": {"GET": self._openapi, "HEAD": self._openapi},
            "/health": {"GET": self._health, "HEAD": self._health},
            "/health/ready": {"GET": self._ready, "HEAD": self._ready},
            "/metrics": {"GET": self._metrics, "HEAD": self._metrics},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry point."""
        if scope["type"] == "http":
            await self._http(Exchange(scope, receive, send))
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            if self.access is not None:
                await self.access.open()
        except StoreError as error:
            self.startup_error = str(error)
            await send({"type": "lifespan.startup.failed", "message": ""})
            return
        await self.models.open()
        if self.exporting is not None:
            self.exporting.open()
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        except asyncio.CancelledError:
            # A second Ctrl-C ends at once, which is no fault to print.
            return
        await self.models.close()
        if self.access is not None:
            await self.access.close()
        if self.exporting is not None:
            await self.exporting.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, exchange: Exchange) -> None:
        try:
            await self._dispatch(exchange)
        except ApiError as error:
            await self._fail(exchange, error)
        except ConnectionError:
            # The client left before it had sent its request: nobody is there to answer.
            exchange.outcome = "abort"
        except StoreError as error:
            logger.error("%s", error)
            await self._fail(exchange, unavailable("The key store is not available at the moment."))
        except RecursionError:
            await self._fail(exchange, bad_request("The request is nested too deeply.", code="invalid_json"))
        except Exception:
            logger.exception("request %s failed", exchange.request_id)
            await self._fail(exchange, server_error("The gateway failed; its log has the details."))
        self.metrics.count_response(exchange.route, exchange.status)
        self._log(exchange)

    async def _dispatch(self, exchange: Exchange) -> None:
        path = exchange.path
        methods = self._routes.get(path)
        if methods is None and path.startswith(_MODEL_PREFIX):
            path = f"{_MODEL_PREFIX}{{id}}"
            methods = self._routes[path]
        if methods is None:
            message = f"No such path: {exchange.path[:200]}. Known: {', '.join(self._routes)}."
            raise ApiError(404, message, code="unknown_url")
        exchange.route = path
        handler = methods.get(exchange.method)
        if handler is None:
            allowed = ", ".join(methods)
            message = f"{path} does not take {exchange.method}; use {allowed}."
            raise ApiError(405, message, code="method_not_allowed", allow=allowed)
        await handler(exchange)

    async def _fail(self, exchange: Exchange, error: ApiError) -> None:
        if exchange.status:
            # The head is out: all that is left is to cut the answer short, which the server does on return.
            return
        # A body that was late once is not waited for again.
        unread = error.status == 408 or await exchange.discard_body()
        await exchange.fail(error, close=unread)

    async def _chat(self, call: Call) -> Job:
        request = self._decoder.chat(call.body)
        call.parsed()
        return await chat_job(call.exchange, request, self.models)

    async def _completion(self, call: Call) -> Job:
        request = self._decoder.completion(call.body)
        call.parsed()
        return await completion_job(call.exchange, request, self.models)

    async def _embedding(self, call: Call) -> EmbeddingJob:
        request = self._decoder.embedding(call.body)
        call.parsed()
        return await embedding_job(call.exchange, request, self.models)

    async def _tokenize(self, call: Call) -> None:
        request = self._decoder.tokenize(call.body)
        call.parsed()
        await call.exchange.answer(200, await tokenize(request, self.models))

    async def _detokenize(self, call: Call) -> None:
        request = self._decoder.detokenize(call.body)
        call.parsed()
        await call.exchange.answer(200, await detokenize(request, self.models))

    async def _openapi(self, exchange: Exchange) -> None:
        await exchange.answer(200, self._document)

    async def _list_models(self, exchange: Exchange) -> None:
        cards = [model.card() for model in self.models.by_id.values()]
        await exchange.answer(200, orjson.dumps({"object": "list", "data": cards}))

    async def _one_model(self, exchange: Exchange) -> None:
        model = self.models.find(exchange.path.removeprefix(_MODEL_PREFIX))
        await exchange.answer(200, orjson.dumps(model.card()))

    async def _health(self, exchange: Exchange) -> None:
        await exchange.answer(200, b'{"status":"ok"}')

    async def _ready(self, exchange: Exchange) -> None:
        error = await self.models.not_ready()
        if error is not None:
            raise error
        await exchange.answer(200, b'{"status":"ready"}')

    async def _metrics(self, exchange: Exchange) -> None:
        await exchange.answer(200, self.metrics.expose(), content_type=CONTENT_TYPE)

    def _log(self, exchange: Exchange) -> None:
        level = logging.WARNING if exchange.status >= 500 else logging.INFO
        if not logger.isEnabledFor(level) or (exchange.status < 400 and not exchange.outcome):
            return
        fields = {
            "request_id": exchange.request_id,
            "route": exchange.route,
            "status": exchange.status,
            "seconds": round(time.perf_counter() - exchange.started, 6),
        }
        if exchange.trace.trace_id:
            fields["trace_id"] = exchange.trace.trace_id
        if exchange.key:
            fields |= {"key": exchange.key, "tenant": exchange.tenant}
        if exchange.outcome:
            fields |= {
                "model": exchange.model,
                "outcome": exchange.outcome,
                "prompt_tokens": exchange.prompt_tokens,
                "completion_tokens": exchange.completion_tokens,
            }
        logger.log(level, "request", extra={"fields": fields})


def _exporting(spec: GatewaySpec) -> Exporting | None:
    if spec.tracing.endpoint is None:
        return None
    try:
        from throughline.gateway.exporting import Exporting
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"traces need the package that has '{error.name}'",
            where="tracing.endpoint",
            fix="pip install 'throughline[gateway]', or set it to null",
        ) from None
    return Exporting(spec.tracing)


def _traced(exporting: Exporting) -> Stage:
    from throughline.gateway.spans import Traced

    return Traced(exporting)


def create_app(spec: GatewaySpec, board: Board | None = None) -> GatewayApp:
    """The gateway as an ASGI application; connections open with its lifespan.

    Args:
        spec: See `GatewaySpec`.
        board: Where the workers count; None for a gateway of one process.

    Routes: `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/models`, `/v1/models/{id}`, `/tokenize`,
    `/detokenize`, `/openapi.json`, `/health` (this process lives), `/health/ready` (every model has answered lately or
    just now), `/metrics`.

    Raises:
        MissingDependencyError: If the key store or tracing needs a package that is not there.
        EngineError: If an engine folder is none.
        ConfigError: If its `engine.json` does not validate.
        GatewayError: If it lacks a tokenizer or has a broken chat template.
    """
    return GatewayApp(spec, board)
