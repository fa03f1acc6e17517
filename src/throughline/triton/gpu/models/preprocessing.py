"""Triton Python model `preprocessing`: a prompt and its word lists become what the engine reads.

A copy of this file is `model.py`; the modules that it imports lie in `lib` beside it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent / "lib"))

from throughline.triton.text.tokenizer import TextTokenizer, of_parameters
from throughline.triton.text.word_lists import embedding_bias, word_list


class TritonPythonModel:
    """Entry points that the Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the tokenizer."""
        config = json.loads(args["model_config"])
        try:
            self._tokenizer = of_parameters(config["parameters"])
        except ValueError as error:
            raise pb_utils.TritonModelException(str(error)) from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request by itself."""
        return [_answer(request, self._tokenizer) for request in requests]


def _answer(request: Any, tokenizer: TextTokenizer) -> Any:
    try:
        tensors = outputs(_inputs(request), tokenizer)
    except ValueError as error:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in tensors.items()])


def _inputs(request: Any) -> dict[str, NDArray[Any]]:
    found = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    if len(found["QUERY"].reshape(-1)) != 1:
        raise ValueError(f"{found['QUERY'].size} prompts in one request: send one prompt a request")
    return {name: values.reshape(-1) for name, values in found.items()}


def outputs(inputs: dict[str, NDArray[Any]], tokenizer: TextTokenizer) -> dict[str, NDArray[Any]]:
    """Returns the outputs by name, each with the batch dimension of one.

    Args:
        inputs: One-dimensional arrays by name; texts are bytes.
        tokenizer: The checkpoint's.

    Raises:
        ValueError: Saying what is wrong with the request.
    """
    ids = tokenizer.prompt(_texts(inputs, "QUERY")[0])
    if not ids:
        raise ValueError("text_input has no token: send a prompt")
    length = int(inputs["REQUEST_OUTPUT_LEN"][0])
    if length < 1:
        raise ValueError(f"max_tokens is {length}: send at least 1")
    end, pad = _id(inputs, "END_ID", tokenizer.end_id), _id(inputs, "PAD_ID", tokenizer.pad_id)
    weights = inputs.get("EMBEDDING_BIAS_WEIGHTS", np.zeros(0, np.float32)).tolist()
    return {
        "INPUT_ID": np.array([ids], np.int32),
        "REQUEST_INPUT_LEN": np.array([[len(ids)]], np.int32),
        "REQUEST_OUTPUT_LEN": np.array([[length]], np.int32),
        "BAD_WORDS_IDS": word_list(_texts(inputs, "BAD_WORDS_DICT"), tokenizer.word),
        "STOP_WORDS_IDS": word_list(_texts(inputs, "STOP_WORDS_DICT"), tokenizer.word),
        "EMBEDDING_BIAS": embedding_bias(
            _texts(inputs, "EMBEDDING_BIAS_WORDS"), weights, tokenizer.word, tokenizer.vocab_size
        ),
        "OUT_END_ID": np.array([[end]], np.int32),
        "OUT_PAD_ID": np.array([[pad]], np.int32),
    }


def _texts(inputs: dict[str, NDArray[Any]], name: str) -> list[str]:
    try:
        return [bytes(value).decode("utf-8") for value in inputs.get(name, ())]
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no UTF-8: {error.reason} at byte {error.start}") from None


def _id(inputs: dict[str, NDArray[Any]], name: str, default: int | None) -> int:
    if name in inputs:
        return int(inputs[name][0])
    # -1 is what TensorRT-LLM takes for none.
    return -1 if default is None else default
