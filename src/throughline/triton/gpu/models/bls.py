"""Triton Python model `tensorrt_llm_bls`: preprocessing, the engine and detokenising as one streaming model.

An instance serves one request until it ends. Streams hold a character back until it is whole, and the beginning of a
stop word until it is one or not. When a client goes, or a stop word is found in the text, the engine is told by a
request with the same id and `stop`. A copy of this file is `model.py`; what it imports lies in `lib` beside it.
"""

from __future__ import annotations

import json
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent / "lib"))

from throughline.triton.text import tensors
from throughline.triton.text.streams import TextStream
from throughline.triton.text.tokenizer import of_parameters

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_Arrays = dict[str, NDArray[Any]]


class Failure(Exception):
    """An error for the client; `error` is the `TritonError` with its code."""

    def __init__(self, error: Any) -> None:
        super().__init__(error.message())
        self.error = error


class TritonPythonModel:
    """Entry points that the Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the tokenizer."""
        config = json.loads(args["model_config"])
        parameters = config["parameters"]
        self._decoupled = bool(config.get("model_transaction_policy", {}).get("decoupled", False))
        self._engine = parameters["tensorrt_llm_model_name"]["string_value"]
        self._period_seconds = int(parameters["cancellation_check_period_ms"]["string_value"]) / 1000
        try:
            self._tokenizer = of_parameters(parameters)
        except ValueError as error:
            raise pb_utils.TritonModelException(str(error)) from None

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Serves requests one after the other, each to its end."""
        if not self._decoupled:
            return [self._whole(request) for request in requests]
        for request in requests:
            self._stream(request)
        return None

    def _whole(self, request: Any) -> Any:
        try:
            found = list(self._responses(request, request.is_cancelled))
        except Failure as failure:
            return pb_utils.InferenceResponse(error=failure.error)
        if len(found) != 1:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"the engine sent {len(found)} answers"))
        return found[0]

    def _stream(self, request: Any) -> None:
        sender = request.get_response_sender()
        try:
            for response in self._responses(request, sender.is_cancelled):
                sender.send(response)
        except Failure as failure:
            sender.send(pb_utils.InferenceResponse(error=failure.error), flags=_FINAL)
        else:
            sender.send(flags=_FINAL)

    def _responses(self, request: Any, is_cancelled: Callable[[], bool]) -> Iterator[Any]:
        inputs: _Arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        streams = bool(inputs["stream"].reshape(-1)[0]) if "stream" in inputs else False
        if streams and not self._decoupled:
            text = "stream needs a decoupled model: set decoupled in tensorrt_llm and tensorrt_llm_bls"
            raise Failure(pb_utils.TritonError(text, pb_utils.TritonError.INVALID_ARG))
        call = EngineCall(self._engine, request.request_id(), is_cancelled, self._period_seconds, self._decoupled)
        asked = engine_inputs(inputs, self._prepare(inputs, call.id))
        words = inputs["stop_words"].reshape(-1) if "stop_words" in inputs else ()
        # Preprocessing has refused what is no UTF-8.
        sequences = _integer(inputs, "num_return_sequences") * _integer(inputs, "beam_width")
        texts = Texts(self._tokenizer.decode, [bytes(word).decode() for word in words], sequences)
        with call:
            for found in call.run(asked):
                if texts.stopped:
                    continue
                new = texts.push(found) if streams else texts.whole(found)
                yield _response(
                    new, {tensor.name: found[tensor.name] for tensor in tensors.PASSED if tensor.name in found}
                )
                if texts.stopped:
                    call.stop()
        for sequence, rest in texts.finish():
            yield _response(rest, {"sequence_index": np.array([[sequence]], np.int32)})

    def _prepare(self, inputs: Mapping[str, NDArray[Any]], request_id: str) -> _Arrays:
        wanted = [tensor.name for tensor in tensors.PREPROCESSING_OUTPUTS]
        given = {member: inputs[name] for member, name in tensors.TO_PREPROCESSING.items() if name in inputs}
        response = _request("preprocessing", given, wanted, request_id).exec()
        return _arrays(response)


class EngineCall:
    """One request to the engine; a context manager, inside of which the client's going ends it.

    Args:
        model: The engine's model.
        client_id: The client's request id; clients may use one twice, so the engine gets another that begins with it.
        is_cancelled: Asks the server whether the client has gone.
        period_seconds: Time between two such looks.
        decoupled: Whether the engine's model is.
    """

    def __init__(
        self, model: str, client_id: str, is_cancelled: Callable[[], bool], period_seconds: float, decoupled: bool
    ) -> None:
        self.id = f"{client_id}-{uuid.uuid4().hex}" if client_id else uuid.uuid4().hex
        self._model, self._decoupled = model, decoupled
        self._is_cancelled, self._period = is_cancelled, period_seconds
        self._ended, self._told = threading.Event(), threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="cancellation", daemon=True)

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._watcher.join()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Iterator[_Arrays]:
        """Yields the engine's answers by tensor name; nothing after `stop`.

        Raises:
            Failure: With the engine's own code, or CANCELLED.
        """
        wanted = [tensor.name for tensor in tensors.ENGINE_OUTPUTS]
        request = _request(self._model, inputs, wanted, self.id)
        # To the engine's own end even after a stop: an iterator that is left leaves its answers in shared memory.
        for response in request.exec(decoupled=True) if self._decoupled else [request.exec()]:
            if self._told.is_set():
                continue
            found = _arrays(response)
            if found:
                yield found
        if self._is_cancelled():
            raise Failure(pb_utils.TritonError("the client has gone", pb_utils.TritonError.CANCELLED))

    def stop(self) -> None:
        """Tells the engine to end the request, once; the back end finds it by its id."""
        if self._told.is_set() or not self._decoupled:
            return
        self._told.set()
        one = np.ones((1, 1), np.int32)
        inputs = {"input_ids": one, "input_lengths": one, "request_output_len": one, "stop": np.ones((1, 1), np.bool_)}
        for _ in _request(self._model, inputs, ["output_ids"], self.id).exec(decoupled=True):
            pass

    def _watch(self) -> None:
        while not self._ended.wait(self._period):
            if self._is_cancelled():
                self.stop()
                return


class Texts:
    """The texts of all sequences of a request, by sequence and beam.

    Args:
        decode: Token ids to text.
        stop: Stop words.
        sequences: How many sequences there will be.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str], sequences: int = 1) -> None:
        self._decode, self._stop, self._sequences = decode, stop, sequences
        self._streams: dict[tuple[int, int], TextStream] = {}

    @property
    def stopped(self) -> bool:
        """Whether every sequence of a stream has met a stop word."""
        found = sum(stream.stopped for stream in self._streams.values())
        return found >= self._sequences

    def push(self, found: Mapping[str, NDArray[Any]]) -> list[str]:
        """Returns the new text of each beam of one answer of a stream."""
        return [self._stream(key).push(ids) for key, ids in _beams(found)]

    def whole(self, found: Mapping[str, NDArray[Any]]) -> list[str]:
        """Returns the text of each beam of an answer in one piece."""
        streams = [(TextStream(self._decode, self._stop), ids) for _, ids in _beams(found)]
        return [stream.push(ids) + stream.finish() for stream, ids in streams]

    def finish(self) -> Iterator[tuple[int, list[str]]]:
        """Yields what was held back: sequence, text of each beam."""
        for sequence in sorted({key[0] for key in self._streams}):
            rest = [stream.finish() for key, stream in sorted(self._streams.items()) if key[0] == sequence]
            if any(rest):
                yield sequence, rest

    def _stream(self, key: tuple[int, int]) -> TextStream:
        if key not in self._streams:
            self._streams[key] = TextStream(self._decode, self._stop)
        return self._streams[key]


def engine_inputs(inputs: Mapping[str, NDArray[Any]], prepared: Mapping[str, NDArray[Any]]) -> _Arrays:
    """Returns the engine's inputs from the client's and from those that preprocessing made."""
    found = {member: inputs[name] for member, name in tensors.TO_ENGINE.items() if name in inputs}
    # An empty word list is the same as none.
    return found | {
        member: prepared[name] for member, name in tensors.FROM_PREPROCESSING.items() if prepared[name].size
    }


def _integer(inputs: Mapping[str, NDArray[Any]], name: str) -> int:
    return max(1, int(inputs[name].reshape(-1)[0])) if name in inputs else 1


def _beams(found: Mapping[str, NDArray[Any]]) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Yields sequence, beam and new ids; `output_ids` is [1, beams, tokens], `sequence_length` [1, beams]."""
    sequence = int(found["sequence_index"].reshape(-1)[0]) if "sequence_index" in found else 0
    for beam, length in enumerate(found["sequence_length"].reshape(-1).tolist()):
        yield (sequence, beam), found["output_ids"][0, beam, :length].tolist()


def _request(model: str, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str], request_id: str) -> Any:
    given = [pb_utils.Tensor(name, values) for name, values in inputs.items()]
    return pb_utils.InferenceRequest(
        model_name=model, requested_output_names=list(wanted), inputs=given, request_id=request_id
    )


def _arrays(response: Any) -> _Arrays:
    if response.has_error():
        raise Failure(response.error())
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def _response(texts: Sequence[str], passed: Mapping[str, NDArray[Any]]) -> Any:
    found = {"text_output": np.array([[text.encode() for text in texts]], dtype=np.object_), **passed}
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in found.items()])
