"""The tensors of TensorRT-LLM's `llmapi` model (1.2.x), and their meaning in the text contract of the engine model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from throughline.contracts.text import shorten
from throughline.triton.requests import RequestError

INPUTS: tuple[tuple[str, str, int], ...] = (
    ("text_input", "TYPE_STRING", -1),
    ("streaming", "TYPE_BOOL", 1),
    ("stop", "TYPE_BOOL", 1),
    ("sampling_param_best_of", "TYPE_INT32", 1),
    ("sampling_param_temperature", "TYPE_FP32", 1),
    ("sampling_param_top_k", "TYPE_INT32", 1),
    ("sampling_param_top_p", "TYPE_FP32", 1),
    ("sampling_param_frequency_penalty", "TYPE_FP32", 1),
    ("sampling_param_presence_penalty", "TYPE_FP32", 1),
    ("sampling_param_max_tokens", "TYPE_INT32", 1),
    ("sampling_param_stop", "TYPE_STRING", -1),
    ("sampling_param_seed", "TYPE_UINT64", 1),
    ("sampling_param_exclude_input_from_output", "TYPE_BOOL", 1),
    ("return_finish_reason", "TYPE_BOOL", 1),
    ("return_stop_reason", "TYPE_BOOL", 1),
    ("return_cumulative_logprob", "TYPE_BOOL", 1),
)
OUTPUTS: tuple[tuple[str, str, int], ...] = (
    ("text_output", "TYPE_STRING", -1),
    ("finish_reason", "TYPE_STRING", -1),
    ("stop_reason", "TYPE_STRING", -1),
    ("cumulative_logprob", "TYPE_FP32", -1),
)
# Name there → name in the text contract.
_NAMES = {
    "streaming": "stream",
    "sampling_param_temperature": "temperature",
    "sampling_param_top_k": "top_k",
    "sampling_param_top_p": "top_p",
    "sampling_param_frequency_penalty": "frequency_penalty",
    "sampling_param_presence_penalty": "presence_penalty",
    "sampling_param_max_tokens": "max_tokens",
    "sampling_param_stop": "stop_words",
    "sampling_param_seed": "seed",
    "sampling_param_exclude_input_from_output": "exclude_input_in_output",
    "return_cumulative_logprob": "return_log_probs",
}
_RETURNED = {
    "return_finish_reason": "finish_reason",
    "return_stop_reason": "stop_reason",
    "return_cumulative_logprob": "cumulative_logprob",
}


def to_text_contract(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """Translates a request.

    Args:
        inputs: One-dimensional numpy arrays by input name.

    Returns:
        The same by the text contract's names, and the outputs that were asked for.

    Raises:
        RequestError: If it asks for what the engine model does not have.
    """
    name = "sampling_param_best_of"
    if name in inputs and any(value != 1 for value in inputs[name].tolist()):
        raise RequestError(
            f"{name}: this engine does not have it",
            where=name,
            seen=shorten(inputs[name].tolist()),
            fix="leave it at 1",
        )
    found = {
        _NAMES.get(name, name): values for name, values in inputs.items() if name in _NAMES or name == "text_input"
    }
    if "text_input" in found:
        # As the original, which reads the first element alone.
        found["text_input"] = found["text_input"][:1]
    # Its default is the other way round.
    found.setdefault("exclude_input_in_output", np.array([False]))
    wanted = {output for name, output in _RETURNED.items() if name in inputs and bool(inputs[name][0])}
    return found, frozenset({"text_output"} | wanted)
