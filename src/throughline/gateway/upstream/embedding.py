"""The contract of our embedding model: token ids of one text in, its vector out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from throughline.gateway.upstream.faults import protocol_error

Vector = npt.NDArray[np.float32]
METHOD = "ModelInfer"
_OUTPUT = "sentence_embedding"


def embedding_request(model: str, request_id: str, prompt: list[int], seconds: float) -> Any:
    """The `ModelInferRequest` for one text.

    Args:
        model: Name on Triton.
        request_id: For its logs.
        prompt: Token ids.
        seconds: After which nobody waits for the answer any more.
    """
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    request.inputs.add(name="input_ids", datatype="INT64", shape=(1, len(prompt)))
    request.raw_input_contents.append(np.array(prompt, np.int64).tobytes())
    # Triton takes 0 for none.
    request.parameters["timeout"].int64_param = max(1, int(seconds * 1e6))
    return request


def read_vector(response: Any) -> Vector:
    """The vector of an answer.

    Raises:
        ApiError: 502 for an answer without one, or with numbers that are none.
    """
    names = [output.name for output in response.outputs]
    if names != [_OUTPUT]:
        raise protocol_error(f"The engine's answer is no embedding: has {', '.join(names) or 'nothing'}.")
    vector = np.frombuffer(response.raw_output_contents[0], "<f4")
    if not vector.size or not np.isfinite(vector).all():
        raise protocol_error("The engine's embedding has numbers that are not finite, or none.")
    return vector
