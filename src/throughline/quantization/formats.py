"""ModelOpt's configurations by the names of a `QuantSpec`."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

from throughline.contracts.errors import EngineError
from throughline.contracts.quantization import QuantSpec

_CONFIGS = {
    "fp8": "FP8_DEFAULT_CFG",
    "int8_sq": "INT8_SMOOTHQUANT_CFG",
    "int8": "INT8_WEIGHT_ONLY_CFG",
    "int4": "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
    "int4_awq": "INT4_AWQ_CFG",
    "w4a8_awq": "W4A8_AWQ_BETA_CFG",
    "nvfp4": "NVFP4_DEFAULT_CFG",
    "mxfp8": "MXFP8_DEFAULT_CFG",
}
_KV_CONFIGS = {"fp8": "FP8_KV_CFG", "nvfp4": "NVFP4_KV_CFG"}
# Formats that round weights, or scale activations as they come: records change nothing.
_DATA_FREE = frozenset({"int8", "int4", "mxfp8"})
# Formats in blocks of 128 along a layer's inputs.
BLOCKS_OF_128 = frozenset({"int4", "int4_awq", "w4a8_awq"})


def configuration(spec: QuantSpec) -> dict[str, Any]:
    """Returns what `mtq.quantize` takes.

    Raises:
        EngineError: If ModelOpt refuses the recipe.
    """
    import copy

    import modelopt.torch.quantization as mtq

    if spec.recipe is not None:
        config = _recipe(spec)
    else:
        config = copy.deepcopy(getattr(mtq, _CONFIGS[spec.qformat]))
        if spec.kv_cache_qformat != "none":
            # Exported by itself a KV configuration fails, merged into one of weights it does not (ModelOpt 0.47).
            config["quant_cfg"] += copy.deepcopy(getattr(mtq, _KV_CONFIGS[spec.kv_cache_qformat])["quant_cfg"])
    for pattern in spec.exclude_modules:
        config["quant_cfg"].append({"quantizer_name": f"{pattern.rstrip('*')}*", "enable": False})
    return config


def _recipe(spec: QuantSpec) -> dict[str, Any]:
    from modelopt.recipe import load_recipe

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            recipe = load_recipe(str(spec.recipe))
        quantize = recipe.quantize
    except Exception as error:
        raise EngineError(
            "ModelOpt does not take this recipe",
            where="quantize.recipe",
            seen=f"{spec.recipe}: {error}",
            fix="give a PTQ recipe of ModelOpt's, e.g. general/ptq/fp8_default-kv_fp8",
        ) from None
    values: dict[str, Any] = (
        quantize.model_dump(exclude_unset=True) if hasattr(quantize, "model_dump") else dict(quantize)
    )
    return values


def is_computable(spec: QuantSpec, device: str) -> bool:
    """Returns whether a quantised model can be run on a device.

    Raises:
        EngineError: If ModelOpt refuses the recipe.
    """
    return device != "cpu" or not any(map(_has_scaled_blocks, configuration(spec)["quant_cfg"]))


def _has_scaled_blocks(entry: Mapping[str, Any]) -> bool:
    """Whether blocks have scales in FP8 or E8M0 (NVFP4, MXFP8 and their kin).

    Their arithmetic is written for GPUs alone (ModelOpt 0.47): quantising works on a CPU, a forward pass does not.
    """
    parts = entry.get("cfg") or {}
    parts = parts if isinstance(parts, list) else [parts]
    return any("scale_bits" in (part.get("block_sizes") or {}) for part in parts)


def is_calibrated(spec: QuantSpec) -> bool:
    """Returns whether records change what comes of it, as far as the format's name says."""
    return spec.recipe is not None or spec.qformat not in _DATA_FREE or spec.kv_cache_qformat != "none"
