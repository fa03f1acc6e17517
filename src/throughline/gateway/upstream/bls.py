"""The contract of `tensorrt_llm_bls` and `ensemble`, the text models of the `inflight_batcher_llm` layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from throughline.contracts.engine import GuidedDecodingParams
from throughline.gateway.upstream.contract import Ask, ModelShape
from throughline.gateway.upstream.text import TextContract, TextReader


class BlsContract(TextContract):
    """See `Contract`. A client's cancel does not pass through an ensemble: `tensorrt_llm_bls` is the better model.

    `adds_special_tokens` is a parameter of the preprocessing model, off in our layouts.
    """

    name = "bls"
    lacks: Mapping[str, str] = {
        "logprobs": "its answers do not say which tokens the log-probabilities are of",
        "ignore_eos": "it has no input for it",
        "priority": "it has no input for it",
    }

    def guide_refusal(self, guide: GuidedDecodingParams) -> str:
        """See `Contract`."""
        return "" if guide.structural_tag is None else "it has no structural tags"

    def request(self, model: str, ask: Ask, shape: ModelShape) -> Any:
        """See `Contract`."""
        tensors, params = self.tensors(model, ask, shape), ask.params
        tensors.flag("stream", ask.stream)
        tensors.flag("exclude_input_in_output", True)
        if params.seed is not None:
            # The name before release 0.15.
            old = "random_seed" in shape.inputs and "seed" not in shape.inputs
            tensors.seed("random_seed" if old else "seed", params.seed)
        tensors.steering(params)
        return tensors.request

    def reader(self, ask: Ask) -> TextReader:
        """See `Contract`."""
        return TextReader(ask, self._count)
