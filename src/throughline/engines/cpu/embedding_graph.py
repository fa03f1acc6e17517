"""Builds the OpenVINO graph of an embedding engine: a dense decoder without KV state, pooling with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from throughline.contracts.embedding import EmbeddingInfo, Pooling
from throughline.engines.cpu.decoder_graph import DecoderGraph
from throughline.engines.cpu.model_config import DecoderConfig
from throughline.engines.safetensors_reader import SafetensorsFolder

OUTPUT = "sentence_embedding"
# Of torch.nn.functional.normalize, which sentence-transformers takes.
_LEAST_LENGTH = 1e-12


def build_embedding_graph(
    config: DecoderConfig,
    weights: SafetensorsFolder,
    embedding: EmbeddingInfo,
    *,
    bf16: bool,
    prefix: str = "model.",
    on_layer: Callable[[float], None] = lambda fraction: None,
) -> Any:
    """Builds the model: `input_ids` and `attention_mask` [B, S] → `sentence_embedding`, float32 [B, hidden].

    Sequences are padded on the right: the mask is 1 for tokens and 0 behind them. Attention is causal, so that no
    token sees padding.

    Args:
        config: The decoder's facts.
        weights: Its tensors; a head has no place but a tied one's copy.
        embedding: How vectors are made.
        bf16: Store matrices as bfloat16 constants (rounded to nearest even) instead of float32.
        prefix: What tensor names begin with: `model.`, or nothing in a checkpoint of the stack alone.
        on_layer: Hears the fraction of layers done.

    Returns:
        An `openvino.Model`. Matrices are copies, the files may go.

    Raises:
        CheckpointError: If a tensor is missing, left over, or of the wrong shape.
    """
    graph = _EmbeddingGraph(config, weights, bf16=bf16, prefix=prefix)
    model = graph.build(embedding, on_layer)
    graph.check_leftovers()
    return model


class _EmbeddingGraph(DecoderGraph):
    def build(self, embedding: EmbeddingInfo, on_layer: Callable[[float], None]) -> Any:
        op = self.op
        input_ids = self._parameter("input_ids", [-1, -1], np.int64)
        self.attention_mask = self._parameter("attention_mask", [-1, -1], np.int64)
        length = op.gather(op.shape_of(input_ids), self._int(1), self._int(0))
        position_ids = op.unsqueeze(op.range(self._int(0), length, self._int(1), "i64"), self._int(0))
        self.used.add("lm_head.weight")
        vectors = self._pooled(
            self.hidden_states(self.embed_tokens(), input_ids, position_ids, on_layer), embedding.pooling
        )
        if embedding.normalize:
            size = op.sqrt(op.reduce_sum(op.multiply(vectors, vectors), self._int([-1]), True))
            vectors = op.divide(vectors, op.maximum(size, self._f32(_LEAST_LENGTH)))
        vectors.output(0).get_tensor().set_names({OUTPUT})
        return self.ov.Model(
            [op.result(vectors, name=OUTPUT)], [input_ids, self.attention_mask], self.config.architecture
        )

    def attend(self, query: Any, key: Any, value: Any, layer: int) -> Any:
        """See `DecoderGraph.attend`; padding is behind every token and therefore unseen."""
        return self.op.scaled_dot_product_attention(query, self.repeat(key), self.repeat(value), causal=True)

    def _pooled(self, hidden: Any, pooling: Pooling) -> Any:
        """[B, S, hidden] → [B, hidden]."""
        op = self.op
        if pooling == "cls":
            return op.gather(hidden, self._int(0), self._int(1))
        if pooling == "last":
            count = op.reduce_sum(self.attention_mask, self._int([1]), True)
            last = op.gather(hidden, op.subtract(count, self._int(1)), self._int(1), batch_dims=1)
            return op.squeeze(last, self._int([1]))
        mask = op.unsqueeze(op.convert(self.attention_mask, "f32"), self._int(-1))
        return op.divide(op.reduce_sum(op.multiply(hidden, mask), self._int([1])), op.reduce_sum(mask, self._int([1])))
