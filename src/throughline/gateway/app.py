"""The ASGI application: routes, the one place where errors become answers, and the log line of a request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import orjson

from throughline.contracts.gateway import GatewaySpec
from throughline.gateway.admission import Admission
from throughline.gateway.answers import answer
from throughline.gateway.errors import ApiError, bad_request, server_error
from throughline.gateway.http import Exchange, Receive, Scope, Send
from throughline.gateway.jobs import Job, chat_job, completion_job
from throughline.gateway.metrics import CONTENT_TYPE, GatewayMetrics
from throughline.gateway.schemas import BodyDecoder
from throughline.gateway.served import ServedModels

logger = logging.getLogger("throughline.gateway")
_Handler = Callable[[Exchange], Awaitable[None]]
_MODEL_PREFIX = "/v1/models/"


class GatewayApp:
    """See `create_app`.

    Attributes:
        metrics: What `/metrics` shows.
        models: The served models.
        admission: Requests and tokens in the engines.
    """

    def __init__(self, spec: GatewaySpec) -> None:
        self._spec = spec
        self.metrics = GatewayMetrics(route.id for route in spec.models)
        self.models = ServedModels(spec, self.metrics)
        self.admission = Admission(spec.limits)
        self._decoder = BodyDecoder(strict=spec.unknown_fields == "refuse")
        self._routes: dict[str, dict[str, _Handler]] = {
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._completion},
            "/v1/models": {"GET": self._list_models, "HEAD": self._list_models},
            f"{_MODEL_PREFIX}{{id}}": {"GET": self._one_model, "HEAD": self._one_model},
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
        await self.models.open()
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        except asyncio.CancelledError:
            # A second Ctrl-C ends at once, which is no fault to print.
            return
        await self.models.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, exchange: Exchange) -> None:
        try:
            await self._dispatch(exchange)
        except ApiError as error:
            await self._fail(exchange, error)
        except ConnectionError:
            # The client left before it had sent its request: nobody is there to answer.
            exchange.outcome = "abort"
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

    async def _chat(self, exchange: Exchange) -> None:
        body = await self._body(exchange)
        begun = time.perf_counter()
        job = await chat_job(exchange, self._decoder.chat(body), self.models)
        await self._answer(exchange, job, begun)

    async def _completion(self, exchange: Exchange) -> None:
        body = await self._body(exchange)
        begun = time.perf_counter()
        job = await completion_job(exchange, self._decoder.completion(body), self.models)
        await self._answer(exchange, job, begun)

    async def _body(self, exchange: Exchange) -> bytes:
        spec = self._spec
        return await exchange.body(limit=spec.limits.max_body_bytes, seconds=spec.timeouts.body_seconds)

    async def _answer(self, exchange: Exchange, job: Job, begun: float) -> None:
        await answer(
            exchange,
            job,
            self.admission,
            total_seconds=self._spec.timeouts.total_seconds,
            prepare_seconds=time.perf_counter() - begun,
        )

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
        if exchange.outcome:
            fields |= {
                "model": exchange.model,
                "outcome": exchange.outcome,
                "prompt_tokens": exchange.prompt_tokens,
                "completion_tokens": exchange.completion_tokens,
            }
        logger.log(level, "request", extra={"fields": fields})


def create_app(spec: GatewaySpec) -> GatewayApp:
    """The gateway as an ASGI application; connections open with its lifespan.

    Routes: `/v1/chat/completions`, `/v1/completions`, `/v1/models`, `/v1/models/{id}`, `/health` (this
    process lives), `/health/ready` (a token of every model came out lately or just now), `/metrics`.

    Raises:
        EngineError: If an engine folder is none.
        ConfigError: If its `engine.json` does not validate.
        GatewayError: If it lacks a tokenizer or has a broken chat template.
    """
    return GatewayApp(spec)
