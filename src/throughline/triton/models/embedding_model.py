"""Triton Python model that serves one embedding engine: a batch of sequences in, their vectors out (not decoupled).

A copy of this file is `model.py` of a version; `version.json` beside it says which engine to load.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The version's own code goes before what is installed. The Python backend starts its interpreter isolated, so
# PYTHONPATH does not reach sys.path by itself.
sys.path[:0] = [
    str(Path(__file__).parent / "lib"),
    *(entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and entry not in sys.path),
]

from throughline.contracts.embedding import EmbeddingRuntime  # noqa: E402
from throughline.contracts.errors import EngineError  # noqa: E402
from throughline.triton.embedding_config import ATTENTION_MASK, INPUT_IDS, OUTPUT  # noqa: E402
from throughline.triton.embedding_rows import rows  # noqa: E402
from throughline.triton.warm_up import warm_up_vectors  # noqa: E402


class TritonPythonModel:
    """Entry points that the Python backend calls, all of them in its main thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the engine, here: OpenVINO computes a batch without the interpreter, and nothing else waits for it."""
        pointer = json.loads(Path(args["model_repository"], args["model_version"], "version.json").read_text("utf-8"))
        engine_dir = Path(pointer["engine_dir"])
        module, _, function = pointer["runtime"].partition(":")
        make: Callable[[Path], EmbeddingRuntime] = getattr(importlib.import_module(module), function)
        try:
            self._runtime = make(engine_dir)
            print(warm_up_vectors(self._runtime, engine_dir), file=sys.stderr, flush=True)
        except Exception as error:
            raise pb_utils.TritonModelException(f"engine {engine_dir} cannot be loaded: {error}") from error

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Embeds the sequences of all requests together; one that is refused does not fail the others."""
        taken: list[tuple[int, list[list[int]]]] = []
        responses: list[Any] = [None] * len(requests)
        for place, request in enumerate(requests):
            if request.is_cancelled():
                responses[place] = _failed("the client has gone", "CANCELLED")
                continue
            try:
                prompts = rows(_input(request, INPUT_IDS), _input(request, ATTENTION_MASK))
                for prompt in prompts:
                    self._runtime.check(prompt)
            except EngineError as error:
                responses[place] = _failed(str(error), "INVALID_ARG")
            else:
                taken.append((place, prompts))
        vectors = self._runtime.embed([prompt for _, prompts in taken for prompt in prompts])
        start = 0
        for place, prompts in taken:
            end = start + len(prompts)
            responses[place] = pb_utils.InferenceResponse([pb_utils.Tensor(OUTPUT, vectors[start:end])])
            start = end
        return responses

    def finalize(self) -> None:
        """Frees the engine."""
        self._runtime.close()


def _input(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else np.asarray(tensor.as_numpy())


def _failed(text: str, code: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, getattr(pb_utils.TritonError, code)))
