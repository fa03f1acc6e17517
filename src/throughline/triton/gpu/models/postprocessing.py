"""Triton Python model `postprocessing`: the ids of one message become its text, for the ensemble.

It has no memory from one message of a stream to the next, so that a stream whose message ends amid a character loses
that character: stream through `tensorrt_llm_bls`, which holds it back. Answers in one piece are whole here too.
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

sys.path.insert(0, str(Path(__file__).parent / "lib"))

from throughline.triton.text.streams import whole_text
from throughline.triton.text.tokenizer import of_parameters


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
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        # [batch, beams, tokens] and [batch, beams].
        tokens = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy()
        lengths = pb_utils.get_input_tensor_by_name(request, "SEQUENCE_LENGTH").as_numpy()
        texts = [
            [whole_text(self._tokenizer.decode, beam[:length]).encode() for beam, length in zip(*row, strict=True)]
            for row in zip(tokens, lengths, strict=True)
        ]
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array(texts, dtype=np.object_))])
