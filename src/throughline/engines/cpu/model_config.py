"""What `config.json` says about a decoder, and the refusal of everything that the graph builder cannot do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from throughline.contracts.checkpoint import FAMILIES, DecoderSizes
from throughline.contracts.errors import CheckpointError, EngineError

_ROPE_TYPES = ("default", "linear", "llama3")
_FIX = "choose a dense Llama, Mistral, Qwen2 or Qwen3 checkpoint, or another back end"


@dataclass(frozen=True)
class DecoderConfig:
    """The facts that decide the graph of a dense decoder with rotary embeddings and RMSNorm.

    Attributes:
        max_seq_len: Longest sequence that the engine will run.
        inverse_frequencies: RoPE's table, float64, `head_dim / 2` values, scaling applied.
        tied: Whether the output head is the embedding; None leaves it to the tensors.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    max_seq_len: int
    rms_norm_eps: float
    inverse_frequencies: npt.NDArray[np.float64]
    tied: bool | None

    @property
    def query_key_norm(self) -> bool:
        """Whether queries and keys are normalised per head (Qwen3)."""
        return self.architecture == "qwen3"


def read_decoder_config(values: Mapping[str, Any], max_seq_len: int) -> DecoderConfig:
    """Reads a `config.json` as transformers 4 and 5 write it.

    Args:
        values: The parsed file.
        max_seq_len: Longest sequence that the engine will run; a sliding window may not be shorter.

    Raises:
        EngineError: Naming the key that the builder cannot honour.
        CheckpointError: If a value is missing or makes no sense.
    """
    try:
        return _read(values, max_seq_len)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            "config.json has a value that makes no sense",
            where="config.json",
            seen=repr(error),
            fix="take the config.json that belongs to these weights",
        ) from error


def _read(values: Mapping[str, Any], max_seq_len: int) -> DecoderConfig:
    family = str(values.get("model_type"))
    if family not in FAMILIES:
        raise _refuse("model family is not supported", "model_type", values.get("model_type"))
    if values.get("quantization_config"):
        method = dict(values["quantization_config"]).get("quant_method")
        raise _refuse(
            "checkpoint is quantised already",
            "quantization_config",
            method,
            "give the unquantised checkpoint",
        )
    if values.get("hidden_act", "silu") not in {"silu", "swish"}:
        raise _refuse("activation is not supported", "hidden_act", values["hidden_act"])
    _check_attention(values, family, max_seq_len)
    sizes = DecoderSizes.of(values, where="config.json")
    positions = sizes.positions
    if max_seq_len > positions:
        raise EngineError(
            "max_seq_len is longer than the model's context",
            where="config.json:max_position_embeddings",
            seen=f"max_seq_len={max_seq_len}, max_position_embeddings={positions}",
            fix=f"set max_seq_len to at most {positions}",
        )
    return DecoderConfig(
        architecture=family,
        vocab_size=sizes.vocab,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        max_position_embeddings=positions,
        max_seq_len=max_seq_len,
        rms_norm_eps=float(values.get("rms_norm_eps", 1e-6)),
        inverse_frequencies=_inverse_frequencies(values, sizes.head_dim),
        tied=sizes.tied,
    )


def _check_attention(values: Mapping[str, Any], family: str, max_seq_len: int) -> None:
    window = values.get("sliding_window")
    # Qwen configs carry a window that is off unless use_sliding_window says otherwise.
    used = bool(values.get("use_sliding_window")) if family.startswith("qwen") else True
    if window is not None and used and int(window) < max_seq_len:
        raise _refuse(
            "sliding-window attention is not supported",
            "sliding_window",
            window,
            f"set max_seq_len to at most {window}, where the window makes no difference",
        )
    other = sorted({str(kind) for kind in values.get("layer_types") or ()} - {"full_attention"})
    if other and not (other == ["sliding_attention"] and window is not None and int(window) >= max_seq_len):
        raise _refuse("layer type is not supported", "layer_types", ", ".join(other))


def _inverse_frequencies(values: Mapping[str, Any], head_dim: int) -> npt.NDArray[np.float64]:
    """RoPE (Su et al. 2021) with the scalings of transformers' `modeling_rope_utils`, in float64."""
    key = "rope_parameters" if values.get("rope_parameters") else "rope_scaling"
    rope = dict(values.get(key) or {})
    if any(isinstance(item, Mapping) for item in rope.values()):
        raise _refuse("rotary embedding differs between layers", key, ", ".join(rope))
    kind = str(rope.get("rope_type") or rope.get("type") or "default")
    if kind not in _ROPE_TYPES:
        raise _refuse("rotary scaling is not supported", f"{key}.rope_type", kind)
    partial = float(rope.get("partial_rotary_factor") or values.get("partial_rotary_factor") or 1.0)
    if partial != 1.0:
        raise _refuse("partial rotary embedding is not supported", "partial_rotary_factor", partial)
    theta = float(rope.get("rope_theta") or values.get("rope_theta") or 10000.0)
    table = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if kind == "linear":
        return table / float(rope["factor"])
    return _llama3(table, rope) if kind == "llama3" else table


def _llama3(table: npt.NDArray[np.float64], rope: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Llama 3.1's scaling: long wavelengths divided by `factor`, short ones kept, a ramp between."""
    factor, low, high = (float(rope[name]) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    turns = float(rope["original_max_position_embeddings"]) * table / (2 * math.pi)
    ramp = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 - ramp) * table / factor + ramp * table


def eos_token_ids(config: Mapping[str, Any], generation: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the end-of-sequence ids: `generation_config.json` first, else `config.json`.

    Raises:
        EngineError: If neither names one.
    """
    for source in (generation, config):
        value = source.get("eos_token_id")
        if value is not None:
            return tuple(int(item) for item in (value if isinstance(value, list) else [value]))
    raise EngineError(
        "checkpoint names no end-of-sequence token",
        where="generation_config.json:eos_token_id",
        fix="set eos_token_id in generation_config.json",
    )


def _refuse(what: str, key: str, seen: object, fix: str = _FIX) -> EngineError:
    return EngineError(what, where=f"config.json:{key}", seen=seen, fix=fix)
