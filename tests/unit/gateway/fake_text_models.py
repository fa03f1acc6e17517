"""A gRPC server with models as NVIDIA ships them: `tensorrt_llm_bls` with a batch dimension and no finish reason, and
`tensorrt_llm` of the llmapi layout, whose streams repeat the text so far; requests are decoded on their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.unit.gateway.tensors import inputs_of, string

BLS, OLD_BLS, LLMAPI = "tensorrt_llm_bls", "old_bls", "tensorrt_llm"
# Their inputs, as far as every request may have them.
_OF_BLS = ("max_tokens", "stream", "temperature", "top_k", "top_p", "exclude_input_in_output")
_OF_LLMAPI = ("max_tokens", "temperature", "top_k", "top_p", "seed", "exclude_input_from_output")
_INPUTS = {
    BLS: (*_OF_BLS, "seed"),
    OLD_BLS: (*_OF_BLS, "random_seed"),
    LLMAPI: ("streaming", "return_finish_reason", *(f"sampling_param_{name}" for name in _OF_LLMAPI)),
}


@dataclass
class Asked:
    """One request as it came; values by input name, whose shapes are checked against the model's."""

    model: str
    inputs: dict[str, Any]
    parameters: dict[str, Any]
    cancelled: threading.Event = field(default_factory=threading.Event)


class FakeTextModels(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # no types there
    """Answers with `pieces`, then with `reason` where the contract has one; `hold` comes before the last piece."""

    def __init__(self) -> None:
        self.pieces: Sequence[str] = ()
        self.reason = "stop"
        self.hold = threading.Event()
        self.seen: list[Asked] = []
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    def start(self) -> None:
        """Listens on a free port of loopback."""
        self._server.start()

    def stop(self) -> None:
        """Cuts every connection."""
        self.hold.set()
        self._server.stop(0).wait()

    def says(self, *pieces: str, reason: str = "stop", held: bool = False) -> None:
        """Sets the next answers and forgets what was asked."""
        self.seen.clear()
        self.pieces, self.reason = pieces, reason
        self.hold.clear() if held else self.hold.set()

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Every model is."""
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """As Triton: with a batch dimension of -1 where a model batches."""
        found = service_pb2.ModelMetadataResponse(name=request.name)
        shape = [-1] if request.name == LLMAPI else [-1, 1]
        for name in ("text_input", *_INPUTS.get(request.name, ())):
            found.inputs.add(name=name, shape=shape)
        found.outputs.add(name="text_output", datatype="BYTES", shape=shape)
        return found

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        """Plays the answer."""
        request = next(requests)
        asked = _asked(request, ranks=1 if request.model_name == LLMAPI else 2)
        context.add_callback(asked.cancelled.set)
        self.seen.append(asked)
        streams = asked.inputs.get("stream", asked.inputs.get("streaming"))
        pieces = list(self.pieces) if streams else ["".join(self.pieces)]
        answer = self._llmapi if asked.model == LLMAPI else self._bls
        yield from answer(asked, pieces)

    def _bls(self, asked: Asked, pieces: list[str]) -> Iterator[Any]:
        for at, piece in enumerate(pieces):
            if at == len(pieces) - 1:
                self.hold.wait(10)
            yield _message({"text_output": piece}, shape=[1, 1])
        assert asked.parameters["triton_enable_empty_final_response"] is True
        yield _message({}, final=True)

    def _llmapi(self, asked: Asked, pieces: list[str]) -> Iterator[Any]:
        assert asked.inputs["return_finish_reason"] is True
        for at in range(len(pieces)):
            last = at == len(pieces) - 1
            if last:
                self.hold.wait(10)
            reason = self.reason if last else "None"
            yield _message({"text_output": "".join(pieces[: at + 1]), "finish_reason": reason}, final=last)


def _asked(request: Any, *, ranks: int) -> Asked:
    for tensor in request.inputs:
        assert len(tensor.shape) == ranks and (ranks == 1 or tensor.shape[0] == 1)
    texts = {tensor.name for tensor in request.inputs if tensor.datatype == "BYTES"}
    inputs = {name: values if name in texts else _only(values) for name, values in inputs_of(request).items()}
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in request.parameters.items()
    }
    return Asked(request.model_name, inputs, parameters)


def _only(values: list[Any]) -> Any:
    [value] = values
    return value


def _message(outputs: dict[str, str], *, final: bool = False, shape: Sequence[int] = (1,)) -> Any:
    response = service_pb2.ModelInferResponse(model_name="x")
    response.parameters["triton_final_response"].bool_param = final
    for name, text in outputs.items():
        response.outputs.add(name=name, datatype="BYTES", shape=shape)
        response.raw_output_contents.append(string(text))
    return service_pb2.ModelStreamInferResponse(infer_response=response)
