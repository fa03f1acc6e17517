"""Token streams from Triton over `grpc.aio`: one ModelStreamInfer call a request, with its limits in time."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from throughline.contracts.engine import GuidedDecodingParams, SamplingParams
from throughline.contracts.gateway import GatewayTimeouts
from throughline.gateway.errors import ApiError, bad_request, server_error, timed_out, unavailable

_WATCH_SECONDS = 0.1
_CLOSE_SECONDS = 1.0
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
# Triton reports errors inside a stream as text unless a client asks for gRPC statuses.
_METADATA = (("triton_grpc_error", "true"),)
_NOT_READY = ("is not healthy", "no available versions", "unknown model", "is not ready", "not found")


class ClientGoneError(Exception):
    """The client closed its connection; nobody is left to answer."""


class TokenStream:
    """One running request. `read` replaces the public attributes with those of the next message.

    Attributes:
        text: New text.
        finish_reason: Empty until the last message.
        prompt_tokens: Tokens of the prompt, once known.
        completion_tokens: Tokens generated so far.
        token_ids: New tokens, where log-probabilities were asked for.
        log_probs: Natural log-probability of each of them; None if the engine sends none.
        engine_seconds: From the request's arrival at the engine to its first token there; None if it does not say.
        read_at: `time.perf_counter()` of the last message.
        started: Whether a message has come.
        waiting_since: `time.perf_counter()` since when the engine owes a message, 0 while it does not.
    """

    __slots__ = (
        "_abort",
        "_call",
        "_eof",
        "_heard",
        "_layout",
        "_model",
        "completion_tokens",
        "engine_seconds",
        "finish_reason",
        "log_probs",
        "prompt_tokens",
        "read_at",
        "started",
        "text",
        "token_ids",
        "waiting_since",
    )

    def __init__(self, call: Any, eof: object, model: str, heard: dict[str, float]) -> None:
        self._call = call
        self._eof = eof
        self._model = model
        self._heard = heard
        self._layout: _Layout | None = None
        self._abort: Exception | None = None
        self.started = False
        self.text = ""
        self.finish_reason = ""
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.token_ids: Sequence[int] = ()
        self.log_probs: Sequence[float] | None = None
        self.engine_seconds: float | None = None
        self.read_at = 0.0
        self.waiting_since = time.perf_counter()

    async def send(self, request: Any) -> None:
        """Writes the one request; raises as `read` does."""
        try:
            await self._call.write(request)
            await self._call.done_writing()
        except asyncio.InvalidStateError:
            # The call has ended already; `read` says how.
            return
        except asyncio.CancelledError:
            if self._abort is None:
                raise
            raise self._abort from None
        except Exception as error:
            raise self._abort or _rpc_error(error) from None

    async def read(self) -> None:
        """Waits for the next message.

        Raises:
            ApiError: 503 while the engine is away, 504 past a limit, 4xx or 5xx as the engine says.
            ClientGoneError: After `abort` with it.
        """
        self.waiting_since = time.perf_counter()
        while True:
            try:
                message = await self._call.read()
            except asyncio.CancelledError:
                if self._abort is None:
                    raise
                raise self._abort from None
            except Exception as error:
                self._heard.pop(self._model, None)
                raise self._abort or _rpc_error(error) from None
            if message is self._eof:
                self._heard.pop(self._model, None)
                raise self._abort or server_error(
                    "The engine ended the stream without a finish reason.",
                    code="upstream_protocol",
                    status=502,
                )
            if message.error_message:
                raise _stream_error(message.error_message)
            if self._take(message.infer_response):
                return

    def abort(self, reason: Exception) -> None:
        """Cancels the request upstream; a waiting `read` raises `reason`."""
        if self._abort is None:
            self._abort = reason
            if not isinstance(reason, ClientGoneError):
                self._heard.pop(self._model, None)
            self._call.cancel()

    async def close(self) -> None:
        """Ends the call: waits shortly for the server's own end after the last message, else cancels it."""
        if self.finish_reason and not self._call.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._call.code()
        self._call.cancel()

    def _take(self, response: Any) -> bool:
        raw = response.raw_output_contents
        layout = self._layout
        if layout is None or len(raw) != layout.outputs:
            if not raw:
                return False  # the final flag alone
            layout = self._layout = _layout([output.name for output in response.outputs])
            if layout.arrival is not None and layout.first_token is not None:
                arrival, first = _INT64.unpack(raw[layout.arrival])[0], _INT64.unpack(raw[layout.first_token])[0]
                self.engine_seconds = (first - arrival) / 1e9
        self.started = True
        self.waiting_since = 0.0
        self.read_at = self._heard[self._model] = time.perf_counter()
        self.text = str(raw[layout.text][4:], "utf-8", "replace")
        self.finish_reason = str(raw[layout.finish_reason][4:], "ascii", "replace")
        self.prompt_tokens = _INT32.unpack(raw[layout.prompt_tokens])[0]
        self.completion_tokens = _INT32.unpack(raw[layout.completion_tokens])[0]
        if layout.log_probs is not None:
            self.token_ids = memoryview(raw[layout.token_ids]).cast("i")
            self.log_probs = memoryview(raw[layout.log_probs]).cast("f")
        return True


_INT32, _INT64 = struct.Struct("<i"), struct.Struct("<q")


class _Layout(NamedTuple):
    """Where the outputs are; a model answers a request with the same outputs in the same order."""

    outputs: int
    text: int
    finish_reason: int
    prompt_tokens: int
    completion_tokens: int
    token_ids: int
    log_probs: int | None
    arrival: int | None
    first_token: int | None


_OUTPUTS = ("text_output", "finish_reason", "prompt_tokens", "completion_tokens", "output_ids")


def _layout(names: Sequence[str]) -> _Layout:
    try:
        text, reason, prompt, completion, ids = (names.index(name) for name in _OUTPUTS)
    except ValueError:
        raise server_error(
            f"The engine's answer lacks an output: has {', '.join(names) or 'none'}.",
            code="upstream_protocol",
            status=502,
        ) from None
    others = (
        names.index(name) if name in names else None
        for name in ("output_log_probs", "arrival_time_ns", "first_token_time_ns")
    )
    return _Layout(len(names), text, reason, prompt, completion, ids, *others)


class TritonUpstream:
    """Engine models of one Triton server.

    Args:
        url: `host:port` of its gRPC endpoint; behind a name with several addresses requests take turns.
        timeouts: Limits in time for every request.
    """

    def __init__(self, url: str, timeouts: GatewayTimeouts) -> None:
        self.url = url
        self._timeouts = timeouts
        self._streams: dict[TokenStream, float] = {}
        self._heard: dict[str, float] = {}
        self._probing: dict[str, asyncio.Lock] = {}
        self._channel: Any = None
        self._stub: Any = None
        self._eof: object = None
        self._watcher: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Prepares the channel; it connects by itself when needed."""
        from grpc import aio
        from tritonclient.grpc import service_pb2_grpc

        self._eof = aio.EOF  # type: ignore[attr-defined]  # absent from grpc-stubs
        self._channel = aio.insecure_channel(self.url, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Closes the channel; running requests are cancelled."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._channel is not None:
            await self._channel.close()

    async def ready(self, model: str) -> bool:
        """Whether a token of `model` came out lately, or comes out now.

        Triton says that a model is ready whose process is dead or hangs; its own word counts only when it says no.
        """
        from grpc import aio
        from tritonclient.grpc import service_pb2

        request = service_pb2.ModelReadyRequest(name=model)
        try:
            answer = await self._stub.ModelReady(request, timeout=self._timeouts.ready_seconds)
        except aio.AioRpcError:
            return False
        async with self._probing.setdefault(model, asyncio.Lock()):
            lately = time.perf_counter() - self._heard.get(model, float("-inf")) < _FRESH_SECONDS
            return bool(answer.ready) and (lately or await self._probe(model))

    async def _probe(self, model: str) -> bool:
        # Token id 0 exists in every vocabulary.
        request = infer_request(model, "ready", [0], SamplingParams(max_tokens=1, ignore_eos=True), stream=False)
        tokens = self.start(model, stream=False, seconds=self._timeouts.ready_seconds)
        try:
            async with asyncio.timeout(self._timeouts.ready_seconds):
                await tokens.send(request)
                while not tokens.finish_reason:
                    await tokens.read()
        except (ApiError, TimeoutError):
            return False
        finally:
            await self.finish(tokens)
        return True

    def start(self, model: str, *, stream: bool, seconds: float) -> TokenStream:
        """Opens a call for a request to `model`; the caller sends, reads, and leaves through `finish` in any case.

        Args:
            model: Name on Triton.
            stream: Whether the first token is awaited, and not the whole answer.
            seconds: How long it may take in all.
        """
        call = self._stub.ModelStreamInfer(timeout=seconds, metadata=_METADATA)
        tokens = TokenStream(call, self._eof, model, self._heard)
        self._streams[tokens] = self._timeouts.first_token_seconds if stream else seconds
        return tokens

    async def finish(self, tokens: TokenStream) -> None:
        """Ends a request in whatever state it is."""
        self._streams.pop(tokens, None)
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


def infer_request(
    model: str,
    request_id: str,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    stream: bool,
    priority: int = 0,
    timeout_seconds: float | None = None,
) -> Any:
    """The `ModelInferRequest` of the text contract; values that the engine assumes anyway are left out.

    Args:
        model: Name on Triton.
        request_id: Name of the request, for the engine's logs.
        prompt: Token ids.
        params: Sampling.
        stream: Whether text comes as it is made.
        priority: Lower is served earlier.
        timeout_seconds: After which nobody waits for the answer any more; Triton's request parameter `timeout`.
    """
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    raw = request.raw_input_contents
    if timeout_seconds is not None:
        # Triton takes 0 for none.
        request.parameters["timeout"].int64_param = max(1, int(timeout_seconds * 1e6))

    def add(name: str, datatype: str, data: bytes, size: int = 1) -> None:
        request.inputs.add(name=name, datatype=datatype, shape=(size,))
        raw.append(data)

    add("input_ids", "INT32", array("i", prompt).tobytes(), len(prompt))
    add("max_tokens", "INT32", struct.pack("<i", params.max_tokens))
    add("stream", "BOOL", b"\x01" if stream else b"\x00")
    add("temperature", "FP32", struct.pack("<f", params.temperature))
    if params.top_k:
        add("top_k", "INT32", struct.pack("<i", params.top_k))
    if params.top_p != 1.0:
        add("top_p", "FP32", struct.pack("<f", params.top_p))
    if params.seed is not None:
        add("seed", "UINT64", struct.pack("<Q", params.seed))
    if params.stop:
        add("stop_words", "BYTES", b"".join(map(_bytes, params.stop)), len(params.stop))
    if params.min_tokens:
        add("min_tokens", "INT32", struct.pack("<i", params.min_tokens))
    if params.ignore_eos:
        add("ignore_eos", "BOOL", b"\x01")
    if stream:
        add("return_perf_metrics", "BOOL", b"\x01")
    if params.logprobs:
        add("return_log_probs", "BOOL", b"\x01")
    if priority:
        add("priority", "INT32", struct.pack("<i", priority))
    if params.guided_decoding is not None:
        kind, guide = _guide(params.guided_decoding)
        add("guided_decoding_guide_type", "BYTES", _bytes(kind))
        add("guided_decoding_guide", "BYTES", _bytes(guide))
    for name, value, neutral in (
        ("repetition_penalty", params.repetition_penalty, 1.0),
        ("presence_penalty", params.presence_penalty, 0.0),
        ("frequency_penalty", params.frequency_penalty, 0.0),
    ):
        if value != neutral:
            add(name, "FP32", struct.pack("<f", value))
    return request


def _guide(guide: GuidedDecodingParams) -> tuple[str, str]:
    """TensorRT-LLM's name of the guide's kind, and the guide."""
    kinds = {
        "json_schema": guide.json,
        "regex": guide.regex,
        "ebnf_grammar": guide.grammar,
        "structural_tag": guide.structural_tag,
    }
    return next((kind, value) for kind, value in kinds.items() if value is not None)


def _bytes(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _rpc_error(error: Exception) -> Exception:
    from grpc import StatusCode, aio

    if not isinstance(error, aio.AioRpcError):
        return error
    code, details = error.code(), error.details() or ""
    if code is StatusCode.DEADLINE_EXCEEDED:
        return timed_out("The request took longer than its total limit.")
    if code in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED):
        return unavailable("The engine is not available at the moment.")
    if code is StatusCode.INVALID_ARGUMENT:
        return bad_request(f"The engine refuses the request: {details}")
    return _stream_error(details or code.name)


def _stream_error(text: str) -> ApiError:
    if any(mark in text for mark in _NOT_READY):
        return unavailable("The engine is not ready at the moment.")
    return server_error(f"The engine failed: {text}", code="upstream_error")
