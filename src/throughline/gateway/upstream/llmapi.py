"""The contract of `tensorrt_llm`, the one model of the `llmapi` layout (TensorRT-LLM 1.2.x and later)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from throughline.contracts.engine import GuidedDecodingParams
from throughline.gateway.upstream.contract import Ask, ModelShape
from throughline.gateway.upstream.text import TextContract, TextReader


class LlmapiContract(TextContract):
    """See `Contract`. A checkpoint's own `repetition_penalty` is not sent, for which there is no input.

    `LLM()` puts the tokenizer's own tokens around a text by default.
    """

    name = "llmapi"
    lacks: Mapping[str, str] = {
        "logprobs": "its answers have the sum of the log-probabilities alone",
        "ignore_eos": "it has no input for it",
        "min_tokens": "it has no input for it",
        "repetition_penalty": "it has no input for it",
        "priority": "it has no input for it",
        "bad_words": "it has no input for it",
    }

    def guide_refusal(self, guide: GuidedDecodingParams) -> str:
        """See `Contract`."""
        return "it has no guided decoding"

    def request(self, model: str, ask: Ask, shape: ModelShape) -> Any:
        """See `Contract`."""
        tensors, params = self.tensors(model, ask, shape, "sampling_param_"), ask.params
        tensors.flag("streaming", ask.stream)
        tensors.flag("sampling_param_exclude_input_from_output", True)
        tensors.flag("return_finish_reason", True)
        if params.seed is not None:
            tensors.seed("sampling_param_seed", params.seed)
        if params.stop:
            tensors.texts("sampling_param_stop", *params.stop)
        for name, value in (
            ("sampling_param_presence_penalty", params.presence_penalty),
            ("sampling_param_frequency_penalty", params.frequency_penalty),
        ):
            if value:
                tensors.number(name, value)
        return tensors.request

    def reader(self, ask: Ask) -> LlmapiReader:
        """See `Contract`."""
        return LlmapiReader(ask, self._count)


class LlmapiReader(TextReader):
    """Reads messages that repeat the text so far."""

    def __init__(self, ask: Ask, count: Callable[[str], int]) -> None:
        super().__init__(ask, count)
        self._seen = 0

    def new_text(self, text: str, outputs: Mapping[str, bytes]) -> str:
        """See `TextReader`."""
        new, self._seen = text[self._seen :], len(text)
        return new
