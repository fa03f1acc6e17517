"""Tensors of a GGUF file as Hugging Face safetensors: names, row order and precision."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from throughline.contracts.errors import CheckpointError
from throughline.conversion.gguf_file import GgufFile

if TYPE_CHECKING:
    from gguf import ReaderTensor

_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# RoPE's factors: `config.json` says them in words, see `model_config`.
ROPE_FACTORS = "rope_freqs.weight"
_NAME = re.compile(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)")
# Hugging Face's own limit for a shard's size.
_SHARD_BYTES = 5_000_000_000
_ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class WrittenWeights:
    """What was written.

    Attributes:
        parameters: Number of weights, a tied head counted once.
        source_types: Number of tensors by GGUF type, e.g. `Q4_1`.
        largest_rounding: Largest distance between a weight and its rounded form over the tensor's largest weight.
    """

    parameters: int
    source_types: Mapping[str, int]
    largest_rounding: float


def hugging_face_name(name: str) -> str | None:
    """Returns a tensor's name in Llama-like Hugging Face checkpoints, or None if it has none."""
    if name in _WHOLE:
        return _WHOLE[name]
    match = _NAME.fullmatch(name)
    if match is None or match[2] not in _BLOCK:
        return None
    return f"model.layers.{match[1]}.{_BLOCK[match[2]]}.{match[3]}"


def write_weights(source: GgufFile, config: Mapping[str, Any], folder: Path, *, dtype: str) -> WrittenWeights:
    """Writes `model.safetensors`, or shards and their index.

    Args:
        source: The GGUF file.
        config: The model's `config.json`.
        folder: Where to write; exists.
        dtype: `bfloat16`, `float16` or `float32`.

    Raises:
        CheckpointError: If the file holds a tensor that such a model has not, or lacks one.
    """
    named = _named(source)
    _check_complete(source, config, set(named))
    shards = _shards(named, dtype)
    types: dict[str, int] = {}
    parameters, rounding = 0, 0.0
    index: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors: dict[str, npt.NDArray[Any]] = {}
        for name in names:
            tensor = named[name]
            values = _values(tensor, source, config)
            tensors[name], loss = _rounded(values, dtype)
            rounding = max(rounding, loss)
            parameters += values.size
            types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
            index[name] = file
        _save(folder / file, tensors)
    if len(shards) > 1:
        total = parameters * _ITEM_BYTES[dtype]
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}, indent=2)
        (folder / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")
    return WrittenWeights(parameters, dict(sorted(types.items())), rounding)


def _named(source: GgufFile) -> dict[str, ReaderTensor]:
    named = {hugging_face_name(name): tensor for name, tensor in source.tensors.items() if name != ROPE_FACTORS}
    unknown = [name for name in source.tensors if name != ROPE_FACTORS and hugging_face_name(name) is None]
    if unknown:
        raise CheckpointError(
            f"GGUF file holds {len(unknown)} tensor(s) that a dense decoder has not",
            where=str(source.path),
            seen=", ".join(unknown[:5]),
            fix="choose a dense Llama, Mistral, Qwen2 or Qwen3 model",
        )
    return {name: tensor for name, tensor in named.items() if name is not None}


def _check_complete(source: GgufFile, config: Mapping[str, Any], names: set[str]) -> None:
    parts = [part for part in _BLOCK.values() if "q_norm" not in part and "k_norm" not in part]
    if config["model_type"] == "qwen3":
        parts += [_BLOCK["attn_q_norm"], _BLOCK["attn_k_norm"]]
    wanted = {f"model.layers.{layer}.{part}.weight" for layer in range(config["num_hidden_layers"]) for part in parts}
    missing = sorted((wanted | {_WHOLE["token_embd.weight"], _WHOLE["output_norm.weight"]}) - names)
    if missing:
        raise CheckpointError(
            f"GGUF file lacks {len(missing)} tensor(s)",
            where=str(source.path),
            seen=", ".join(missing[:5]),
            fix="give the whole model; of a split GGUF, join the parts with llama-gguf-split --merge",
        )


def _shards(named: Mapping[str, ReaderTensor], dtype: str) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in sorted(named.items()):
        size = int(tensor.n_elements) * _ITEM_BYTES[dtype]
        if shards[-1] and filled + size > _SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _values(tensor: ReaderTensor, source: GgufFile, config: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Returns a tensor in float32, rows in Hugging Face's order."""
    from gguf.quants import dequantize

    values = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    if source.architecture == "llama" and ".attn_q." in tensor.name:
        return _half_rotation_order(values, config["num_attention_heads"])
    if source.architecture == "llama" and ".attn_k." in tensor.name:
        return _half_rotation_order(values, config["num_key_value_heads"])
    return values


def _half_rotation_order(values: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Undoes llama.cpp's row order, where RoPE turns neighbours; Hugging Face's turns the halves of a head.

    Args:
        values: `[heads * head_dim, …]` with the rows of a head as pairs.
        heads: Number of heads.

    Returns:
        A copy with the first of every pair in the head's first half.
    """
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def _rounded(values: npt.NDArray[np.float32], dtype: str) -> tuple[npt.NDArray[Any], float]:
    if dtype == "float32":
        return np.ascontiguousarray(values), 0.0
    import ml_dtypes

    rounded = values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16)
    largest = float(np.abs(values).max(initial=0.0))
    distance = float(np.abs(rounded.astype(np.float32) - values).max(initial=0.0))
    return rounded, distance / largest if largest else 0.0


def _save(path: Path, tensors: dict[str, npt.NDArray[Any]]) -> None:
    from safetensors.numpy import save_file

    # transformers refuses a file whose metadata does not name the framework.
    save_file(tensors, path, metadata={"format": "pt"})
    # It writes through a temporary file that only its owner may read.
    path.chmod(0o644)
