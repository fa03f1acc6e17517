"""The decoder stack that every CPU graph has: embedding, layers and last norm of a dense decoder, from safetensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from throughline.contracts.errors import CheckpointError
from throughline.engines.cpu.model_config import DecoderConfig
from throughline.engines.cpu.openvino_env import openvino
from throughline.engines.safetensors_reader import SafetensorsFolder

# Checkpoints may carry RoPE's buffer, which the graph computes, and a copy of a tied head.
_IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)


class DecoderGraph:
    """Builds the stack; a subclass has the inputs, says what attention sees, and makes outputs of the hidden states.

    Args:
        config: The decoder's facts.
        weights: Its tensors; every one of them must find its place.
        bf16: Store matrices as bfloat16 constants (rounded to nearest even) instead of float32.
        prefix: What tensor names begin with.
    """

    def __init__(
        self, config: DecoderConfig, weights: SafetensorsFolder, *, bf16: bool, prefix: str = "model."
    ) -> None:
        self.ov = openvino()
        import openvino.opset13 as opset

        self.op: Any = opset
        self.config = config
        self.weights = weights
        self.bf16 = bf16
        self.prefix = prefix
        self.used: set[str] = set()

    def embed_tokens(self) -> Any:
        """The embedding matrix [vocab, hidden]."""
        return self._matrix(f"{self.prefix}embed_tokens.weight", (self.config.vocab_size, self.config.hidden_size))

    def hidden_states(
        self, embedding: Any, input_ids: Any, position_ids: Any, on_layer: Callable[[float], None]
    ) -> Any:
        """The states behind the last norm, float32 [B, S, hidden].

        Args:
            embedding: From `embed_tokens`.
            input_ids: Integers [B, S].
            position_ids: Integers [B, S] or [1, S].
            on_layer: Hears the fraction of layers done.
        """
        op, config = self.op, self.config
        hidden = op.gather(embedding, op.convert(input_ids, "i32"), self._int(0))
        self.cos, self.sin = self._rotary_tables(position_ids)
        for layer in range(config.num_hidden_layers):
            hidden = self._layer(hidden, layer)
            on_layer((layer + 1) / config.num_hidden_layers)
        return self._norm(hidden, f"{self.prefix}norm.weight", config.hidden_size)

    def attend(self, query: Any, key: Any, value: Any, layer: int) -> Any:
        """Mixes values [B, kv_heads, S, head_dim] by query and key, which are rotated: [B, heads, S, head_dim]."""
        raise NotImplementedError

    def check_leftovers(self) -> None:
        """Raises `CheckpointError` if a tensor has found no place."""
        left = [name for name in self.weights if name not in self.used and not name.endswith(_IGNORED_SUFFIXES)]
        if left:
            raise CheckpointError(
                "checkpoint holds tensors that this architecture has no place for",
                where=str(self.weights.folder),
                seen=f"{len(left)}: {', '.join(sorted(left)[:4])}",
                fix="merge adapters first, and check config.json:model_type",
            )

    def _parameter(self, name: str, shape: list[int], dtype: type) -> Any:
        node = self.op.parameter(shape, dtype, name=name)
        node.output(0).get_tensor().set_names({name})
        return node

    def _int(self, value: int | list[int]) -> Any:
        return self.op.constant(np.array(value, np.int64))

    def _f32(self, value: Any) -> Any:
        return self.op.constant(np.asarray(value, np.float32))

    def _take(self, name: str, shape: tuple[int, ...]) -> None:
        if name not in self.weights:
            raise CheckpointError(
                "checkpoint lacks a tensor",
                where=str(self.weights.folder),
                seen=f"no {name}",
                fix="copy the whole checkpoint and check config.json:model_type",
            )
        found = self.weights.entries[name].shape
        if found != shape:
            raise CheckpointError(
                "tensor has another shape than config.json says",
                where=f"{self.weights.folder}:{name}",
                seen=f"{list(found)}, expected {list(shape)}",
                fix="use the config.json that belongs to these weights",
            )
        self.used.add(name)

    def _matrix(self, name: str, shape: tuple[int, ...]) -> Any:
        self._take(name, shape)
        if not self.bf16:
            return self.op.constant(self.weights.f32(name), name=name)
        tensor = self.ov.Tensor(self.ov.Type.bf16, self.ov.Shape(list(shape)))
        tensor.data.view(np.uint16)[...] = self.weights.bf16(name)
        return self.op.convert(self.op.constant(tensor, name=name), "f32", name=f"{name}/decompress")

    def _vector(self, name: str, size: int) -> Any:
        self._take(name, (size,))
        return self.op.constant(self.weights.f32(name), name=name)

    def _linear(self, hidden: Any, name: str, rows: int, columns: int) -> Any:
        product = self.op.matmul(
            hidden, self._matrix(f"{name}.weight", (rows, columns)), False, True, name=f"{name}/MatMul"
        )
        if f"{name}.bias" not in self.weights:
            return product
        return self.op.add(product, self._vector(f"{name}.bias", rows))

    def _norm(self, hidden: Any, name: str, size: int) -> Any:
        """RMSNorm in the operator pattern that the CPU plugin fuses."""
        op = self.op
        mean = op.reduce_mean(op.power(hidden, self._f32(2.0)), self._int([-1]), True)
        root = op.sqrt(op.add(mean, self._f32(self.config.rms_norm_eps)))
        return op.multiply(self._vector(name, size), op.multiply(hidden, op.divide(self._f32(1.0), root)))

    def _rotary_tables(self, position_ids: Any) -> tuple[Any, Any]:
        """cos and sin [B, 1, S, head_dim], looked up by position; angles in float32 as transformers computes them.

        Computed from positions in the graph they would be bfloat16 on processors that compute in it, where
        positions beyond 256 are rounded: a model that read 500 tokens then answered nonsense.
        """
        op = self.op
        positions = np.arange(self.config.max_seq_len, dtype=np.float32)[:, None]
        angles = positions * self.config.inverse_frequencies.astype(np.float32)[None]
        both = np.concatenate([angles, angles], axis=-1)
        index = op.convert(position_ids, "i32")
        tables = (op.gather(self._f32(table), index, self._int(0)) for table in (np.cos(both), np.sin(both)))
        cos, sin = (op.unsqueeze(table, self._int([1])) for table in tables)
        return cos, sin

    def _layer(self, hidden: Any, index: int) -> Any:
        op, config = self.op, self.config
        prefix = f"{self.prefix}layers.{index}"
        normed = self._norm(hidden, f"{prefix}.input_layernorm.weight", config.hidden_size)
        hidden = op.add(hidden, self._attention(normed, f"{prefix}.self_attn", index))
        normed = self._norm(hidden, f"{prefix}.post_attention_layernorm.weight", config.hidden_size)
        return op.add(hidden, self._mlp(normed, f"{prefix}.mlp"))

    def _mlp(self, hidden: Any, prefix: str) -> Any:
        wide, narrow = self.config.intermediate_size, self.config.hidden_size
        gate = self.op.swish(self._linear(hidden, f"{prefix}.gate_proj", wide, narrow))
        up = self._linear(hidden, f"{prefix}.up_proj", wide, narrow)
        return self._linear(self.op.multiply(gate, up), f"{prefix}.down_proj", narrow, wide)

    def _attention(self, hidden: Any, prefix: str, index: int) -> Any:
        op, config = self.op, self.config
        heads, kv_heads, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        query = self._rotate(self._heads(hidden, f"{prefix}.q_proj", heads, f"{prefix}.q_norm"))
        key = self._rotate(self._heads(hidden, f"{prefix}.k_proj", kv_heads, f"{prefix}.k_norm"))
        value = self._heads(hidden, f"{prefix}.v_proj", kv_heads, None)
        mixed = self.attend(query, key, value, index)
        joined = op.reshape(op.transpose(mixed, self._int([0, 2, 1, 3])), self._int([0, 0, heads * size]), True)
        return self._linear(joined, f"{prefix}.o_proj", config.hidden_size, heads * size)

    def _heads(self, hidden: Any, name: str, count: int, norm: str | None) -> Any:
        """Projects [B, S, hidden] to [B, heads, S, head_dim], normalised per head if the family does so."""
        size = self.config.head_dim
        projected = self._linear(hidden, name, count * size, self.config.hidden_size)
        split = self.op.reshape(projected, self._int([0, 0, count, size]), True)
        if norm and self.config.query_key_norm:
            split = self._norm(split, f"{norm}.weight", size)
        return self.op.transpose(split, self._int([0, 2, 1, 3]))

    def _rotate(self, heads: Any) -> Any:
        """`x · cos + rotate_half(x) · sin`."""
        op, half = self.op, self.config.head_dim // 2
        parts = op.variadic_split(heads, self._int(-1), self._int([half, half]))
        turned = op.concat([op.multiply(parts.output(1), self._f32(-1.0)), parts.output(0)], -1)
        return op.add(op.multiply(heads, self.cos), op.multiply(turned, self.sin))

    def scale(self) -> Any:
        """What scores are multiplied with: 1 / sqrt(head_dim)."""
        return self._f32(1.0 / math.sqrt(self.config.head_dim))

    def repeat(self, heads: Any) -> Any:
        """Grouped-query attention: each key/value head serves `heads / kv_heads` query heads."""
        op, config = self.op, self.config
        groups = config.num_attention_heads // config.num_key_value_heads
        if groups == 1:
            return heads
        wide = op.unsqueeze(heads, self._int(2))
        shape = op.concat(
            [
                op.gather(op.shape_of(heads), self._int([0, 1]), self._int(0)),
                self._int([groups]),
                op.gather(op.shape_of(heads), self._int([2, 3]), self._int(0)),
            ],
            0,
        )
        spread = op.broadcast(wide, shape)
        return op.reshape(spread, self._int([0, config.num_attention_heads, -1, config.head_dim]), True)
