"""A gRPC server that speaks the engine model's text contract from a script; decodes requests on its own."""

from __future__ import annotations

import contextlib
import math
import queue
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.unit.gateway.tensors import inputs_of, string

MODEL, EMBEDDING = "lab-engine", "lab-embedding"
DIMENSIONS = 8
# Of the engine model; further ones are optional.
INPUTS = ("text_input", "input_ids", "max_tokens", "stream", "temperature", "top_k", "top_p", "return_perf_metrics")
OUTPUTS = ("text_output", "finish_reason", "prompt_tokens", "completion_tokens", "output_ids")
FINAL = "triton_final_response"


@dataclass
class Seen:
    """One request as it came over the wire; values by input name, integers by parameter name."""

    model: str
    inputs: dict[str, Any]
    id: str
    parameters: dict[str, int]
    metadata: dict[str, str] = field(default_factory=dict)
    cancelled: threading.Event = field(default_factory=threading.Event)
    is_shared: bool = False

    @property
    def prompt(self) -> list[int]:
        """The prompt's token ids."""
        return list(self.inputs["input_ids"])

    @property
    def is_streamed(self) -> bool:
        """Whether each message is wanted at once."""
        return bool(self.inputs["stream"]) and "stream_interval_ms" not in self.parameters


@dataclass
class Say:
    """One message: new text, all tokens so far, a reason in the last one; new ids with their log-probabilities.

    `times` are the engine's, by their outputs' names, in nanoseconds of a monotonic clock. `is_due` sends one of a
    whole answer though it is not the last, as the engine model does from time to time.
    """

    text: str
    completion_tokens: int
    finish_reason: str = ""
    token_ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] | None = None
    times: dict[str, int] = field(default_factory=dict)
    is_due: bool = False


@dataclass
class Fail:
    """Ends the request with a gRPC status."""

    code: grpc.StatusCode
    details: str


Script = Callable[[Seen], Iterator[Say | Fail]]


def say(text: str, finish_reason: str = "stop", pieces: int = 3) -> Script:
    """A script that says `text` in about `pieces` messages, one token each."""

    def script(_: Seen) -> Iterator[Say | Fail]:
        size = max(1, len(text) // pieces)
        parts = [text[at : at + size] for at in range(0, len(text), size)] or [""]
        for number, part in enumerate(parts, 1):
            yield Say(part, number, finish_reason if number == len(parts) else "")

    return script


def vector_of(ids: list[int]) -> list[float]:
    """A vector of length 1 that no other ids have."""
    numbers = [math.sin(sum((at + 1) * token for at, token in enumerate(ids)) + place) for place in range(DIMENSIONS)]
    length = math.sqrt(sum(number * number for number in numbers))
    return [number / length for number in numbers]


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # no types there
    """Runs in threads of this process; `script` says how to answer, `seen` holds what came.

    A stream may carry many requests; `streams` counts those that were opened, `ended` those that came to their end.
    What fails with `error_status_prefix` gets an error message with its id, anything else ends its stream by a status.
    """

    def __init__(self) -> None:
        self.script: Script = say("Hello there")
        self.seen: list[Seen] = []
        self.embedded: list[list[int]] = []
        self.failures: list[Fail] = []
        # Cleared, it keeps vectors back.
        self.hold = threading.Event()
        self.hold.set()
        self.ready = True
        self.streams = 0
        self.ended = threading.Semaphore(0)
        self._server: Any = None
        self.port = 0

    def start(self) -> None:
        """Listens on a free port of loopback, or on the same again."""
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        """Cuts every connection."""
        self._server.stop(0).wait()

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Says `ready` for the one model."""
        return service_pb2.ModelReadyResponse(ready=self.ready and request.name in (MODEL, EMBEDDING))

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answers with `vector_of` the token ids, or as `failures` say, one for each request."""
        (raw,) = request.raw_input_contents
        ids = list(struct.unpack(f"<{len(raw) // 8}q", raw))
        self.embedded.append(ids)
        self.hold.wait()
        if self.failures:
            failure = self.failures.pop(0)
            context.abort(failure.code, failure.details)
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name="sentence_embedding", datatype="FP32", shape=[1, DIMENSIONS])
        response.raw_output_contents.append(struct.pack(f"<{DIMENSIONS}f", *vector_of(ids)))
        return response

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """As Triton says of the engine models."""
        found = service_pb2.ModelMetadataResponse(name=request.name)
        embeds = request.name == EMBEDDING
        for name in ("input_ids", "attention_mask") if embeds else INPUTS:
            found.inputs.add(name=name)
        for name in ("sentence_embedding",) if embeds else OUTPUTS:
            found.outputs.add(name=name)
        return found

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        """Plays the script to each request, to all of them at once; one with `stop` cancels that of the same id."""
        self.streams += 1
        metadata = dict(context.invocation_metadata())
        out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        running: dict[str, Seen] = {}

        def end() -> None:
            for seen in list(running.values()):
                seen.cancelled.set()
            out.put(None)

        def read() -> None:
            players: list[threading.Thread] = []
            with contextlib.suppress(grpc.RpcError):
                for request in requests:
                    if any(tensor.name == "stop" for tensor in request.inputs):
                        running[request.id].cancelled.set()
                        continue
                    seen = running[request.id] = _decode(request, metadata)
                    self.seen.append(seen)
                    players.append(threading.Thread(target=self._play, args=(seen, out), daemon=True))
                    players[-1].start()
            for player in players:
                player.join()
            out.put(None)

        context.add_callback(end)
        threading.Thread(target=read, daemon=True).start()
        while (found := out.get()) is not None:
            if isinstance(found, Fail):
                context.abort(found.code, found.details)
            yield found
        self.ended.release()

    def _play(self, seen: Seen, out: queue.SimpleQueue[Any]) -> None:
        """A whole answer goes in one message, as the engine model does."""
        prompt_tokens = len(seen.prompt)
        held = Say("", 0)
        for step in self.script(seen):
            if seen.cancelled.is_set():
                return
            if isinstance(step, Fail):
                out.put(_failure(seen, step) if seen.is_shared else step)
                return
            held = _joined(held, step)
            if seen.is_streamed or step.finish_reason or step.is_due:
                out.put(_message(held, prompt_tokens, seen.id))
                held = Say("", 0)


def _decode(request: Any, metadata: dict[str, str]) -> Seen:
    several = {"input_ids"} | {tensor.name for tensor in request.inputs if tensor.datatype == "BYTES"}
    inputs: dict[str, Any] = {
        name: values if name in several else values[0] for name, values in inputs_of(request).items()
    }
    parameters = {name: value.int64_param for name, value in request.parameters.items()}
    shared = "error_status_prefix" in parameters
    return Seen(request.model_name, inputs, request.id, parameters, metadata, is_shared=shared)


def _joined(held: Say, step: Say) -> Say:
    log_probs = None if step.log_probs is None else (held.log_probs or ()) + step.log_probs
    return replace(step, text=held.text + step.text, token_ids=held.token_ids + step.token_ids, log_probs=log_probs)


def _failure(seen: Seen, step: Fail) -> Any:
    status = {"INVALID_ARGUMENT": "INVALID_ARG"}.get(step.code.name, step.code.name)
    message = service_pb2.ModelStreamInferResponse(error_message=f"{status}: {step.details}")
    message.infer_response.id = seen.id
    return message


def _message(step: Say, prompt_tokens: int, request_id: str) -> Any:
    response = service_pb2.ModelInferResponse(model_name=MODEL, id=request_id)
    response.parameters[FINAL].bool_param = bool(step.finish_reason)
    outputs = [
        ("text_output", "BYTES", 1, string(step.text)),
        ("finish_reason", "BYTES", 1, string(step.finish_reason)),
        ("prompt_tokens", "INT32", 1, struct.pack("<i", prompt_tokens)),
        ("completion_tokens", "INT32", 1, struct.pack("<i", step.completion_tokens)),
        ("output_ids", "INT32", len(step.token_ids), struct.pack(f"<{len(step.token_ids)}i", *step.token_ids)),
    ]
    if step.log_probs is not None:
        values = step.log_probs
        outputs.append(("cum_log_probs", "FP32", 1, struct.pack("<f", sum(values))))
        outputs.append(("output_log_probs", "FP32", len(values), struct.pack(f"<{len(values)}f", *values)))
    outputs += [(name, "INT64", 1, struct.pack("<q", value)) for name, value in step.times.items()]
    for name, kind, size, raw in outputs:
        response.outputs.add(name=name, datatype=kind, shape=[size])
        response.raw_output_contents.append(raw)
    return service_pb2.ModelStreamInferResponse(infer_response=response)
