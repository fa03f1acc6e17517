"""Small gRPC helpers for one Triton server: generate, stream, embed, load, unload."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from throughline.contracts.errors import DeployError
from throughline.triton import llmapi
from throughline.triton.embedding_config import INPUT_IDS
from throughline.triton.model_config import INPUTS

_KINDS = {name: kind.removeprefix("TYPE_") for name, kind, _ in (*INPUTS, *llmapi.INPUTS)}
_DTYPES = {"INT32": "int32", "UINT64": "uint64", "FP32": "float32", "BOOL": "bool"}


@dataclass(frozen=True)
class Response:
    """One response of the engine model; what its layout does not have is empty or 0.

    Attributes:
        text: New text when streaming, else the whole text.
        token_ids: New output ids.
        finish_reason: `stop` or `length` in the last response, else empty.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated so far.
        log_probs: Natural log-probability of each of `token_ids`, if they were asked for.
        cum_log_prob: Their sum so far, or None.
        arrival_seconds: When the request was there, by the server's monotonic clock; None unless asked for.
        last_token_seconds: When the newest of `token_ids` was there.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    log_probs: tuple[float, ...] = ()
    cum_log_prob: float | None = None
    arrival_seconds: float | None = None
    last_token_seconds: float | None = None


class InferenceError(DeployError):
    """Triton answered a request with an error; `seen` is its text."""


class TritonClient:
    """Blocking client of one server; a context manager.

    Args:
        url: `host:port` of the gRPC endpoint.
        timeout_seconds: Limit of calls that name none.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 60.0) -> None:
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        self.url = url
        self._timeout = timeout_seconds
        self._pb = service_pb2
        options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.insecure_channel(url, options=options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._rpc_error = grpc.RpcError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; open streams are cancelled."""
        self._channel.close()

    def stream(
        self, model: str, inputs: Mapping[str, Any], *, timeout_seconds: float | None = None
    ) -> Generator[Response, None, None]:
        """Generates and yields responses as they come; closing the generator cancels the request.

        Args:
            model: Served model name.
            inputs: Values by input name: scalars, strings, or lists for `input_ids` and `stop_words`.
            timeout_seconds: Limit of the whole request.

        Raises:
            InferenceError: If the server refuses the request or ends it with an error.
        """
        request = self._pb.ModelInferRequest(model_name=model)
        for name, value in inputs.items():
            _add_input(request, name, value)
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        call = self._stub.ModelStreamInfer(iter([request]), timeout=timeout_seconds or self._timeout)
        try:
            failure = ""
            # To the server's own end: a cancel that meets Triton 2.51 completing the request leaks it
            # there, and the model cannot be unloaded any more.
            for message in call:
                failure = failure or message.error_message
                if message.infer_response.outputs:
                    yield _response(message.infer_response)
            if failure:
                raise InferenceError("request failed", where=model, seen=failure)
        except self._rpc_error as error:
            raise _call_error(error, model, self.url) from None
        finally:
            call.cancel()

    def generate(self, model: str, inputs: Mapping[str, Any], *, timeout_seconds: float | None = None) -> Response:
        """Generates and returns the one response of a request that does not stream.

        Raises:
            InferenceError: If the request fails or not exactly one response comes.
        """
        found = list(self.stream(model, {**inputs, "stream": False}, timeout_seconds=timeout_seconds))
        if len(found) != 1:
            raise InferenceError("not exactly one response came", where=model, seen=f"{len(found)} responses")
        return found[0]

    def embed(self, model: str, prompt: Sequence[int], *, timeout_seconds: float | None = None) -> tuple[float, ...]:
        """Returns the vector of a sequence of token ids from an embedding model.

        Raises:
            InferenceError: If the request fails.
        """
        import numpy as np

        request = self._pb.ModelInferRequest(model_name=model)
        request.inputs.add(name=INPUT_IDS, datatype="INT64", shape=[1, len(prompt)])
        request.raw_input_contents.append(np.asarray(prompt, np.int64).tobytes())
        response = self._call(self._stub.ModelInfer, request, model, timeout_seconds)
        return tuple(np.frombuffer(response.raw_output_contents[0], "<f4").tolist())

    def load(self, model: str, *, timeout_seconds: float | None = None) -> None:
        """Loads a model, or switches it to what its `config.pbtxt` says now.

        Raises:
            InferenceError: With the reason from the model's own exception.
        """
        request = self._pb.RepositoryModelLoadRequest(model_name=model)
        self._call(self._stub.RepositoryModelLoad, request, model, timeout_seconds)

    def unload(self, model: str, *, timeout_seconds: float | None = None) -> None:
        """Unloads a model; running requests finish."""
        request = self._pb.RepositoryModelUnloadRequest(model_name=model)
        self._call(self._stub.RepositoryModelUnload, request, model, timeout_seconds)

    def loaded_config(self, model: str) -> Any:
        """Returns the `ModelConfig` message that the server has loaded, whatever the folder says by now.

        Raises:
            InferenceError: If the server does not serve the model.
        """
        return self._call(self._stub.ModelConfig, self._pb.ModelConfigRequest(name=model), model, None).config

    def is_live(self, *, timeout_seconds: float = 2.0) -> bool:
        """Returns whether the server answers."""
        try:
            return bool(self._stub.ServerLive(self._pb.ServerLiveRequest(), timeout=timeout_seconds).live)
        except self._rpc_error:
            return False

    def is_model_ready(self, model: str, *, timeout_seconds: float = 2.0) -> bool:
        """Returns whether the model is loaded; says nothing about whether its process lives."""
        try:
            return bool(self._stub.ModelReady(self._pb.ModelReadyRequest(name=model), timeout=timeout_seconds).ready)
        except self._rpc_error:
            return False

    def _call(self, method: Any, request: Any, model: str, timeout_seconds: float | None) -> Any:
        try:
            return method(request, timeout=timeout_seconds or self._timeout)
        except self._rpc_error as error:
            raise _call_error(error, model, self.url) from None


def _add_input(request: Any, name: str, value: Any) -> None:
    import numpy as np

    kind = _KINDS.get(name)
    if kind is None:
        raise InferenceError("unknown input", where=name, fix=f"use one of {', '.join(sorted(_KINDS))}")
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else [value]
    tensor = request.inputs.add(name=name, datatype="BYTES" if kind == "STRING" else kind, shape=[len(values)])
    del tensor
    if kind == "STRING":
        parts = [item.encode() if isinstance(item, str) else bytes(item) for item in values]
        request.raw_input_contents.append(b"".join(len(p).to_bytes(4, "little") + p for p in parts))
    else:
        request.raw_input_contents.append(np.asarray(values, dtype=_DTYPES[kind]).tobytes())


def _response(message: Any) -> Response:
    import numpy as np

    contents: list[bytes] = list(message.raw_output_contents)
    raw = {output.name: data for output, data in zip(message.outputs, contents, strict=True)}

    def text(name: str) -> str:
        return raw.get(name, b"")[4:].decode("utf-8")

    def number(name: str) -> int:
        return int.from_bytes(raw.get(name, b"")[:4], "little", signed=True)

    def seconds(name: str) -> float | None:
        return int.from_bytes(raw[name], "little", signed=True) / 1e9 if name in raw else None

    # The llmapi model's name, and the text contract's.
    sums = np.frombuffer(raw.get("cumulative_logprob", raw.get("cum_log_probs", b"")), dtype="<f4")
    return Response(
        text=text("text_output"),
        token_ids=tuple(int(item) for item in np.frombuffer(raw.get("output_ids", b""), dtype="<i4")),
        finish_reason=text("finish_reason"),
        prompt_tokens=number("prompt_tokens"),
        completion_tokens=number("completion_tokens"),
        log_probs=tuple(float(item) for item in np.frombuffer(raw.get("output_log_probs", b""), dtype="<f4")),
        cum_log_prob=float(sums[0]) if sums.size else None,
        arrival_seconds=seconds("arrival_time_ns"),
        last_token_seconds=seconds("last_token_time_ns"),
    )


def _call_error(error: Any, model: str, url: str) -> InferenceError:
    return InferenceError(
        f"call to Triton failed ({error.code().name})",
        where=f"{model} at {url}",
        seen=error.details(),
        fix="look at the server's log",
    )
