"""`config.json` and `generation_config.json` of a GGUF file's model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from throughline.contracts.errors import CheckpointError
from throughline.conversion.gguf_file import GgufFile
from throughline.conversion.weights import ROPE_FACTORS

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
ARCHITECTURES = ("llama", "qwen2", "qwen3")
# Llama 3.1's and 3.2's RoPE scaling: all of their checkpoints share these three; the factor is in the tensor.
_LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def model_config(source: GgufFile, *, dtype: str) -> dict[str, Any]:
    """Returns what `config.json` says, spelled as transformers 4 and 5 both read it.

    Raises:
        CheckpointError: If the architecture, its experts or its RoPE scaling is none that we support.
    """
    architecture = source.architecture
    if architecture not in ARCHITECTURES:
        raise _refuse(source, "architecture is not supported", "general.architecture", architecture)
    if source.find(f"{architecture}.expert_count", int, 0):
        raise _refuse(source, "mixture of experts is not supported", f"{architecture}.expert_count", "experts")
    window = source.find(f"{architecture}.attention.sliding_window", int, 0)
    # llama.cpp calls Mistral a llama; only the window tells them apart.
    family = "mistral" if architecture == "llama" and window else architecture
    heads = source.size("attention.head_count")
    hidden = source.size("embedding_length")
    bias = "blk.0.attn_q.bias" in source.tensors
    config: dict[str, Any] = {
        "architectures": [CLASSES[family]],
        "attention_bias": bias,
        "attention_dropout": 0.0,
        "bos_token_id": source.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": source.metadata.get("tokenizer.ggml.eos_token_id"),
        "head_dim": source.find(
            f"{architecture}.attention.key_length",
            int,
            source.find(f"{architecture}.rope.dimension_count", int, hidden // heads),
        ),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": source.size("feed_forward_length"),
        "max_position_embeddings": source.size("context_length"),
        "model_type": family,
        "num_attention_heads": heads,
        "num_hidden_layers": source.size("block_count"),
        "num_key_value_heads": source.find(f"{architecture}.attention.head_count_kv", int, heads),
        "pad_token_id": source.metadata.get("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": shortest_float32(source.require(f"{architecture}.attention.layer_norm_rms_epsilon", float)),
        "rope_theta": shortest_float32(source.find(f"{architecture}.rope.freq_base", float, 10000.0)),
        "tie_word_embeddings": "output.weight" not in source.tensors,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": int(source.tensors["token_embd.weight"].shape[-1]),
    }
    scaling = _rope_scaling(source, config["head_dim"], config["rope_theta"])
    if scaling is not None:
        config["rope_scaling"] = scaling
    if family == "mistral":
        config["sliding_window"] = window
    if family == "qwen2":
        # Qwen2 has biases on queries, keys and values without saying so.
        del config["attention_bias"]
    return config


def generation_config(source: GgufFile, template_end: int | None) -> dict[str, Any]:
    """Returns what `generation_config.json` says.

    Args:
        source: The GGUF file.
        template_end: Token that ends a turn in the chat template, if it is one token.
    """
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    ends = [source.metadata.get(f"tokenizer.ggml.{key}") for key in keys]
    unique = list(dict.fromkeys(end for end in [*ends, template_end] if end is not None))
    values = {
        "bos_token_id": source.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": unique[0] if len(unique) == 1 else unique,
        "pad_token_id": source.metadata.get("tokenizer.ggml.padding_token_id"),
    }
    return {key: value for key, value in values.items() if value not in (None, [])}


def shortest_float32(value: float) -> float:
    """Returns the number with the fewest digits that is the same in float32: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _rope_scaling(source: GgufFile, head_dim: int, theta: float) -> dict[str, Any] | None:
    architecture = source.architecture
    kind = source.find(f"{architecture}.rope.scaling.type", str, "none")
    if kind == "linear":
        factor = shortest_float32(source.require(f"{architecture}.rope.scaling.factor", float))
        return {"rope_type": "linear", "factor": factor}
    if kind != "none":
        raise _refuse(source, "RoPE scaling is not supported", f"{architecture}.rope.scaling.type", kind)
    if ROPE_FACTORS not in source.tensors:
        return None
    stored = np.asarray(source.tensors[ROPE_FACTORS].data, dtype=np.float64)
    # The factor itself stands where wavelengths are long; the comparison below says whether it was understood.
    scaling = {"rope_type": "llama3", "factor": round(float(stored.max()), 3), **_LLAMA3_ROPE}
    expected = _llama3_factors(head_dim, theta, scaling)
    if stored.shape != expected.shape or not np.allclose(stored, expected, rtol=1e-4):
        raise _refuse(source, "RoPE factors are not Llama 3's", ROPE_FACTORS, np.array2string(stored, threshold=4))
    return scaling


def _llama3_factors(head_dim: int, theta: float, scaling: dict[str, Any]) -> npt.NDArray[np.float64]:
    """By how much Llama 3 divides each frequency: not at all, by the factor, or between the two."""
    frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    factors: npt.NDArray[np.float64] = 1.0 / ((1 - smooth) / scaling["factor"] + smooth)
    return factors


def _refuse(source: GgufFile, what: str, key: str, seen: object) -> CheckpointError:
    return CheckpointError(
        what,
        where=f"{source.path}:{key}",
        seen=seen,
        fix=f"choose a dense model of {', '.join(ARCHITECTURES)} (Mistral files are llama)",
    )
