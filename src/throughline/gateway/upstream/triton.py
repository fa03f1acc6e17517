"""Engine models of one Triton server over `grpc.aio`: one call a request, or one for all, within limits in time."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any

from throughline.contracts.engine import SamplingParams
from throughline.contracts.gateway import GatewayTimeouts, UpstreamSettings
from throughline.gateway.errors import ApiError, timed_out
from throughline.gateway.trace import NO_TRACE, Metadata, RequestTrace
from throughline.gateway.upstream.contract import Ask, Contract, ModelShape
from throughline.gateway.upstream.embedding import Vector, embedding_request, read_vector
from throughline.gateway.upstream.faults import rpc_error
from throughline.gateway.upstream.shared import SharedStream
from throughline.gateway.upstream.stream import TokenStream

_WATCH_SECONDS = 0.1
# A token this long ago says that the engine works.
_FRESH_SECONDS = 5.0
_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    # A restarted server is found again within half a second instead of gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Where a name stands for several servers each request goes to the next one, not all to the first.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
)
_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
# Triton reports errors inside a stream as text unless a client asks for gRPC statuses.
_METADATA = (("triton_grpc_error", "true"),)
_PROBE = "Hello"
# Of the limit for a message; the engine's step and the way here take their time too.
_PROGRESS = 1 / 3
_UNASKED = ModelShape(batched=False, inputs=frozenset())


class TritonUpstream:
    """Engine models of one Triton server.

    Args:
        url: `host:port` of its gRPC endpoint; behind a name with several addresses requests take turns.
        timeouts: Limits in time for every request.
        settings: How it is asked.

    Attributes:
        url: See above.
        interval_seconds: `Ask.interval_seconds` with which an answer keeps within the limits for a message.
    """

    def __init__(self, url: str, timeouts: GatewayTimeouts, settings: UpstreamSettings) -> None:
        self.url = url
        self._settings = settings
        self.interval_seconds = _PROGRESS * min(timeouts.first_token_seconds, timeouts.inter_token_seconds)
        self._timeouts = timeouts
        self._streams: dict[TokenStream, float] = {}
        self._heard: dict[str, float] = {}
        self._shapes: dict[str, ModelShape] = {}
        self._probing: dict[str, asyncio.Lock] = {}
        self._channel: Any = None
        self._stub: Any = None
        self._infer: Any = None
        self._shared: SharedStream | None = None
        self._eof: object = None
        self._watcher: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Prepares the channel; it connects by itself when needed."""
        from grpc import aio
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        self._eof = aio.EOF  # type: ignore[attr-defined]  # absent from grpc-stubs
        self._channel = aio.insecure_channel(self.url, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        # One request a call: the same bytes as the stub's stream of requests, with fewer turns of the event loop.
        self._infer = self._channel.unary_stream(
            _INFER,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        if self._settings.stream == "multiplexed":
            self._shared = SharedStream(self._stub.ModelStreamInfer, self._eof)
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Closes the channel; running requests are cancelled."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._shared is not None:
            self._shared.close()
        if self._channel is not None:
            await self._channel.close()

    async def ready(self, model: str, contract: Contract) -> bool:
        """Whether a token of `model` came out lately, or comes out now.

        Triton says that a model is ready whose process is dead or hangs; its own word counts only when it says no.
        """
        return await self._answers(model, lambda: self._probe(model, contract))

    async def embeds(self, model: str) -> bool:
        """Whether a vector of `model` came lately, or comes now."""
        return await self._answers(model, lambda: self._probe_vector(model))

    async def embed(
        self, model: str, prompt: list[int], *, request_id: str, seconds: float, metadata: Metadata = ()
    ) -> Vector:
        """The vector of token ids; ends with the task that waits for it.

        Args:
            model: Name on Triton.
            prompt: Token ids.
            request_id: For Triton's logs.
            seconds: How long it may take.
            metadata: Hands a trace on.

        Raises:
            ApiError: As `TokenStream.read`.
        """
        from grpc import StatusCode, aio

        request = embedding_request(model, request_id, prompt, seconds)
        try:
            response = await self._stub.ModelInfer(request, timeout=seconds, metadata=metadata)
        except aio.AioRpcError as error:
            self._heard.pop(model, None)
            if error.code() is StatusCode.DEADLINE_EXCEEDED:
                raise timed_out(f"The engine sent no embedding within {seconds:g} seconds.") from None
            raise rpc_error(error) from None
        self._heard[model] = time.perf_counter()
        return read_vector(response)

    async def _answers(self, model: str, probe: Callable[[], Awaitable[bool]]) -> bool:
        from grpc import aio
        from tritonclient.grpc import service_pb2

        request = service_pb2.ModelReadyRequest(name=model)
        try:
            answer = await self._stub.ModelReady(request, timeout=self._timeouts.ready_seconds)
        except aio.AioRpcError:
            return False
        # Another version may have come since.
        self._shapes.pop(model, None)
        async with self._probing.setdefault(model, asyncio.Lock()):
            lately = time.perf_counter() - self._heard.get(model, float("-inf")) < _FRESH_SECONDS
            return bool(answer.ready) and (lately or await probe())

    async def _probe(self, model: str, contract: Contract) -> bool:
        params = SamplingParams(max_tokens=1, ignore_eos=not contract.reads_text)
        # Token id 0 exists in every vocabulary.
        ask = Ask("ready", [0], _PROBE, params, stream=False)
        tokens = self.start(model, contract, ask, seconds=self._timeouts.ready_seconds)
        try:
            async with asyncio.timeout(self._timeouts.ready_seconds):
                tokens.send(contract.request(model, ask, await self.shape(model, contract)))
                while not tokens.finish_reason:
                    await tokens.read()
        except (ApiError, TimeoutError):
            return False
        finally:
            await self.finish(tokens)
        return True

    async def _probe_vector(self, model: str) -> bool:
        try:
            # Token id 0 exists in every vocabulary.
            await self.embed(model, [0], request_id="ready", seconds=self._timeouts.ready_seconds)
        except ApiError:
            return False
        return True

    async def shape(self, model: str, contract: Contract) -> ModelShape:
        """What Triton says of a model, asked once for one that reads text.

        Raises:
            ApiError: As `TokenStream.read`.
        """
        if not contract.reads_text:
            return _UNASKED
        found = self._shapes.get(model)
        if found is None:
            from grpc import aio
            from tritonclient.grpc import service_pb2

            request = service_pb2.ModelMetadataRequest(name=model)
            try:
                answer = await self._stub.ModelMetadata(request, timeout=self._timeouts.ready_seconds)
            except aio.AioRpcError as error:
                raise rpc_error(error) from None
            inputs = {tensor.name: len(tensor.shape) for tensor in answer.inputs}
            found = self._shapes[model] = ModelShape(inputs.get("text_input", 1) > 1, frozenset(inputs))
        return found

    def streams(self, contract: Contract, wanted: bool) -> bool:
        """Whether a model is asked for a stream: its client wants one, or nothing else says that an answer goes on."""
        return wanted or (self._settings.stream_whole_answers and not contract.tells_progress)

    def start(
        self, model: str, contract: Contract, ask: Ask, *, seconds: float, trace: RequestTrace = NO_TRACE
    ) -> TokenStream:
        """Makes a stream for a request to `model`; the caller sends, reads, and leaves through `finish` in any case.

        Args:
            model: Name on Triton.
            contract: What it speaks.
            ask: What will be sent.
            seconds: How long it may take in all.
            trace: Of what request it is a part.
        """
        call_trace = trace.call(self.url)
        # Triton reads a request's trace from the metadata of its call, so that a traced request has one of its own.
        if self._shared is not None and contract.shares_stream and not call_trace.metadata:
            begin = functools.partial(self._shared.begin, timeout=seconds)
        else:
            begin = functools.partial(self._infer, timeout=seconds, metadata=_METADATA + call_trace.metadata)
        tokens = TokenStream(begin, self._eof, model, self._heard, contract.reader(ask), call_trace)
        speaks = ask.stream or (contract.tells_progress and ask.interval_seconds is not None)
        self._streams[tokens] = self._timeouts.first_token_seconds if speaks else seconds
        return tokens

    async def finish(self, tokens: TokenStream) -> None:
        """Ends a request in whatever state it is."""
        self._streams.pop(tokens, None)
        tokens.trace.end(tokens)
        await tokens.close()

    async def _watch(self) -> None:
        """One clock for all streams: a timer for each message would cost more than the message."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            now = time.perf_counter()
            for tokens, first in list(self._streams.items()):
                limit = self._timeouts.inter_token_seconds if tokens.started else first
                if tokens.waiting_since and now - tokens.waiting_since > limit:
                    what = "next" if tokens.started else "first"
                    tokens.abort(timed_out(f"The engine sent no {what} token within {limit:g} seconds."))
