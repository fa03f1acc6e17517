"""Tiny GGUF files, written with the gguf package from random Hugging Face models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "vocab_size": 2048,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.2,
}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
WHOLE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


@dataclass
class Contents:
    """What goes into a file; tests change it before writing."""

    architecture: str
    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    quantised: bool = False

    def write(self, path: Path) -> Path:
        """Writes the file; matrices as Q8_0 if `quantised`."""
        import gguf

        writer = gguf.GGUFWriter(path, self.architecture)
        for key, value in self.metadata.items():
            _add(writer, key, value)
        for name, values in self.tensors.items():
            if self.quantised and values.ndim == 2:
                kind = gguf.GGMLQuantizationType.Q8_0
                writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
            else:
                writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def contents(architecture: str, tokenizer_dir: Path, *, tied: bool = True, **config: Any) -> tuple[Contents, Any]:
    """A random model as GGUF contents, and the same model in transformers as the oracle."""
    import torch
    import transformers

    torch.manual_seed(3)
    kind = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[architecture]
    settings = getattr(transformers, f"{kind}Config")(**SIZES, head_dim=16, tie_word_embeddings=tied, **config)
    model = getattr(transformers, f"{kind}ForCausalLM")(settings).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" in name or name.endswith(".bias"):
                tensor.add_(0.3 * torch.randn_like(tensor))
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        values = tensor.float().numpy().copy()
        if architecture == "llama" and "q_proj" in name:
            values = neighbours(values, SIZES["num_attention_heads"])
        if architecture == "llama" and "k_proj" in name:
            values = neighbours(values, SIZES["num_key_value_heads"])
        tensors[gguf_name(name)] = values
    metadata = {**sizes(architecture), **tokenizer_metadata(tokenizer_dir)}
    return Contents(architecture, metadata, tensors), model


def gguf_name(name: str) -> str:
    """The GGUF name of a Hugging Face tensor."""
    if name in WHOLE or name == "lm_head.weight":
        return WHOLE.get(name, "output.weight")
    _, _, layer, rest = name.split(".", 3)
    part, _, suffix = rest.rpartition(".")
    return f"blk.{layer}.{NAMES[part]}.{suffix}"


def neighbours(values: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """The row order that llama.cpp's converter gives queries and keys (`LlamaModel.permute`)."""
    rows = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(values.shape)


def sizes(architecture: str) -> dict[str, Any]:
    """The keys of a model's sizes."""
    return {
        f"{architecture}.{key}": value
        for key, value in {
            "block_count": SIZES["num_hidden_layers"],
            "context_length": SIZES["max_position_embeddings"],
            "embedding_length": SIZES["hidden_size"],
            "feed_forward_length": SIZES["intermediate_size"],
            "attention.head_count": SIZES["num_attention_heads"],
            "attention.head_count_kv": SIZES["num_key_value_heads"],
            "attention.key_length": 16,
            "attention.value_length": 16,
            "attention.layer_norm_rms_epsilon": SIZES["rms_norm_eps"],
            "rope.freq_base": 10000.0,
            "rope.dimension_count": 16,
        }.items()
    }


def tokenizer_metadata(folder: Path, pre: str = "smollm") -> dict[str, Any]:
    """The vocabulary of a folder's byte-level tokenizer."""
    values: Mapping[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = values["model"]["vocab"]
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    special = {item["content"] for item in values["added_tokens"] if item["special"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in values["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }
