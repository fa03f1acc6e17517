"""The contract of `tensorrt_llm_bls` and `ensemble`, the text models of the `inflight_batcher_llm` layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from throughline.contracts.engine import GuidedDecodingParams
from throughline.gateway.upstream.contract import Ask, ModelShape, Tensors, guide_kind
from throughline.gateway.upstream.text import TextReader


class BlsContract:
    """See `Contract`. A client's cancel does not pass through an ensemble: `tensorrt_llm_bls` is the better model.

    Args:
        adds_special_tokens: The parameter `add_special_tokens` of the preprocessing model; off in our layouts.
        count: Tokens of a text.
    """

    name = "bls"
    reads_text = True
    lacks: Mapping[str, str] = {
        "logprobs": "its answers do not say which tokens the log-probabilities are of",
        "ignore_eos": "it has no input for it",
        "priority": "it has no input for it",
    }

    def __init__(self, *, adds_special_tokens: bool, count: Callable[[str], int]) -> None:
        self.adds_special_tokens = adds_special_tokens
        self._count = count

    def guide_refusal(self, guide: GuidedDecodingParams) -> str:
        """See `Contract`."""
        return "" if guide.structural_tag is None else "it has no structural tags"

    def request(self, model: str, ask: Ask, shape: ModelShape) -> Any:
        """See `Contract`."""
        tensors, params = Tensors(model, ask, batched=shape.batched), ask.params
        # Without it nothing says that a stream has ended.
        tensors.request.parameters["triton_enable_empty_final_response"].bool_param = True
        tensors.texts("text_input", ask.text)
        tensors.integer("max_tokens", params.max_tokens)
        tensors.flag("stream", ask.stream)
        tensors.flag("exclude_input_in_output", True)
        if params.temperature:
            tensors.number("temperature", params.temperature)
            # Without top_k and top_p TensorRT-LLM is greedy.
            tensors.number("top_p", params.top_p)
            if params.top_k:
                tensors.integer("top_k", params.top_k)
        else:
            # Which temperature 0 is not to all its versions.
            tensors.integer("top_k", 1)
        if params.seed is not None:
            # The name before release 0.15.
            old = "random_seed" in shape.inputs and "seed" not in shape.inputs
            tensors.seed("random_seed" if old else "seed", params.seed)
        if params.stop:
            tensors.texts("stop_words", *params.stop)
        if params.min_tokens:
            tensors.integer("min_tokens", params.min_tokens)
        if params.guided_decoding is not None:
            kind, guide = guide_kind(params.guided_decoding)
            tensors.texts("guided_decoding_guide_type", kind)
            tensors.texts("guided_decoding_guide", guide)
        for name, value, neutral in (
            ("repetition_penalty", params.repetition_penalty, 1.0),
            ("presence_penalty", params.presence_penalty, 0.0),
            ("frequency_penalty", params.frequency_penalty, 0.0),
        ):
            if value != neutral:
                tensors.number(name, value)
        return tensors.request

    def reader(self, ask: Ask) -> TextReader:
        """See `Contract`."""
        return TextReader(ask, self._count)
