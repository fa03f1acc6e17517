"""Builds the stateful OpenVINO graph of a dense decoder from safetensors, in the form PagedAttention needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from throughline.engines.cpu.decoder_graph import DecoderGraph
from throughline.engines.cpu.model_config import DecoderConfig
from throughline.engines.safetensors_reader import SafetensorsFolder


def build_graph(
    config: DecoderConfig,
    weights: SafetensorsFolder,
    *,
    bf16: bool,
    on_layer: Callable[[float], None] = lambda fraction: None,
) -> Any:
    """Builds the model: `input_ids`, `attention_mask`, `position_ids` [B, S] and `beam_idx` [B] → `logits`.

    Args:
        config: The decoder's facts.
        weights: Its tensors; every one of them must find its place.
        bf16: Store matrices as bfloat16 constants (rounded to nearest even) instead of float32.
        on_layer: Hears the fraction of layers done.

    Returns:
        An `openvino.Model`; logits are float32 [B, S, vocab]. Matrices are copies, the files may go.

    Raises:
        CheckpointError: If a tensor is missing, left over, or of the wrong shape.
    """
    builder = _GeneratingGraph(config, weights, bf16=bf16)
    model = builder.build(on_layer)
    builder.check_leftovers()
    return model


class _GeneratingGraph(DecoderGraph):
    def build(self, on_layer: Callable[[float], None]) -> Any:
        op, config = self.op, self.config
        self.sinks: list[Any] = []
        self.input_ids = self._parameter("input_ids", [-1, -1], np.int64)
        self.attention_mask = self._parameter("attention_mask", [-1, -1], np.int64)
        position_ids = self._parameter("position_ids", [-1, -1], np.int64)
        self.beam_idx = self._parameter("beam_idx", [-1], np.int32)
        self.mask = self._causal_mask()
        embedding = self.embed_tokens()
        hidden = self.hidden_states(embedding, self.input_ids, position_ids, on_layer)
        logits = op.matmul(hidden, self._head(embedding), False, True, name="lm_head/MatMul")
        logits.output(0).get_tensor().set_names({"logits"})
        inputs = [self.input_ids, self.attention_mask, position_ids, self.beam_idx]
        return self.ov.Model([op.result(logits, name="logits")], self.sinks, inputs, config.architecture)

    def attend(self, query: Any, key: Any, value: Any, layer: int) -> Any:
        """See `DecoderGraph.attend`; keys and values are appended to the layer's state."""
        key = self.repeat(self._with_past(key, layer, "key"))
        value = self.repeat(self._with_past(value, layer, "value"))
        return self.op.scaled_dot_product_attention(query, key, value, self.mask, self.scale(), causal=False)

    def _head(self, embedding: Any) -> Any:
        present = "lm_head.weight" in self.weights
        if self.config.tied or (self.config.tied is None and not present):
            self.used.add("lm_head.weight")
            return embedding
        return self._matrix("lm_head.weight", (self.config.vocab_size, self.config.hidden_size))

    def _causal_mask(self) -> Any:
        """Additive mask [B, 1, S, T] for plain stateful runs; PagedAttention brings its own."""
        op = self.op
        total = op.gather(op.shape_of(self.attention_mask), self._int(1), self._int(0))
        length = op.gather(op.shape_of(self.input_ids), self._int(1), self._int(0))
        keys = op.range(self._int(0), total, self._int(1), "i64")
        queries = op.unsqueeze(op.range(op.subtract(total, length), total, self._int(1), "i64"), self._int(1))
        seen = op.unsqueeze(op.convert(self.attention_mask, "boolean"), self._int([1, 2]))
        allowed = op.logical_and(op.less_equal(keys, queries), seen)
        return op.select(allowed, self._f32(0.0), self._f32(float(np.finfo(np.float32).min)))

    def _with_past(self, new: Any, index: int, kind: str) -> Any:
        """Appends to the layer's state variable [B, kv_heads, T, head_dim]."""
        op, config = self.op, self.config
        heads, size = config.num_key_value_heads, config.head_dim
        name = f"past_key_values.{index}.{kind}present.{index}.{kind}"
        batch = op.gather(op.shape_of(self.input_ids), self._int([0]), self._int(0))
        shape = op.concat([batch, self._int([heads]), self._int([0]), self._int([size])], 0)
        empty = op.broadcast(self._f32(0.0), shape)
        info = self.ov.op.util.VariableInfo()
        info.data_shape = self.ov.PartialShape([-1, heads, -1, size])
        info.data_type = self.ov.Type.f32
        info.variable_id = name
        variable = self.ov.op.util.Variable(info)
        past = op.gather(self.ov.op.read_value(empty, variable), self.beam_idx, self._int(0))
        whole = op.concat([past, new], -2)
        self.sinks.append(self.ov.op.assign(whole, variable))
        return whole
